"""The DNS responder on real sockets."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import dns.asyncquery
import dns.message
import dns.rcode
import pytest
import structlog
import trio

from nodeproxy.dns.server import Responder, open_sockets
from registry.catalog import Merger
from registry.model import Port, Service

WEB = Service("shop/web", ("10.97.0.5",), (Port(80, "http"),))
MANY = Service("shop/many", tuple(f"10.98.0.{i}" for i in range(1, 200)), (Port(80),))


@asynccontextmanager
async def responding(host: str = "127.0.0.1") -> AsyncIterator[tuple[str, int, list[str]]]:
    counted: list[str] = []
    made = Responder("mesh", 5, count=counted.append, log=structlog.get_logger())
    made.update(*Merger(["r"]).apply("r", [WEB, MANY], []))
    sockets = open_sockets(host, 0)
    port = sockets.udp.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run, sockets)
        with trio.fail_after(20):
            yield host, port, counted
        nursery.cancel_scope.cancel()
    assert sockets.udp.fileno() == sockets.tcp.fileno() == -1


def query(name: str = "web.shop.mesh") -> Any:
    return dns.message.make_query(name, "A")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_questions_come_by_udp_and_tcp(host: str) -> None:
    async with responding(host) as (where, port, counted):
        for ask in (dns.asyncquery.udp, dns.asyncquery.tcp):
            response = await ask(query(), where, port=port, timeout=10)
            assert [record.address for record in response.answer[0]] == ["10.97.0.5"]
        assert counted == ["NOERROR", "NOERROR"]


async def test_a_long_answer_comes_by_tcp() -> None:
    async with responding() as (host, port, _):
        response, by_tcp = await dns.asyncquery.udp_with_fallback(
            query("many.shop.mesh"), host, port=port, timeout=10
        )
        assert by_tcp
        assert len(response.answer[0]) == 199


async def test_garbage_is_survived() -> None:
    async with responding() as (host, port, counted):
        with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
            for wire in (b"", b"x", b"\xff" * 12, b"\0" * 12, b"\0" * 5000, query().to_wire()[:20]):
                await sock.sendto(wire, (host, port))
            # Two of these deserve an answer: that there is no question, and the one that was cut.
            for _ in range(2):
                assert dns.message.from_wire((await sock.recvfrom(512))[0]).rcode() == 1
        response = await dns.asyncquery.udp(query(), host, port=port, timeout=10)
        assert response.answer
        assert counted.count("DROPPED") == 4


async def test_a_tcp_client_may_ask_often_in_pieces_and_leave() -> None:
    async with responding() as (host, port, _):
        wire = query().to_wire()
        framed = struct.pack(">H", len(wire)) + wire
        async with await trio.open_tcp_stream(host, port) as stream:
            for piece in (framed[:1], framed[1:7], framed[7:] + framed * 2):
                await stream.send_all(piece)
            data = b""
            while len(data) < 3 * (2 + int.from_bytes(data[:2] or b"\xff\xff")):
                part = await stream.receive_some()
                assert part
                data += part
        for start in (b"", framed[:1], framed[:9], b"\0\0", struct.pack(">H", 5) + b"xxxxx"):
            async with await trio.open_tcp_stream(host, port) as stream:
                await stream.send_all(start)
                await stream.send_eof()
                assert await stream.receive_some() == b""
        response = await dns.asyncquery.tcp(query(), host, port=port, timeout=10)
        assert response.answer


async def test_too_many_tcp_clients_are_closed_and_nobody_else() -> None:
    async with responding() as (host, port, _):
        first = [await trio.open_tcp_stream(host, port) for _ in range(64)]
        # The listener takes them in order, so that this one is beyond the bound.
        beyond = await trio.open_tcp_stream(host, port)
        assert await beyond.receive_some() == b""
        response = await dns.asyncquery.udp(query(), host, port=port, timeout=10)
        assert response.answer
        for stream in (*first, beyond):
            await stream.aclose()
        while True:
            try:
                response = await dns.asyncquery.tcp(query(), host, port=port, timeout=10)
            except (EOFError, OSError):
                continue  # a place becomes free when the end of an earlier one has been seen
            assert response.answer
            break


def test_an_address_that_is_not_there_yet_can_be_taken() -> None:
    sockets = open_sockets("192.0.2.77", 0)
    with pytest.raises(OSError, match="in use"):
        open_sockets("192.0.2.77", sockets.udp.getsockname()[1])
    sockets.close()
