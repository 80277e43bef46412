"""The reactor: one epoll descriptor that one trio task hosts.

An epoll descriptor is itself pollable. The host waits for it with
``trio.lowlevel.wait_readable`` and then drains what is ready in bounded synchronous sweeps, so
trio's scheduling is paid once a sweep and not once a read. Sockets are registered once,
level-triggered; their lanes are resumed straight from the sweep.

The contract:

* All methods are called from the one thread. ``now`` is the monotonic time at which the sweep
  began; it is the clock of all deadlines.
* A descriptor that a lane closes is closed at the end of the batch: else the number could be
  used again by an ``accept`` while the batch still holds an event of its predecessor.
* A sweep takes at most ``BATCH`` events, and the host returns to trio after ``BUDGET`` seconds,
  so that registries, the admin API and the heartbeat are never starved by traffic.
* ``every`` calls a function regularly from this very loop: a loop that hangs calls nothing,
  which is what makes the dead-man's switch honest.
* What a pollable, a periodic call or a lane lets escape is a bug of that one: it is reported
  to ``on_crash``, and the sweep goes on with the others.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import trio

from nodeproxy.dataplane.lane import Closable, Lane, LaneGroup
from nodeproxy.dataplane.timers import TICK, Wheel

__all__ = ["Pollable", "Reactor"]

BATCH = 64
"""Events taken from the kernel at once: at some 30 us each, two milliseconds of work."""
BUDGET = 0.003
"""Seconds of sweeping before trio's other tasks have their turn."""


class Pollable(Protocol):
    """What is registered: a stream or a listener."""

    def on_event(self, events: int) -> None:
        """The descriptor has these epoll events. Must not raise and must not block."""


class _Periodic:
    __slots__ = ("call", "due", "interval")

    def __init__(self, interval: float, call: Callable[[], None], due: float) -> None:
        self.interval = interval
        self.call = call
        self.due = due


class Reactor:
    """One epoll, its lanes and their deadlines; see the module's text."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.now = clock()
        self.wheel = Wheel(self.now)
        self.lane: Lane | None = None
        """The lane that is running; None between steps."""
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        # By descriptor: these are small numbers, and a slot takes a tenth of a dict's entry.
        self._pollables: list[Pollable | None] = []
        self.watched = 0
        """How many descriptors are registered."""
        self._closing: list[socket.socket] = []
        self._soon: deque[Callable[[], None]] = deque()
        self._in_batch = False
        self._periodic: list[_Periodic] = []
        self.on_crash: Callable[[Exception], None] = _reraise
        """Told of an exception that left a lane or a callback: a bug. By default it is raised,
        and ends the host."""
        self.on_lag: Callable[[float], None] = _ignore
        """Told at every tick by how many seconds the tick was late: the loop's stall."""

    def fileno(self) -> int:
        """The epoll's descriptor: readable when a sweep has something to do."""
        return self._epoll.fileno()

    # -- descriptors ---------------------------------------------------------------------

    def register(self, fd: int, pollable: Pollable, mask: int) -> None:
        """Tell ``pollable`` of the events in ``mask``, level-triggered."""
        self._epoll.register(fd, mask)
        pollables = self._pollables
        if fd >= len(pollables):
            pollables.extend([None] * (fd + 64 - len(pollables)))
        pollables[fd] = pollable
        self.watched += 1

    def watch(self, fd: int, pollable: Pollable, mask: int) -> None:
        """Change the events of a descriptor; registers it when it was not."""
        if fd < len(self._pollables) and self._pollables[fd] is not None:
            self._epoll.modify(fd, mask)
        else:
            self.register(fd, pollable, mask)

    def unregister(self, fd: int) -> None:
        """Forget a descriptor. Harmless when it is not registered."""
        pollables = self._pollables
        if 0 <= fd < len(pollables) and pollables[fd] is not None:
            pollables[fd] = None
            self.watched -= 1
            self._epoll.unregister(fd)

    def close_later(self, sock: socket.socket) -> None:
        """Forget the socket now, close it at the end of the batch."""
        self.unregister(sock.fileno())
        self._closing.append(sock)
        if not self._in_batch:
            self._close_all()

    # -- lanes ---------------------------------------------------------------------------

    def spawn(
        self, coro: Coroutine[Any, Any, None], group: LaneGroup, owns: Closable | None = None
    ) -> Lane:
        """Begin a lane: it runs at once, to its first wait. What it owns is closed at its end."""
        lane = Lane(self, coro, group, owns)
        lane.step()
        return lane

    def soon(self, call: Callable[[], None]) -> None:
        """Call ``call`` at the end of the batch, when no lane is running. The world may have
        moved on by then: it has to look whether what it is for still holds."""
        self._soon.append(call)

    def every(self, interval: float, call: Callable[[], None]) -> None:
        """Call ``call`` each ``interval`` seconds (rounded up to a tick) from this loop."""
        self._periodic.append(_Periodic(interval, call, self._clock() + interval))

    # -- turning -------------------------------------------------------------------------

    def sweep(self) -> int:
        """Handle at most BATCH events without waiting. Returns their number."""
        self.now = self._clock()
        self._in_batch = True
        events = self._poll(0, BATCH)
        pollables = self._pollables
        for fd, mask in events:
            pollable = pollables[fd]
            if pollable is not None:
                try:
                    pollable.on_event(mask)
                except Exception as error:
                    self.on_crash(error)
        if self._soon or self._closing:
            self._end_batch()
        self._in_batch = False
        return len(events)

    def tick(self) -> None:
        """Let deadlines expire and call what is due. The host calls it every TICK seconds."""
        self.now = now = self._clock()
        self._in_batch = True
        self.wheel.advance(now, _expire)
        for periodic in self._periodic:
            if periodic.due <= now:
                periodic.due += periodic.interval
                if periodic.due <= now:  # a stall: what was missed is not made up for
                    periodic.due = now + periodic.interval
                try:
                    periodic.call()
                except Exception as error:
                    self.on_crash(error)
        self._end_batch()
        self._in_batch = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Host the reactor until cancelled. Lanes are the caller's to cancel."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick_forever)
            task_status.started()
            fd = self.fileno()
            wait_readable = trio.lowlevel.wait_readable
            clock = self._clock
            sweep = self.sweep
            while True:
                await wait_readable(fd)
                until = clock() + BUDGET
                while sweep() and self.now < until:
                    pass

    async def _tick_forever(self) -> None:
        due = self._clock() + TICK
        while True:
            await trio.sleep(max(0.0, due - self._clock()))
            now = self._clock()
            self.on_lag(now - due)
            self.tick()
            due = max(due + TICK, self._clock())

    def close(self) -> None:
        """Close the epoll descriptor. Every lane has to be finished."""
        self._end_batch()
        self._epoll.close()

    def _end_batch(self) -> None:
        soon = self._soon
        while soon:
            try:
                soon.popleft()()
            except Exception as error:
                self.on_crash(error)
        self._close_all()

    def _close_all(self) -> None:
        closing = self._closing
        while closing:
            closing.pop().close()


def _expire(lane: Any) -> None:
    lane.expire()


def _reraise(error: Exception) -> None:
    raise error


def _ignore(_lag: float) -> None:
    pass
