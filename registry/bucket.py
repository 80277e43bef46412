"""How often something may be done: a token bucket, as Consul asks of those who poll it."""

from __future__ import annotations

__all__ = ["Bucket"]


class Bucket:
    """``burst`` at once, then one every ``interval`` seconds."""

    __slots__ = ("_empty_at", "_interval", "_slack")

    def __init__(self, interval: float, burst: int = 2) -> None:
        self._interval = interval
        self._slack = interval * (burst - 1)
        self._empty_at = float("-inf")
        """When all tokens taken so far would have been paid for."""

    def take(self, now: float) -> float:
        """Take a token; the seconds to wait before it may be used."""
        begin = max(self._empty_at, now)
        self._empty_at = begin + self._interval
        return max(0.0, begin - self._slack - now)
