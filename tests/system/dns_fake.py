"""A name server that misbehaves on demand, for what a real one does not do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio


class DnsFake:
    """Everything public may be set by a test at any moment."""

    def __init__(self) -> None:
        self.port = 0
        self.records: list[str] = []
        """``name. ttl TYPE data``"""
        self.additional: list[str] = []
        """Sent along with every SRV answer."""
        self.trouble: dict[str, str] = {}
        """What becomes of questions for a name: an rcode, ``garbage``, ``wrong id``,
        ``question``."""
        self.edns = True
        self.truncate = False
        """UDP answers do not fit."""
        self.cut: int | None = None
        """Bytes of the next TCP answer after which its connection is cut, once."""
        self.asked: list[tuple[str, str]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        udp = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        await udp.bind(("127.0.0.1", self.port))
        with udp:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._udp, udp)
                nursery.start_soon(trio.serve_listeners, self._tcp, listeners)
                yield self
                nursery.cancel_scope.cancel()

    async def _udp(self, sock: trio.socket.SocketType) -> None:
        while True:
            wire, peer = await sock.recvfrom(65535)
            await sock.sendto(self._answer(wire, udp=True), peer)

    async def _tcp(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            data = b""
            while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
                more = await stream.receive_some(4096)
                if not more:
                    return
                data += more
            answer = self._answer(data[2:], udp=False)
            wire = len(answer).to_bytes(2, "big") + answer
            cut, self.cut = self.cut, None
            await stream.send_all(wire[:cut])

    def _answer(self, wire: bytes, *, udp: bool) -> bytes:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text()
        self.asked.append((name, dns.rdatatype.to_text(question.rdtype)))
        trouble = self.trouble.get(name, "")
        if trouble == "garbage":
            return wire[:2] + b"\x80\x00" + b"\xff" * 40
        if query.edns >= 0 and not self.edns:
            refusal = dns.message.make_response(query)
            refusal.use_edns(-1)
            refusal.set_rcode(dns.rcode.FORMERR)
            return refusal.to_wire()
        response = dns.message.make_response(query)
        if trouble in ("SERVFAIL", "REFUSED"):
            response.set_rcode(dns.rcode.from_text(trouble))
            return response.to_wire()
        if udp and self.truncate:
            response.flags |= dns.flags.TC
            return response.to_wire()
        known = False
        for record in self.records:
            owner, ttl, kind, data = record.split(" ", 3)
            if owner == name:
                known = True
                if dns.rdatatype.from_text(kind) == question.rdtype:
                    response.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
        if not known:
            response.set_rcode(dns.rcode.NXDOMAIN)
        if question.rdtype == dns.rdatatype.SRV:
            for record in self.additional:
                owner, ttl, kind, data = record.split(" ", 3)
                response.additional.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
        if trouble == "wrong id":
            response.id ^= 1
        if trouble == "question":
            response.question[0].name = dns.name.from_text("other.test.")
        return response.to_wire()
