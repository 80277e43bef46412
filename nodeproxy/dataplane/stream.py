"""A TCP connection as lanes see it: recv, send, half-close, close.

At most one lane reads and at most one lane writes a stream at a time; they may be two lanes.
Reading waits for the kernel to have bytes, so back-pressure is the kernel's: who does not
call ``recv`` lets the peer's window fill. Bytes are in the kernel's hands when ``send`` returns.

A stream raises the errors of its side (:class:`Faults`): a lane that reads from the client and
writes to an endpoint learns from the error alone which of them failed, and how.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import types
from collections.abc import Callable, Generator
from functools import partial
from typing import Final, NamedTuple

from nodeproxy.core.destination import Address
from nodeproxy.core.errors import (
    ClientGone,
    ClientTimeout,
    ConnectFailed,
    ConnectTimeout,
    ProxyError,
    UpstreamClosed,
    UpstreamOverflow,
    UpstreamTimeout,
)
from nodeproxy.dataplane.lane import Lane, TimedOut
from nodeproxy.dataplane.reactor import Reactor

__all__ = [
    "CLIENT",
    "GONE",
    "PEER_CLOSED",
    "RESET",
    "UPSTREAM",
    "Faults",
    "Stream",
    "connect",
    "open_socket",
    "wait_either",
]


class Faults(NamedTuple):
    """What the two sides of the proxy raise."""

    broken: type[ProxyError]
    """The peer reset the connection, or it cannot be written to any more."""
    late: type[ProxyError]
    """A wait took longer than its time-out."""


CLIENT: Final = Faults(ClientGone, ClientTimeout)
UPSTREAM: Final = Faults(UpstreamClosed, UpstreamTimeout)
_CONNECTING: Final = Faults(ConnectFailed, ConnectTimeout)

IN: Final = select.EPOLLIN
OUT: Final = select.EPOLLOUT
RESET: Final = select.EPOLLERR
GONE: Final = select.EPOLLHUP | RESET
PEER_CLOSED: Final = select.EPOLLRDHUP
READABLE: Final = IN | GONE | PEER_CLOSED
WRITABLE: Final = OUT | GONE
RECV_SIZE: Final = 16384
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_SO_MARK: Final = 36  # asm-generic/socket.h


class Stream:
    """One connected, non-blocking socket on the reactor."""

    __slots__ = ("_mask", "_reader", "_writer", "faults", "fd", "on_idle", "owner", "reactor",
                 "sock")  # fmt: skip

    def __init__(
        self, reactor: Reactor, sock: socket.socket, faults: Faults, mask: int = IN | PEER_CLOSED
    ) -> None:
        self.reactor = reactor
        self.sock = sock
        self.fd = sock.fileno()
        self.faults = faults
        self._reader: Lane | None = None
        self._writer: Lane | None = None
        self._mask = mask
        self.on_idle: Callable[[Stream, int], None] | None = None
        """Called with the events when something arrives and no lane waits for it: bytes (IN),
        the peer's end (PEER_CLOSED) or the connection's (GONE). Afterwards the stream is not
        watched for more of the same until a lane reads again."""
        self.owner: Lane | None = None
        """For ``on_idle``: the lane that may have to know."""
        reactor.register(self.fd, self, mask)

    # -- what lanes await ----------------------------------------------------------------

    @types.coroutine
    def recv(self, timeout: float, limit: int = RECV_SIZE) -> Generator[None, None, bytes]:
        """Wait for bytes and return at most ``limit`` of them; ``b""``: the peer has closed.

        Raises ``faults.late`` after ``timeout`` seconds, ``faults.broken`` on a reset.
        """
        lane = _arm(self.reactor, timeout)
        while True:
            self._reader = lane
            if not self._mask & IN:
                self._watch(self._mask | IN | PEER_CLOSED)
            try:
                yield
                return self.sock.recv(limit)
            except BlockingIOError:
                continue
            except OSError as error:
                raise self.faults.broken(f"reading: {error.strerror}") from error
            except TimedOut:
                raise self.faults.late(f"nothing was read for {timeout:g} s") from None
            finally:
                self._reader = None

    @types.coroutine
    def readable(self, timeout: float) -> Generator[None, None, None]:
        """Wait until ``recv`` would not wait. Raises ``faults.late``."""
        self._reader = _arm(self.reactor, timeout)
        if not self._mask & IN:
            self._watch(self._mask | IN | PEER_CLOSED)
        try:
            yield
        except TimedOut:
            raise self.faults.late(f"nothing was read for {timeout:g} s") from None
        finally:
            self._reader = None

    @types.coroutine
    def writable(self, timeout: float) -> Generator[None, None, None]:
        """Wait until the kernel takes bytes again. Raises ``faults.late``."""
        self._writer = _arm(self.reactor, timeout)
        self._watch(self._mask | OUT)
        try:
            yield
        except TimedOut:
            raise self.faults.late("what was written was not taken in time") from None
        finally:
            self._writer = None
            if self.fd >= 0:
                self._watch(self._mask & ~OUT)

    @types.coroutine
    def send(self, data: bytes | memoryview, timeout: float) -> Generator[None, None, None]:
        """Hand all of ``data`` to the kernel.

        Raises ``faults.late`` when the peer takes nothing for ``timeout`` seconds, or a client
        has not taken all of it by then; ``faults.broken`` when the connection is broken.
        """
        try:
            sent = self.sock.send(data)
            if sent == len(data):
                return
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self.faults.broken(f"writing: {error.strerror}") from error
        rest = memoryview(data)[sent:]
        late = self.reactor.now + timeout
        while rest:
            yield from self.writable(self.patience(timeout, late))
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self.faults.broken(f"writing: {error.strerror}") from error

    def patience(self, timeout: float, late: float) -> float:
        """How long to wait until bytes are taken, if all that was begun shall be gone at ``late``.

        That is asked of clients: one that takes a byte now and then would else hold its connection
        and the endpoint's for as long as it likes. Endpoints may be slow as long as they move.
        """
        if self.faults is not CLIENT:
            return timeout
        return max(0.0, min(timeout, late - self.reactor.now))

    # -- plain calls ---------------------------------------------------------------------

    def recv_nowait(self, limit: int = RECV_SIZE) -> bytes | None:
        """What is there now: None if nothing is, ``b""`` if the peer has closed."""
        try:
            return self.sock.recv(limit)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self.faults.broken(f"reading: {error.strerror}") from error

    def ended(self) -> bool:
        """Whether the peer has closed, reset, or said something, which we have not read yet:
        a look at the kernel's state, for what cannot be undone once it is sent."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def end_writing(self) -> None:
        """Half-close: the peer reads an end, we may go on reading. Errors are ignored: the
        reading side reports a broken connection."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close. A lane that waits on the stream would wait for ever: cancel it first."""
        if self.fd >= 0:
            self.fd = -1
            self.on_idle = self.owner = None
            self.reactor.close_later(self.sock)

    def reset(self) -> None:
        """Close so that the peer reads a reset (RST), not an orderly end."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.close()

    def tell_owner(self, why: str) -> None:
        """Raise the fault of a broken connection in the owner, when the batch ends."""
        owner = self.owner
        if owner is not None:
            self.reactor.soon(partial(owner.throw, self.faults.broken(why)))

    @property
    def closed(self) -> bool:
        """True after close or reset."""
        return self.fd < 0

    # -- the reactor's side --------------------------------------------------------------

    def on_event(self, events: int) -> None:
        """Resume the lanes that wait for these events."""
        reader = self._reader
        if reader is not None and events & READABLE:
            self._reader = None
            reader.step()
            if not events & WRITABLE:
                return
        writer = self._writer
        if writer is not None and events & WRITABLE:
            self._writer = None
            writer.step()
        elif reader is None and self.fd >= 0:
            self._unattended(events)

    def _unattended(self, events: int) -> None:
        """Nobody waits for it: watch no longer for what is there, and tell who wants to know."""
        if events & GONE:
            # The kernel reports a reset whatever the mask is: level-triggered for ever.
            self.reactor.unregister(self.fd)
            self._mask = 0
        else:
            self._watch(self._mask & ~(events & READABLE))
        if self.on_idle is not None and (self._writer is None or events & GONE):
            self.on_idle(self, events)

    def _watch(self, mask: int) -> None:
        if mask != self._mask:
            self.reactor.watch(self.fd, self, mask)
            self._mask = mask


def _arm(reactor: Reactor, timeout: float) -> Lane:
    """Set the running lane's deadline. Returns the lane."""
    lane = reactor.lane
    assert lane is not None, "streams are awaited by lanes only"
    lane.deadline = deadline = reactor.now + timeout
    if deadline < lane.look_at:
        reactor.wheel.arm(lane)
    return lane


