"""One question to a nameserver: UDP, then TCP where the answer does not fit (RFC 1035, 6891, 7766).

dnspython makes and reads the messages. The sockets are ours, as each has to carry the node's mark
before it connects: the TCP of an answer that does not fit may go to a service address that this
node intercepts.
"""

from __future__ import annotations

import socket
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import trio

__all__ = ["Exchange", "Failure"]

_SO_MARK: Final = 36  # asm-generic/socket.h
PAYLOAD: Final = 1232
"""Bytes of UDP that we take: what passes unfragmented everywhere (dnsflagday.net/2020)."""
LARGE: Final = 4096
"""Bytes from which on an answer is parsed in a thread: dnspython needs about 10 us a record."""
_TRUNCATED: Final = 0x02


class Failure(Exception):
    """Nobody could answer. The message says whom we asked and what came of it."""


class Exchange:
    """Questions to a list of nameservers."""

    def __init__(
        self,
        servers: list[tuple[str, int]],
        *,
        mark: int = 0,
        timeout: float = 2.0,
        tries: int = 2,
        tcp: bool = False,
    ) -> None:
        """``timeout``: seconds for each server and try."""
        self._servers = servers
        self._mark = mark
        self._timeout = timeout
        self._tries = tries
        self._tcp = tcp
        self._plain: set[tuple[str, int]] = set()
        """Servers that do not understand EDNS."""

    async def ask(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> dns.message.QueryMessage:
        """The answer: NOERROR or NXDOMAIN. Raises Failure."""
        said: dict[str, None] = {}
        for _ in range(self._tries):
            for server in self._servers:
                try:
                    answer = await self._one(server, name, kind)
                except (OSError, dns.exception.DNSException, EOFError, ValueError) as error:
                    said[f"{server[0]}: {str(error) or type(error).__name__}"] = None
                    continue
                except trio.TooSlowError:
                    said[f"{server[0]}: no answer in time"] = None
                    continue
                if answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                    return answer
                said[f"{server[0]}: {dns.rcode.to_text(answer.rcode())}"] = None
        kind_text = dns.rdatatype.to_text(kind)
        raise Failure(f"{name} {kind_text}: {'; '.join(said) or 'no nameserver is known'}")

    async def _one(
        self, server: tuple[str, int], name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> dns.message.QueryMessage:
        query = self._query(server, name, kind)
        with trio.fail_after(self._timeout):
            answer = await self._send(server, query)
            if answer.rcode() == dns.rcode.FORMERR and server not in self._plain:
                self._plain.add(server)
                answer = await self._send(server, self._query(server, name, kind))
        return answer

    def _query(
        self, server: tuple[str, int], name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> dns.message.QueryMessage:
        if server in self._plain:
            return dns.message.make_query(name, kind)
        return dns.message.make_query(name, kind, use_edns=0, payload=PAYLOAD)

    async def _send(
        self, server: tuple[str, int], query: dns.message.QueryMessage
    ) -> dns.message.QueryMessage:
        if not self._tcp:
            answer = await self._udp(server, query)
            if answer is not None:
                return answer
        return await self._by_tcp(server, query)

    async def _udp(
        self, server: tuple[str, int], query: dns.message.QueryMessage
    ) -> dns.message.QueryMessage | None:
        """None if the answer does not fit."""
        # Connected, so that the kernel drops what comes from elsewhere and tells of refusals.
        with self._socket(server, socket.SOCK_DGRAM) as sock:
            await sock.connect(server)
            await sock.send(query.to_wire())
            while True:
                wire = await sock.recv(65535)
                if len(wire) > 2 and int.from_bytes(wire[:2], "big") == query.id:
                    if wire[2] & _TRUNCATED:
                        return None
                    answer = await _parsed(wire)
                    if query.is_response(answer):
                        return answer

    async def _by_tcp(
        self, server: tuple[str, int], query: dns.message.QueryMessage
    ) -> dns.message.QueryMessage:
        with self._socket(server, socket.SOCK_STREAM) as sock:
            await sock.connect(server)
            stream = trio.SocketStream(sock)
            wire = query.to_wire()
            await stream.send_all(len(wire).to_bytes(2, "big") + wire)
            size = int.from_bytes(await _exactly(stream, 2), "big")
            answer = await _parsed(await _exactly(stream, size))
        if not query.is_response(answer):
            raise ValueError("the answer is to another question")
        return answer

    def _socket(self, server: tuple[str, int], kind: int) -> trio.socket.SocketType:
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        sock = trio.socket.socket(family, kind)
        if self._mark:
            try:
                sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, self._mark)
            except BaseException:
                sock.close()
                raise
        return sock


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    """Raises EOFError."""
    data = bytearray()
    while len(data) < size:
        try:
            more = await stream.receive_some(size - len(data))
        except trio.BrokenResourceError as error:
            raise EOFError(f"the connection broke: {error.__cause__}") from None
        if not more:
            raise EOFError("the answer ends in the middle")
        data += more
    return bytes(data)


async def _parsed(wire: bytes) -> dns.message.QueryMessage:
    """Raises DNSException, ValueError."""
    if len(wire) > LARGE:
        message = await trio.to_thread.run_sync(dns.message.from_wire, wire)
    else:
        message = dns.message.from_wire(wire)
    if not isinstance(message, dns.message.QueryMessage):
        raise ValueError("the answer is not one to a query")
    return message
