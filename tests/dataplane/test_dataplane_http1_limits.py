"""Time, room and memory: attacks that are slow end in a bounded time, attacks that are large in
bounded memory, and each limit on connections does what it says."""

from __future__ import annotations

import gc
import os
import tracemalloc
from typing import Any

import pytest
import trio

from nodeproxy.dataplane.stream import CLIENT

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
MIB = 1 << 20


async def hello(talk: Any):
    while True:
        await talk.request()
        await talk.send(HELLO)


async def swallow(talk: Any):
    """Reads requests and answers none."""
    await talk.rest()


async def drip(talk: Any, data: bytes) -> None:
    """One byte after the other, for ever."""
    try:
        while True:
            await talk.send(data)
            await trio.sleep(0.01)
    except OSError:
        pass


# -- slow clients ---------------------------------------------------------------------------


async def test_a_slow_head_ends_in_time(make_harness: Any):
    """Slow-loris: a byte now and then does not help."""
    async with make_harness(header_timeout=0.2) as harness:
        client = await harness.client(harness.serve(await harness.backend(hello)))
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, client, b"A: b\r\n")
            assert (await client.answer())[0] == 408
            nursery.cancel_scope.cancel()
        client.reset()
        assert (await harness.record()).flags == "SI"


@pytest.mark.parametrize("size", [100, 100 * MIB])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_slow_body_ends_in_time(make_harness: Any, framing: Any, size: Any):
    """However it drips, a request has come to its end in ``request_timeout``."""
    async with make_harness(request_timeout=0.4, body_timeout=0.3) as harness:
        client = await harness.client(harness.serve(await harness.backend(swallow)))
        if framing == "length":
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
            piece = b"x"
        else:
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            piece = b"1\r\nx\r\n"
        if size > MIB and framing == "length":
            await client.send(bytes(4 * MIB))  # by now it is spliced
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, client, piece)
            assert (await client.answer())[0] == 408
            nursery.cancel_scope.cancel()
        client.reset()
        assert (await harness.record()).flags == "SI"


@pytest.mark.parametrize("size", [3 * MIB, 64 * MIB])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_slow_reader_ends_in_time(make_harness: Any, framing: Any, size: Any):
    """Slow-read: taking a little now and then is not enough to hold on to an answer."""
    head = {
        "length": b"Content-Length: %d\r\n" % size,
        "chunked": b"Transfer-Encoding: chunked\r\n",
        "close": b"",
    }[framing]

    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        if framing == "chunked":
            await talk.send(b"%x\r\n" % size)
        await talk.send(bytes(size))
        await talk.rest()

    async with make_harness(policy={"body_timeout": 0.5}) as harness:
        client = await harness.client(harness.serve(await harness.backend(script)), buffer=2048)
        await client.send(GET)
        await client.head()
        # It takes a few bytes at a time, always in time for a limit on silence.
        async with trio.open_nursery() as nursery:

            async def sip() -> None:
                try:
                    while True:
                        await client.sock.recv(2048)
                        await trio.sleep(0.1)
                except OSError:
                    pass

            nursery.start_soon(sip)
            record = await harness.record()
            nursery.cancel_scope.cancel()
        assert record.flags == "SI"
        assert record.bytes_sent < size


async def test_silence_between_requests_ends_in_time(make_harness: Any):
    async with make_harness(keep_alive_timeout=0.1) as harness:
        client = await harness.client(harness.serve(await harness.backend(hello)))
        await client.send(GET)
        assert (await client.answer())[0] == 200
        assert await client.rest() == b""
        await harness.record()


async def test_endpoints_may_be_slow_as_long_as_they_move(make_harness: Any):
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n")
        for _ in range(30):
            await trio.sleep(0.02)
            await talk.send(b"x")

    async with make_harness(policy={"body_timeout": 0.3}) as harness:
        address = harness.serve(await harness.backend(script))
        assert (await harness.get(address))[2] == b"x" * 30
        assert (await harness.record()).flags == ""


# -- limits on connections ------------------------------------------------------------------


def refused(harness: Any, limit: str) -> int:
    text = b"".join(harness.metrics.render()).decode()
    for line in text.splitlines():
        if line.startswith(f'nodeproxy_connections_refused_total{{limit="{limit}"}}'):
            return int(float(line.split()[-1]))
    return 0


@pytest.mark.parametrize(
    ("setting", "limit"),
    [("max_clients", "total"), ("max_per_listener", "listener"), ("max_per_client", "client")],
)
async def test_the_limits_on_connections(make_harness: Any, setting: Any, limit: Any):
    async with make_harness(**{setting: 2}) as harness:
        address = harness.serve(await harness.backend(hello))
        clients = [await harness.client(address) for _ in range(3)]
        for client in clients[:2]:
            await client.send(GET)
            assert (await client.answer())[0] == 200
        await clients[2].send(GET)
        status, fields, body = await clients[2].answer()
        assert (status, fields[b"connection"]) == (503, b"close")
        assert b"error=connection_limit_reached" in fields[b"proxy-status"]
        assert limit.encode() in body
        clients[2].end()
        assert await clients[2].rest() == b""
        assert refused(harness, limit) == 1
        assert (await harness.record(3)).flags == "OM"
        # There is room again when one has left.
        clients[0].close()
        await harness.until(lambda: harness.node.door.open == 1)
        assert (await harness.get(address))[0] == 200
        clients[1].close()
    assert harness.node.door.open == 0
    assert harness.node.door._clients == {}


