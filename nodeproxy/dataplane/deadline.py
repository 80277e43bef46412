"""A time limit over several waits of a lane: for a whole request, or one try of it."""

from __future__ import annotations

from math import inf

from nodeproxy.core.errors import ProxyError
from nodeproxy.dataplane.lane import Lane
from nodeproxy.dataplane.reactor import Reactor
from nodeproxy.dataplane.timers import Timed

__all__ = ["Deadline"]


class Deadline:
    """Raises ``error`` where the lane that made it waits, when ``seconds`` have passed. Whoever
    made it ends it, with ``cancel``: afterwards nothing of it reaches the lane any more."""

    __slots__ = ("_error", "_lane", "_reactor", "bucket", "deadline", "look_at")

    def __init__(self, reactor: Reactor, seconds: float, error: ProxyError) -> None:
        assert reactor.lane is not None, "a deadline is of a lane"
        self._reactor = reactor
        self._lane: Lane | None = reactor.lane
        self._error = error
        self.deadline = reactor.now + seconds
        self.look_at = inf
        self.bucket: set[Timed] | None = None
        reactor.wheel.arm(self)

    def expire(self) -> None:
        """Called by the wheel: no lane is running."""
        lane, self._lane = self._lane, None
        if lane is not None:
            lane.throw(self._error)

    def raised(self, error: ProxyError) -> bool:
        """Whether it is this limit that ``error`` tells of."""
        return error is self._error

    def cancel(self) -> None:
        self._lane = None
        self._reactor.wheel.disarm(self)
