"""The DNS responder on its sockets: UDP and TCP, in trio tasks of the one loop.

Whatever a client sends costs a bounded time and ends in an answer or in nothing; an error of our
own is logged, counted and answered with SERVFAIL. After every datagram the loop has its turn. What
was asked before is answered from a small memory until the catalog changes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import dns.name
import trio

from nodeproxy.dns.answer import DROPPED, Answer, Zone, answer
from nodeproxy.dns.names import Names
from registry.catalog import EMPTY, Catalog, Change

__all__ = ["Responder", "Sockets", "open_sockets"]

_REMEMBERED: Final = 1024
_CONNECTIONS: Final = 64
_IDLE: Final = 10.0
"""Seconds that a TCP client may take for a query, and to read its answer."""
_DATAGRAM: Final = 4097
"""One byte more than the longest query that is read."""
_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78
"""linux/in.h and linux/in6.h; the module socket has no names for them."""


class Sockets(NamedTuple):
    """Both bound to one address."""

    udp: socket.socket
    tcp: socket.socket

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


def open_sockets(host: str, port: int) -> Sockets:
    """Bound, also to an address that this host gets later (that of the interception, say).
    Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made: list[socket.socket] = []
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            made.append(sock)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            # Port 0: UDP has that of TCP, of whose ports more are taken.
            port = sock.getsockname()[1]
        made[0].listen(_CONNECTIONS)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    tcp, udp = made
    return Sockets(udp, tcp)


class Responder:
    """Answers for one zone. ``update`` with every change, ``run`` in a nursery."""

    def __init__(self, suffix: str, ttl: int, *, count: Callable[[str], None], log: Any) -> None:
        """``count`` is called with the response code of each query."""
        self._origin = dns.name.from_text(suffix)
        self._ttl = ttl
        self._count = count
        self._log = log
        self._zone = Zone(self._origin, ttl, Names(), EMPTY)
        self._memory: dict[tuple[bytes, bool], Answer] = {}

    def update(self, catalog: Catalog, changes: Sequence[Change]) -> None:
        """The catalog is this one now, by these changes since the last."""
        self._zone.names.update(changes)
        self._zone = self._zone._replace(catalog=catalog)
        self._memory.clear()

    def ask(self, wire: bytes, *, udp: bool) -> bytes:
        """The answer; empty: none. Never raises."""
        key = (wire[2:], udp)
        found = self._memory.get(key)
        if found is None:
            try:
                found = answer(wire, self._zone, udp=udp)
            except Exception as error:
                self._log.error("a DNS query failed: please report this", exc_info=error)
                # The header with QR and SERVFAIL, and no content.
                head = struct.pack(">H", 0x8002 | (int.from_bytes(wire[2:4]) & 0x7900))
                found = Answer(wire[:2] + head + bytes(8), "SERVFAIL")
            if found.rcode != DROPPED and len(self._memory) < _REMEMBERED:
                self._memory[key] = found
        self._count(found.rcode)
        return wire[:2] + found.wire[2:] if found.wire else b""

    async def run(
        self,
        sockets: Sockets,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled. Closes the sockets at the end."""
        udp = trio.socket.from_stdlib_socket(sockets.udp)
        tcp = trio.SocketListener(trio.socket.from_stdlib_socket(sockets.tcp))
        places = trio.CapacityLimiter(_CONNECTIONS)

        async def converse(stream: trio.SocketStream) -> None:
            async with stream:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    try:
                        places.acquire_on_behalf_of_nowait(stream)
                    except trio.WouldBlock:
                        return  # too many: this one is closed at once
                    try:
                        await self._converse(stream)
                    finally:
                        places.release_on_behalf_of(stream)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, converse, [tcp])
                nursery.start_soon(self._datagrams, udp)
                task_status.started()
        finally:
            sockets.close()

    async def _datagrams(self, udp: trio.socket.SocketType) -> None:
        while True:
            try:
                wire, peer = await udp.recvfrom(_DATAGRAM)
            except OSError:
                # The kernel tells of an earlier answer that could not be delivered.
                await trio.lowlevel.checkpoint()
                continue
            if made := self.ask(wire, udp=True):
                # A full buffer or a peer that is gone: it asks again.
                with contextlib.suppress(OSError):
                    await udp.sendto(made, peer)
            await trio.lowlevel.checkpoint()

    async def _converse(self, stream: trio.SocketStream) -> None:
        """Queries one after the other, each behind its length (RFC 7766)."""
        while True:
            with trio.move_on_after(_IDLE) as patience:
                head = await _exactly(stream, 2)
                wire = await _exactly(stream, int.from_bytes(head)) if head else b""
                made = self.ask(wire, udp=False) if wire else b""
                if made:
                    await stream.send_all(struct.pack(">H", len(made)) + made)
            if patience.cancelled_caught or not made:
                return


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    """Empty where the client ends before that."""
    data = b""
    while len(data) < size:
        part = await stream.receive_some(size - len(data))
        if not part:
            return b""
        data += part
    return data
