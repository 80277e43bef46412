"""How often and when something is tried again: the budget of a service, and the wait before.

Retries help where one endpoint fails, and harm where all do: each then adds to what is too much
already. So a service's retries are a share of its requests, with a floor for services that have
few (Gateway API, gep-3388; Linkerd's and Envoy's budgets mean the same).
"""

from __future__ import annotations

from typing import Final

__all__ = ["Budget", "wait_before"]

SLOTS: Final = 10
"""Parts of the window that expire one by one."""


class Budget:
    """Counts the requests and retries of one service. ``now`` is monotonic seconds."""

    __slots__ = ("_at", "_floor", "_floor_count", "_floor_second", "_requests", "_retries",
                 "_share", "_slot", "_total_requests", "_total_retries")  # fmt: skip

    def __init__(self, percent: int = 20, interval: float = 10.0, floor: int = 10) -> None:
        """At most ``percent`` retries for 100 requests of the last ``interval`` seconds; ``floor``
        a second are always allowed."""
        self._share = percent / 100
        self._slot = interval / SLOTS
        self._floor = floor
        self._floor_second = -1
        self._floor_count = 0
        self._requests = [0] * SLOTS
        self._retries = [0] * SLOTS
        self._total_requests = self._total_retries = 0
        self._at = 0

    def request(self, now: float) -> None:
        """A request begins."""
        at = self._turn(now)
        self._requests[at] += 1
        self._total_requests += 1

    def admit(self, now: float) -> bool:
        """Whether another try may begin now; it counts from its decision on."""
        at = self._turn(now)
        second = int(now)
        if second != self._floor_second:
            self._floor_second, self._floor_count = second, 0
        if (
            self._floor_count >= self._floor
            and self._total_retries >= self._share * self._total_requests
        ):
            return False
        self._floor_count += 1
        self._retries[at] += 1
        self._total_retries += 1
        return True

    def _turn(self, now: float) -> int:
        """Forget what is older than the window. Returns the slot of ``now``."""
        index = int(now / self._slot)
        if index != self._at:
            for old in range(max(self._at + 1, index - SLOTS + 1), index + 1):
                slot = old % SLOTS
                self._total_requests -= self._requests[slot]
                self._total_retries -= self._retries[slot]
                self._requests[slot] = self._retries[slot] = 0
            self._at = index
        return index % SLOTS


def wait_before(retry: int, least: float, most: float, drawn: float) -> float:
    """Seconds before the ``retry``-th retry (from 0): doubled each time, and spread by up to half
    so that clients that failed together do not come back together; never below ``least``.
    ``drawn``: a random number in [0, 1)."""
    longer: float = least * 2 ** min(retry, 32) * (1 + drawn / 2)
    return max(least, min(longer, most))
