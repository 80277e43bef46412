"""Moving bytes from one stream to another, with back-pressure.

Bytes are copied at first, which is cheapest for small exchanges. Once a read fills its buffer
the rest goes through ``splice``: the kernel moves pages from socket to pipe to socket, and they
never enter this process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Final

from nodeproxy.dataplane.stream import Stream

__all__ = ["UNBOUNDED", "Bytes", "pump"]

UNBOUNDED: Final = 1 << 62
"""As ``limit``: until the source's end."""
COPY_SIZE: Final = 65536
PIPE_SIZE: Final = 262144
_FLAGS: Final = 1 | 2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK, linux/splice.h
_SPARE_PIPES: Final = 64


class Bytes:
    """Counts bytes while they move, so that a failure half-way is told rightly."""

    __slots__ = ("moved", "value")

    def __init__(self) -> None:
        self.value = 0
        self.moved = 0.0
        """When a pump last counted something here, in the reactor's time."""


class Pipe:
    """A pipe that carries spliced bytes. It is empty whenever it is not in use."""

    __slots__ = ("inlet", "outlet")
    _spare: list[Pipe] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.outlet, self.inlet = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(PermissionError):  # over the user's limit: smaller serves too
            fcntl.fcntl(self.inlet, fcntl.F_SETPIPE_SZ, PIPE_SIZE)

    @classmethod
    def take(cls) -> Pipe:
        return cls._spare.pop() if cls._spare else cls()

    def give_back(self, *, empty: bool) -> None:
        if empty and len(self._spare) < _SPARE_PIPES:
            self._spare.append(self)
        else:
            os.close(self.inlet)
            os.close(self.outlet)


async def pump(
    source: Stream,
    target: Stream,
    limit: int,
    timeout: float,
    meter: Bytes,
    until: float = float("inf"),
) -> int:
    """Move bytes until ``limit`` of them have gone or the source has ended.

    Returns the number moved (less than ``limit``: the source ended). Raises the faults of the
    side that is broken, or that neither gives nor takes anything for ``timeout`` seconds;
    ``meter`` then tells how much had gone. When the source is late nothing is lost: the pump
    can be started again. The source is late, too, when it has more to give at ``until``, in the
    reactor's time.
    """
    reactor = source.reactor
    left = limit
    while left:
        wait = until - reactor.now
        data = await source.recv(
            timeout if timeout < wait else max(wait, 0.0), COPY_SIZE if left > COPY_SIZE else left
        )
        if not data:
            return limit - left
        await target.send(data, timeout)
        size = len(data)
        meter.value += size
        meter.moved = reactor.now
        left -= size
        if size == COPY_SIZE and left > COPY_SIZE:
            try:
                pipe = Pipe.take()
            except OSError:
                continue  # out of descriptors: copying needs none
            return limit - left + await _splice(source, target, left, timeout, meter, until, pipe)
    return limit


async def _splice(
    source: Stream,
    target: Stream,
    limit: int,
    timeout: float,
    meter: Bytes,
    until: float,
    pipe: Pipe,
) -> int:
    """As pump, through ``pipe``, which is given back."""
    reactor = source.reactor
    left = limit
    inside = 0
    try:
        while left:
            wait = until - reactor.now
            await source.readable(timeout if timeout < wait else max(wait, 0.0))
            try:
                inside = os.splice(
                    source.fd, pipe.inlet, PIPE_SIZE if left > PIPE_SIZE else left, flags=_FLAGS
                )
            except BlockingIOError:
                continue
            except OSError as error:
                raise source.faults.broken(f"reading: {error.strerror}") from error
            if not inside:
                break
            left -= inside
            late = reactor.now + timeout
            while inside:
                try:
                    moved = os.splice(pipe.outlet, target.fd, inside, flags=_FLAGS)
                except BlockingIOError:
                    await target.writable(target.patience(timeout, late))
                    continue
                except OSError as error:
                    raise target.faults.broken(f"writing: {error.strerror}") from error
                inside -= moved
                meter.value += moved
                meter.moved = reactor.now
        return limit - left
    finally:
        pipe.give_back(empty=not inside)
