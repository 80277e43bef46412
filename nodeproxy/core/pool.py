"""The connections to one endpoint: a pure account of who holds which.

Every connection is in one state, and every transition is a method::

    (none) --connecting--> CONNECTING --connected--> LEASED --checkin--> IDLE --checkout--> LEASED
                               |                        |                  |
                               +--failed----------------+--discard---------+--lost, evict,
                                                                              expire--> (none)

The pool holds no socket: connections are opaque tokens that the caller opens and closes. What
a method returns has left the account, and the caller closes it. A lease that is cancelled ends
in ``failed`` or ``discard``: no slot is ever lost.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Pool"]

T = TypeVar("T", bound=Hashable)


class Pool(Generic[T]):
    """The account of one endpoint's connections. Times are monotonic seconds."""

    __slots__ = ("connecting", "idle", "leased", "max_idle")

    def __init__(self, max_idle: int) -> None:
        self.max_idle = max_idle
        self.connecting = 0
        self.leased = 0
        self.idle: dict[T, float] = {}
        """Idle connections, least recently used first, and since when."""

    @property
    def size(self) -> int:
        """All connections in the account."""
        return self.connecting + self.leased + len(self.idle)

    @property
    def load(self) -> int:
        """Those that carry a request or will."""
        return self.connecting + self.leased

    def checkout(self) -> T | None:
        """IDLE -> LEASED: the most recently used one; None if there is no idle one."""
        idle = self.idle
        if not idle:
            return None
        connection, _ = idle.popitem()
        self.leased += 1
        return connection

    def begin(self) -> None:
        """(none) -> CONNECTING: the caller is about to connect."""
        self.connecting += 1

    def connected(self) -> None:
        """CONNECTING -> LEASED."""
        self.connecting -= 1
        self.leased += 1

    def failed(self) -> None:
        """CONNECTING -> (none): refused, timed out or cancelled."""
        self.connecting -= 1

    def checkin(self, connection: T, now: float) -> T | None:
        """LEASED -> IDLE. Returns the connection that must be closed because there are too
        many idle ones: the least recently used."""
        self.leased -= 1
        idle = self.idle
        idle[connection] = now
        if len(idle) > self.max_idle:
            oldest = next(iter(idle))
            del idle[oldest]
            return oldest
        return None

    def discard(self) -> None:
        """LEASED -> (none): the connection cannot be used again."""
        self.leased -= 1

    def lost(self, connection: T) -> bool:
        """IDLE -> (none): the endpoint closed it. False if it was not idle."""
        return self.idle.pop(connection, None) is not None

    def evict(self) -> T | None:
        """IDLE -> (none): the least recently used one; None if there is no idle one."""
        for connection in self.idle:
            del self.idle[connection]
            return connection
        return None

    def expire(self, before: float) -> list[T]:
        """IDLE -> (none): those idle since ``before`` or longer."""
        old = []
        for connection, since in self.idle.items():
            if since > before:
                break
            old.append(connection)
        for connection in old:
            del self.idle[connection]
        return old
