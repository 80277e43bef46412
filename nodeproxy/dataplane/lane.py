"""Lanes: straight-line coroutines that the reactor drives.

The contract:

* A lane is one coroutine. It awaits the methods of :class:`~nodeproxy.dataplane.stream.Stream`,
  :func:`~nodeproxy.dataplane.stream.connect`, :func:`sleep` and :meth:`Lane.join`, and nothing
  else: never a trio function. Trio tasks never await a lane; both run in one thread, so they
  hand over by plain calls.
* A lane runs until it awaits something that is not ready. Nobody else runs meanwhile.
* Every wait has a deadline. When it passes, :class:`TimedOut` is raised at the await.
* :meth:`Lane.cancel` raises :class:`Cancelled` (a ``BaseException``) at the await, or before
  the first step of a lane that has not begun. The lane closes what it owns in ``finally`` and
  may await there no more. Cancelling a finished lane, or twice, is harmless.
* A lane that is running, or that waits for a lane it is just starting, cannot be thrown into
  at once: the error is raised where it waits when the batch ends.
* A lane belongs to a :class:`LaneGroup`, through which drain and shutdown reach it.
* An exception that leaves a lane other than ``Cancelled`` is a bug: it is reported to the
  reactor's ``on_crash`` and harms no other lane.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from math import inf
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from nodeproxy.core.errors import ProxyError

if TYPE_CHECKING:
    from nodeproxy.dataplane.reactor import Reactor
    from nodeproxy.dataplane.timers import Timed

__all__ = ["Cancelled", "Closable", "Companion", "Lane", "LaneGroup", "TimedOut", "sleep"]

T = TypeVar("T")


class Cancelled(BaseException):
    """The lane is told to end. Not an error: ``except Exception`` does not see it."""


class TimedOut(Exception):
    """The deadline of a wait has passed. The caller knows what was waited for."""


class Closable(Protocol):
    """What a lane can own."""

    def close(self) -> None:
        """Must not raise."""


class Lane:
    """One coroutine on the reactor; see the module's text for its contract."""

    __slots__ = (
        "_coro",
        "_joiner",
        "asleep",
        "bucket",
        "deadline",
        "done",
        "group",
        "look_at",
        "owns",
        "reactor",
    )

    def __init__(
        self,
        reactor: Reactor,
        coro: Coroutine[Any, Any, None],
        group: LaneGroup,
        owns: Closable | None = None,
    ) -> None:
        self.reactor = reactor
        self.group = group
        self._coro: CoroutineType[Any, Any, None] = coro  # type: ignore[assignment]
        self._joiner: Lane | None = None
        self.owns = owns
        """Closed when the lane has ended, however it ends. (A ``finally`` in one more coroutine
        around it would do the same, for 250 bytes of every idle connection.)"""
        self.asleep = False
        self.done = False
        self.deadline = inf
        self.look_at = inf
        self.bucket: set[Timed] | None = None
        group.lanes.add(self)

    def step(self) -> None:
        """Run the lane to its next await. Called by the reactor and by streams."""
        reactor = self.reactor
        outer = reactor.lane
        reactor.lane = self
        try:
            self._coro.send(None)
        except StopIteration:
            self._finish()
        except BaseException as error:
            self._crash(error)
        finally:
            reactor.lane = outer

    def throw(self, error: BaseException) -> None:
        """Raise ``error`` where the lane waits, and run it to its next await."""
        if self.done:
            return
        reactor = self.reactor
        if self._coro.cr_running:
            reactor.soon(partial(self.throw, error))
            return
        outer = reactor.lane
        reactor.lane = self
        self.asleep = False
        try:
            self._coro.throw(error)
        except StopIteration:
            self._finish()
        except BaseException as left:
            self._crash(left)
        finally:
            reactor.lane = outer

    @property
    def running(self) -> bool:
        """True while it runs, or runs another lane."""
        return self._coro.cr_running

    def cancel(self) -> None:
        """Raise Cancelled where the lane waits. Harmless when it has finished."""
        self.throw(Cancelled())

    def hurry(self, deadline: float) -> None:
        """Let the present wait end at ``deadline``, if it would last longer."""
        if deadline < self.deadline:
            self.deadline = deadline
            if deadline < self.look_at:
                self.reactor.wheel.arm(self)

    def expire(self) -> None:
        """The deadline has passed: wake a sleeper, or raise TimedOut where the lane waits."""
        self.deadline = inf
        if self.asleep:
            self.asleep = False
            self.step()
        else:
            self.throw(TimedOut())

    @types.coroutine
    def join(self) -> Generator[None, None, None]:
        """Wait until this lane has finished, however it ends. One lane may wait at a time."""
        me = self.reactor.lane
        assert me is not None, "join is awaited by lanes only"
        me.deadline = inf
        while not self.done:
            self._joiner = me
            try:
                yield
            finally:
                self._joiner = None

    def _finish(self) -> None:
        self.done = True
        owns = self.owns
        if owns is not None:
            self.owns = None
            owns.close()
        if self.bucket is not None:
            self.bucket.discard(self)
            self.bucket = None
        self.group.lanes.discard(self)
        if self._joiner is not None:
            # Not now: the joiner would run inside whoever ended this lane.
            self.reactor.soon(self._wake)
        on_empty = self.group.on_empty
        if on_empty is not None and not self.group.lanes:
            on_empty()

    def _wake(self) -> None:
        if self._joiner is not None:  # else it was told to do something else meanwhile
            self._joiner.step()

    def _crash(self, error: BaseException) -> None:
        self._finish()
        if isinstance(error, Exception):
            self.reactor.on_crash(error)
        elif not isinstance(error, Cancelled):
            raise error  # KeyboardInterrupt and its kin are the host's