@types.coroutine
def wait_either(one: Stream, other: Stream, timeout: float) -> Generator[None, None, Stream | None]:
    """Wait until one of two streams is readable. Returns that one; None after ``timeout``."""
    lane = _arm(one.reactor, timeout)
    for stream in (one, other):
        stream._reader = lane
        if not stream._mask & IN:
            stream._watch(stream._mask | IN | PEER_CLOSED)
    try:
        yield
        return one if one._reader is None else other
    except TimedOut:
        return None
    finally:
        one._reader = other._reader = None


def open_socket(address: Address, mark: int) -> socket.socket:
    """A non-blocking TCP socket for ``address``, marked before it can connect."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
    except BaseException:
        sock.close()
        raise
    return sock


@types.coroutine
def connect(
    reactor: Reactor, address: Address, timeout: float, mark: int = 0
) -> Generator[None, None, Stream]:
    """A stream to an endpoint.

    Raises ConnectFailed when it is refused or cannot be reached, ConnectTimeout after
    ``timeout`` seconds, UpstreamOverflow when this host has no socket for it: that says nothing
    of the endpoint.
    """
    sock: socket.socket | None = None
    try:
        sock = open_socket(address, mark)
        stream = Stream(reactor, sock, _CONNECTING, 0)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise UpstreamOverflow(f"no socket could be opened: {error.strerror}") from error
    try:
        code = sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            yield from stream.writable(timeout)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            host = f"[{address[0]}]" if ":" in address[0] else address[0]
            reason = errno.errorcode.get(code, str(code))
            raise ConnectFailed(f"{host}:{address[1]} did not accept a connection ({reason})")
        stream.faults = UPSTREAM
        stream._watch(IN | PEER_CLOSED)
    except BaseException:
        stream.close()
        raise
    return stream