async def test_a_tcp_client_over_the_limit_is_reset(make_harness: Any):
    async with make_harness(max_clients=1) as harness:
        address = harness.serve(await harness.backend(swallow), protocol="tcp")
        first = await harness.client(address)
        await harness.until(lambda: harness.node.door.open == 1)
        assert await (await harness.client(address)).is_reset()
        assert refused(harness, "total") == 1
        first.close()
        await harness.until(lambda: harness.node.door.open == 0)


async def test_a_flood_over_the_limit_is_not_kept(make_harness: Any, monkeypatch: Any):
    monkeypatch.setattr("nodeproxy.dataplane.node.REFUSING", 5)
    async with make_harness(max_clients=1) as harness:
        address = harness.serve(await harness.backend(hello))
        first = await harness.client(address)
        await first.send(GET)
        await first.answer()
        others = [await harness.client(address) for _ in range(40)]
        await harness.until(lambda: refused(harness, "total") == 40)
        assert len(harness.node.lanes) <= 6
        for other in others:
            other.close()
        first.close()


async def test_a_listeners_limit_is_its_own(make_harness: Any):
    async with make_harness(max_per_listener=1) as harness:
        backend = await harness.backend(hello)
        addresses = [harness.serve(backend, name=f"test/{name}") for name in "ab"]
        clients = [await harness.client(address) for address in addresses]
        for client in clients:
            await client.send(GET)
            assert (await client.answer())[0] == 200


# -- memory ---------------------------------------------------------------------------------


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


async def still(sent: list[int]) -> None:
    """Until the sender gets no further."""
    before = -1
    while before != sum(sent):
        before = sum(sent)
        for _ in range(300):
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_who_does_not_read_costs_no_memory(harness: Any, direction: Any, framing: Any):
    """20 connections with 1 GiB each that nobody reads: what has come is in the kernel."""
    size, count = 1 << 30, 20
    sent: list[int] = []
    head = b"Content-Length: %d\r\n\r\n" % size
    if framing == "chunked":
        head = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size
    piece = bytes(65536)

    async def write(talk: Any) -> None:
        try:
            while True:
                await talk.sock.send(piece)
                sent.append(len(piece))
        except (OSError, trio.ClosedResourceError):
            pass

    async def script(talk: Any) -> None:
        await talk.request()
        if direction == "down":
            await talk.send(b"HTTP/1.1 200 OK\r\n" + head)
            await write(talk)
        else:
            await trio.sleep_forever()

    address = harness.serve(await harness.backend(script))
    async with trio.open_nursery() as nursery:
        clients = [await harness.client(address, buffer=16384) for _ in range(count)]
        before = resident()
        for client in clients:
            if direction == "down":
                await client.send(GET)
            else:
                await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + head)
                nursery.start_soon(write, client)
        await harness.until(lambda: len(harness.backends[0].open) == count)
        await still(sent)
        await harness.until(lambda: sent)
        await still(sent)
        assert resident() - before < 16 * MIB
        for client in clients:
            client.reset()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 60_000,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"b" * 4000,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"b" * 1000,
        b"\x16\x03\x01" + bytes(1000),
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /" + b"a" * 16_000 + b" HTTP/1.1\r\nHost: " + b"h" * 200 + b"\r\n\r\n",
    ],
)
async def test_nothing_grows_with_what_clients_send(harness: Any, junk: Any):
    """Each client's bytes differ, so that whatever is kept of them would add up."""
    address = harness.serve(await harness.backend(hello))
    series = len(list(harness.metrics.families()))

    async def rounds(numbers: range) -> None:
        for number in numbers:
            client = await harness.client(address)
            await client.send(junk.replace(b"b" * 8, b"%08d" % number))
            client.reset()
        await harness.until(lambda: not harness.node.lanes.lanes)
        harness.records.clear()
        harness.lines.clear()
        harness.clients.clear()
        gc.collect()

    await rounds(range(100))
    tracemalloc.start()  # what is held, not what the allocator has at hand
    try:
        await rounds(range(100, 200))
        before = tracemalloc.get_traced_memory()[0]
        await rounds(range(200, 600))
        assert tracemalloc.get_traced_memory()[0] - before < MIB // 2
    finally:
        tracemalloc.stop()
    assert len(list(harness.metrics.families())) == series


async def test_patience_is_for_clients_only(harness: Any):
    address = harness.serve(await harness.backend(hello))
    client = await harness.client(address)
    await client.send(GET)
    await client.answer()
    (lane,) = harness.node.lanes.lanes
    stream = lane.owns.client
    assert stream.faults is CLIENT
    now = harness.reactor.now
    assert stream.patience(5.0, now + 1.0) == pytest.approx(1.0)
    assert stream.patience(5.0, now - 1.0) == 0.0
    (target,) = harness.upstream().targets.values()
    (idle,) = target.pool.idle
    assert idle.patience(5.0, now - 1.0) == 5.0