class LaneGroup:
    """The lanes that end together: those of a listener, of a daemon, of a test."""

    __slots__ = ("lanes", "on_empty")

    def __init__(self) -> None:
        self.lanes: set[Lane] = set()
        self.on_empty: Callable[[], None] | None = None
        """Called each time the last lane has finished."""

    def cancel(self) -> None:
        """Cancel every lane of the group, also those that are started meanwhile. A lane that
        is running ends when the batch does."""
        while idle := [lane for lane in self.lanes if not lane.running]:
            for lane in idle:
                lane.cancel()
        for lane in list(self.lanes):
            lane.cancel()

    def __len__(self) -> int:
        return len(self.lanes)


class Companion(Generic[T]):
    """A second lane for the other direction of one connection.

    It begins at once. When it fails with a ProxyError, that is raised where the first lane
    waits, so that neither waits for a peer that is gone. The first lane ends it by ``join`` or
    ``cancel``; afterwards nothing of it reaches the first lane any more.
    """

    __slots__ = ("_ended", "_first", "done", "error", "lane", "result")

    def __init__(self, reactor: Reactor, group: LaneGroup, coro: Coroutine[Any, Any, T]) -> None:
        assert reactor.lane is not None, "a companion is of a lane"
        self._first = reactor.lane
        self._ended = False
        self.done = False
        """True when it has come to its end without an error."""
        self.error: ProxyError | None = None
        self.result: T | None = None
        self.lane = Lane(reactor, self._run(coro), group)
        self.lane.step()

    async def _run(self, coro: Coroutine[Any, Any, T]) -> None:
        try:
            self.result = await coro
            self.done = True
        except ProxyError as error:
            self.error = error
            self._first.reactor.soon(self._tell)

    def _tell(self) -> None:
        if not self._ended and self.error is not None:
            self._first.throw(self.error)

    async def join(self) -> T:
        """Wait for its end. Returns its result or raises its error."""
        await self.lane.join()
        self._ended = True
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]

    def cancel(self) -> None:
        """End it, if it has not ended."""
        self._ended = True
        self.lane.cancel()


@types.coroutine
def sleep(reactor: Reactor, seconds: float) -> Generator[None, None, None]:
    """Let others run for at least ``seconds`` (to the next tick of the wheel)."""
    lane = reactor.lane
    assert lane is not None, "sleep is awaited by lanes only"
    lane.asleep = True
    lane.deadline = reactor.now + seconds
    if lane.deadline < lane.look_at:
        reactor.wheel.arm(lane)
    try:
        yield
    finally:
        lane.asleep = False
