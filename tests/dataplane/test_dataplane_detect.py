"""Undeclared ports: who speaks first, and what; and destinations that no registry knows."""

from __future__ import annotations

import socket
import struct
from typing import Any

import trio

from nodeproxy.dataplane.listener import Own, listen, original_destination
from registry.model import Endpoint

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


async def hello(talk: Any):
    while True:
        await talk.request()
        await talk.send(HELLO)


async def echo(talk: Any):
    while data := await talk.some():
        await talk.send(data)


async def greet(talk: Any):
    await talk.send(b"220 mail.test ESMTP\r\n")
    await echo(talk)


async def say_all(talk: Any):
    await talk.send(b"got:" + await talk.rest())


def results(harness: Any):
    return {name: sum(series.counts) for name, series in harness.node._detected.items()}


async def test_http_is_served_as_http(harness: Any):
    client = await harness.client(harness.serve(await harness.backend(hello), protocol=""))
    for _ in range(3):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.answer())[2] == b"hi"
    await harness.record(3)
    assert [r.protocol for r in harness.records] == ["HTTP/1.1"] * 3
    assert [r.tries for r in harness.records] == [1] * 3
    assert results(harness) == {"http": 1}
    assert harness.backends[0].accepted == 1  # what was dialled while detecting is used


async def test_http_one_byte_at_a_time(harness: Any):
    client = await harness.client(harness.serve(await harness.backend(hello), protocol=""))
    await client.trickle(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", turns=1)
    assert (await client.answer())[2] == b"hi"
    assert (await harness.record()).protocol == "HTTP/1.1"


async def test_tls_is_relayed(harness: Any):
    client = await harness.client(harness.serve(await harness.backend(echo), protocol=""))
    record = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03"
    await client.send(record)
    assert await client.exactly(len(record)) == record
    client.close()
    assert (await harness.record()).protocol == "TCP"
    assert results(harness) == {"tls": 1}


async def test_a_server_that_speaks_first_is_not_waited_for(make_harness: Any):
    # Were its greeting held back for the client's bytes or a time-out, this would never end.
    async with make_harness(detect_timeout=1e6) as harness:
        client = await harness.client(harness.serve(await harness.backend(greet), protocol=""))
        assert await client.until(b"\r\n") == b"220 mail.test ESMTP\r\n"
        await client.send(b"EHLO\r\n")
        assert await client.until(b"\r\n") == b"EHLO\r\n"
        assert results(harness) == {"server-first": 1}


async def test_an_undecided_beginning_is_taken_for_tcp_in_time(make_harness: Any):
    async with make_harness(detect_timeout=0.05) as harness:
        client = await harness.client(harness.serve(await harness.backend(echo), protocol=""))
        await client.send(b"GE")
        assert await client.exactly(2) == b"GE"
        assert results(harness) == {"tcp": 1}


async def test_the_server_answers_an_undecided_beginning(make_harness: Any):
    async with make_harness(detect_timeout=1e6) as harness:

        async def server(talk: Any) -> None:
            await talk.send(b"220 hello\r\n")

        started = trio.Event()

        async def late(talk: Any) -> None:
            await started.wait()
            await server(talk)

        client = await harness.client(harness.serve(await harness.backend(late), protocol=""))
        await client.send(b"HEL")
        await harness.until(lambda: harness.backends[0].open)
        started.set()
        assert await client.until(b"\r\n") == b"220 hello\r\n"


async def test_both_sides_silent(make_harness: Any):
    async with make_harness(tcp_idle_timeout=0.1) as harness:

        async def silent(talk: Any) -> None:
            await trio.sleep_forever()

        client = await harness.client(harness.serve(await harness.backend(silent), protocol=""))
        assert await client.is_reset()
        assert (await harness.record()).flags == "SI"


async def test_a_client_that_leaves_at_once(harness: Any):
    client = await harness.client(harness.serve(await harness.backend(echo), protocol=""))
    client.close()
    assert (await harness.record()).protocol == "TCP"


async def test_a_client_that_leaves_half_decided(harness: Any):
    client = await harness.client(harness.serve(await harness.backend(say_all), protocol=""))
    await client.send(b"GE")
    client.end()
    assert await client.rest() == b"got:GE"


async def test_a_client_that_resets_while_detecting(harness: Any):
    address = harness.serve(await harness.backend(echo), protocol="")
    client = await harness.client(address)
    await harness.until(lambda: harness.backends[0].open)
    client.reset()
    assert (await harness.record()).flags == "DC"


async def test_no_endpoint_can_be_reached(harness: Any):
    sock = listen(("127.0.0.1", 0))
    dead = Endpoint(*sock.getsockname())
    sock.close()
    address = harness.serve(dead, protocol="")
    assert (await harness.get(address))[0] == 503
    assert (await harness.record()).flags == "UF"
    harness.records.clear()
    client = await harness.client(address)
    await client.send(b"\x00binary")
    assert await client.is_reset()
    assert (await harness.record()).protocol == "TCP"


async def test_the_connection_that_detection_opened_is_ended_once_when_cancelled(harness: Any):
    """It was the exchange's to end: ended twice, the accounts would go below zero."""

    async def stall(talk: Any) -> None:
        await trio.sleep_forever()

    client = await harness.client(harness.serve(await harness.backend(stall), protocol=""))
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await harness.until(lambda: any(t.load for t in harness.upstream().targets.values()))
    await harness.until(lambda: results(harness))
    harness.node.lanes.cancel()
    (target,) = harness.upstream().targets.values()
    assert (target.load, target.pool.leased, harness.upstream().connections) == (0, 0, 0)


# -- redirected connections ----------------------------------------------------------------


async def test_a_virtual_address_leads_to_its_service(harness: Any, redirected: Any):
    backend = await harness.backend(hello)
    harness.know(harness.service(backend, vips=("10.96.0.10",)))
    address = harness.node.intercept(listen(("127.0.0.1", 0))).address
    redirected(("10.96.0.10", 80))
    assert (await harness.get(address))[2] == b"hi"
    assert (await harness.record()).destination == "10.96.0.10:80"


async def test_an_unknown_destination_is_passed_through_untouched(harness: Any, redirected: Any):
    backend = await harness.backend(echo)
    address = harness.node.intercept(listen(("127.0.0.1", 0))).address
    redirected(backend.address)
    client = await harness.client(address)
    request = b"GET / HTTP/1.1\r\nhost: a\r\nConnection: close\r\n\r\n"
    await client.send(request)
    assert await client.exactly(len(request)) == request
    client.close()
    record = await harness.record()
    assert (record.service, record.protocol) == ("passthrough", "TCP")


async def test_an_unknown_destination_is_refused_when_told_so(make_harness: Any, redirected: Any):
    async with make_harness(registry_only=True) as harness:
        backend = await harness.backend(echo)
        address = harness.node.intercept(listen(("127.0.0.1", 0))).address
        redirected(backend.address)
        client = await harness.client(address)
        assert await client.is_reset()
        assert (await harness.record()).flags == "NR"
        assert backend.accepted == 0


async def test_who_dials_the_listener_itself_is_refused(harness: Any, redirected: Any):
    address = harness.node.intercept(listen(("127.0.0.1", 0))).address
    redirected(None)
    client = await harness.client(address)
    assert await client.is_reset()
    record = await harness.record()
    assert record.flags == "NR"
    assert record.detail.startswith("proxy_loop_detected")


async def test_an_endpoint_that_is_a_listener_of_ours_is_never_dialled(harness: Any):
    for host, own in (("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")):
        sock = listen((host, 0))
        port = sock.getsockname()[1]
        harness.records.clear()
        name = f"test/loop-{port}"
        harness.know(harness.service(Endpoint(own, port), name=name))
        harness.node.serve_port(sock, name, 80)
        assert (await harness.get((own, port)))[0] == 503
        assert (await harness.record()).flags == "UH"


def test_own_addresses():
    own = Own()
    own.add(("192.0.2.1", 80))
    assert ("192.0.2.1", 80) in own
    assert ("127.0.0.1", 80) not in own
    own.add(("0.0.0.0", 81))
    assert ("127.0.0.1", 81) in own
    assert ("192.0.2.1", 81) not in own  # a documentation address: nobody's
    assert ("::1", 81) not in own
    assert ("127.0.0.1", 82) not in own


class Redirected:
    """A socket of which conntrack says what it had dialled."""

    def __init__(self, family: Any, answer: Any) -> None:
        self.family = family
        self.answer = answer

    def getsockopt(self, level: Any, option: Any, size: Any) -> bytes:
        assert option == 80
        if isinstance(self.answer, OSError):
            raise self.answer
        assert (level, len(self.answer)) == (
            (socket.SOL_IP, size) if self.family == socket.AF_INET else (socket.IPPROTO_IPV6, size)
        )
        return self.answer


def test_original_destinations():
    four = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", 80, bytes([10, 96, 0, 10]))
    assert original_destination(Redirected(socket.AF_INET, four)) == ("10.96.0.10", 80)
    six = struct.pack("=H", socket.AF_INET6) + struct.pack(
        "!HI16s4x", 443, 7, socket.inet_pton(socket.AF_INET6, "fd00::a")
    )
    assert original_destination(Redirected(socket.AF_INET6, six)) == ("fd00::a", 443)
    assert original_destination(Redirected(socket.AF_INET, OSError(2, "ENOENT"))) is None
