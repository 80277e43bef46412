"""Relaying TCP: bytes, ends, resets, back-pressure, and who is reached."""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Never

import pytest
import trio

from nodeproxy.dataplane.listener import listen
from registry.model import Endpoint

MIB = 1 << 20


async def echo(talk: Any):
    while data := await talk.some():
        await talk.send(data)
    talk.end()


async def stall(talk: Any):
    await trio.sleep_forever()


def dead_endpoint(host: Any = "127.0.0.1"):
    """Nobody listens there."""
    sock = listen((host, 0))
    address = sock.getsockname()[:2]
    sock.close()
    return Endpoint(*address)


async def test_what_one_side_sends_the_other_reads(harness: Any):
    address = harness.serve(await harness.backend(echo), protocol="tcp")
    client = await harness.client(address)
    await client.send(b"hello")
    assert await client.exactly(5) == b"hello"
    client.end()
    assert await client.rest() == b""
    record = await harness.record()
    assert (record.protocol, record.flags, record.detail) == ("TCP", "", "")
    assert (record.bytes_received, record.bytes_sent) == (5, 5)
    assert record.tries == 1
    assert record.upstream == harness.backends[0].endpoint.address + ":" + str(
        harness.backends[0].endpoint.port
    )
    assert record.service == "test/web"
    assert 0 < record.started <= record.sent <= record.ended


async def test_ipv6(harness: Any):
    backend = await harness.backend(echo, "::1")
    harness.know(harness.service(backend, protocol="tcp"))
    address = harness.node.serve_port(listen(("::1", 0)), "test/web", 80).address
    client = await harness.client(address)
    await client.send(b"hello")
    assert await client.exactly(5) == b"hello"


async def test_100_mib_each_way_at_once(harness: Any):
    size = 100 * MIB
    block = os.urandom(MIB)
    digest = hashlib.blake2b()
    for _ in range(size // MIB):
        digest.update(block)

    async def both(talk: Any, results: Any) -> None:
        async def write() -> None:
            for _ in range(size // MIB):
                await talk.send(block)
            talk.end()

        seen = hashlib.blake2b()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while data := await talk.some(MIB):
                seen.update(data)
        results.append(seen.digest())

    results = []
    backend = await harness.backend(lambda talk: both(talk, results))
    client = await harness.client(harness.serve(backend, protocol="tcp"))
    await both(client, results)
    await harness.until(lambda: len(results) == 2)
    assert results == [digest.digest()] * 2
    record = await harness.record()
    assert (record.bytes_received, record.bytes_sent) == (size, size)


async def test_the_client_ends_first(harness: Any):
    seen = []

    async def server(talk: Any) -> None:
        seen.append(await talk.rest())
        await talk.send(b"answer")

    client = await harness.client(harness.serve(await harness.backend(server), protocol="tcp"))
    await client.send(b"question")
    client.end()
    assert await client.rest() == b"answer"
    assert seen == [b"question"]
    assert (await harness.record()).flags == ""


async def test_the_endpoint_ends_first(harness: Any):
    seen = []

    async def server(talk: Any) -> None:
        await talk.send(b"greeting")
        talk.end()
        seen.append(await talk.rest())

    client = await harness.client(harness.serve(await harness.backend(server), protocol="tcp"))
    assert await client.rest() == b"greeting"
    await client.send(b"late")
    client.end()
    await harness.until(lambda: seen)
    assert seen == [b"late"]
    assert (await harness.record()).flags == ""


async def test_a_reset_of_the_client_reaches_the_endpoint(harness: Any):
    seen = []

    async def server(talk: Any) -> None:
        await talk.some()
        seen.append(await talk.is_reset())

    client = await harness.client(harness.serve(await harness.backend(server), protocol="tcp"))
    await client.send(b"x")
    await harness.until(lambda: harness.backends[0].open)
    client.reset()
    await harness.until(lambda: seen)
    assert seen == [True]
    assert (await harness.record()).flags == "DC"


async def test_a_reset_of_the_endpoint_reaches_the_client(harness: Any):
    async def server(talk: Any) -> None:
        await talk.some()
        talk.reset()

    client = await harness.client(harness.serve(await harness.backend(server), protocol="tcp"))
    await client.send(b"x")
    assert await client.is_reset()
    assert (await harness.record()).flags == "UC"


async def test_a_reset_after_that_side_had_ended_reaches_the_other(harness: Any):
    """Nobody reads the client any more, and the endpoint is silent: it must be noticed all
    the same."""
    seen = []

    async def server(talk: Any) -> None:
        seen.append(await talk.rest())
        seen.append(await talk.is_reset())

    async def server_keeps_open(talk: Any) -> None:
        seen.append(await talk.rest())
        await harness.until(lambda: len(seen) == 2)
        try:
            while True:
                await talk.send(b"x")
                await trio.lowlevel.checkpoint()
        except OSError:
            seen.append("reset")

    client = await harness.client(
        harness.serve(await harness.backend(server_keeps_open), protocol="tcp")
    )
    await client.send(b"question")
    client.end()
    await harness.until(lambda: seen)
    client.reset()
    assert (await harness.record()).flags == "DC"
    seen.append("record")
    await harness.until(lambda: len(seen) == 3)


async def flood_until_broken(client: Any) -> None:
    with suppress(OSError):
        while True:
            await client.send(bytes(MIB))


async def test_resets_while_bytes_are_spliced(harness: Any):
    async def flood(talk: Any) -> None:
        await talk.some()
        while True:
            await talk.send(bytes(MIB))

    async def sink(talk: Any) -> None:
        while await talk.some(MIB):
            pass

    async def sink_then_reset(talk: Any) -> None:
        await talk.exactly(4 * MIB)
        talk.reset()

    for script, flags in ((flood, "DC"), (sink, "DC"), (sink_then_reset, "UC")):
        harness.records.clear()
        backend = await harness.backend(script)
        name = f"test/{script.__name__.replace('_', '-')}"
        client = await harness.client(harness.serve(backend, protocol="tcp", name=name))
        await client.send(b"go")
        if script is flood:
            await client.exactly(4 * MIB)
            client.reset()
        elif script is sink:
            for _ in range(4):
                await client.send(bytes(MIB))
            client.reset()
        else:
            await flood_until_broken(client)
        assert (await harness.record()).flags == flags
    assert harness.crashes == []


def most_buffered(kind: str) -> int:
    """Bytes that one socket may hold to read ("r") or to be written ("w")."""
    return int(Path(f"/proc/sys/net/ipv4/tcp_{kind}mem").read_text().split()[2])


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_back_pressure(harness: Any, direction: Any):
    """Who sends to somebody who does not read is held up: the proxy keeps a pipe's worth, and
    the kernel what its socket buffers take."""
    sent = [0]

    async def flood(talk: Any) -> None:
        while True:
            await talk.send(bytes(65536))
            sent[0] += 65536

    async def nothing(talk: Any) -> None:
        await trio.sleep_forever()

    async def read_all(talk: Any) -> None:
        while await talk.some(MIB):
            pass

    backend = await harness.backend(flood if direction == "down" else nothing)
    client = await harness.client(harness.serve(backend, protocol="tcp"))
    async with trio.open_nursery() as nursery:
        if direction == "up":
            nursery.start_soon(flood, client)

        def stuck() -> bool:
            """The proxy waits for the slow side to take something."""
            waiting = [lane for lane in harness.node.lanes.lanes if not lane.done]
            streams = [p for p in harness.reactor._pollables if hasattr(p, "_writer")]
            return bool(waiting) and any(s._writer is not None for s in streams)

        await harness.until(stuck)
        before = -1
        while sent[0] != before or not stuck():  # until nothing moves any more
            before = sent[0]
            for _ in range(200):
                await trio.lowlevel.checkpoint()
        limit = sum(most_buffered(kind) for kind in "rw")
        assert sent[0] < 2 * limit + MIB
        assert harness.crashes == []
        nursery.cancel_scope.cancel()


async def test_a_slow_reader_gets_everything(harness: Any):
    async def server(talk: Any) -> None:
        await talk.send(bytes(range(256)) * 4096)

    backend = await harness.backend(server)
    client = await harness.client(harness.serve(backend, protocol="tcp"), buffer=4096)
    got = 0
    while data := await client.some(8191):
        got += len(data)
        await trio.lowlevel.checkpoint()
    assert got == MIB


async def test_one_byte_at_a_time(harness: Any):
    client = await harness.client(harness.serve(await harness.backend(echo), protocol="tcp"))
    text = b"one byte at a time"
    await client.trickle(text)
    assert await client.exactly(len(text)) == text


async def test_silence_ends_a_relay(make_harness: Any):
    async with make_harness(tcp_idle_timeout=0.1) as harness:
        client = await harness.client(harness.serve(await harness.backend(stall), protocol="tcp"))
        assert await client.is_reset()
        assert (await harness.record()).flags in ("SI", "UT")


async def test_a_direction_may_be_silent_while_the_other_is_not(make_harness: Any):
    async def server(talk: Any) -> None:
        for _ in range(30):  # in all three times as long as the time-out
            await talk.send(b"tick")
            await trio.sleep(0.02)

    async with make_harness(tcp_idle_timeout=0.2) as harness:
        client = await harness.client(harness.serve(await harness.backend(server), protocol="tcp"))
        assert await client.rest() == b"tick" * 30
        client.close()
        assert (await harness.record()).flags == ""


async def test_a_dead_endpoint_is_passed_over(harness: Any):
    backend = await harness.backend(echo)
    address = harness.serve(dead_endpoint(), backend, protocol="tcp")
    for count in range(20):
        client = await harness.client(address)
        await client.send(b"x")
        assert await client.exactly(1) == b"x"
        client.close()
        await harness.record(count + 1)
    assert {r.flags for r in harness.records} == {""}
    assert max(r.tries for r in harness.records) == 2
    dead = next(t for t in harness.upstream().targets.values() if t.name != backend_name(backend))
    assert dead.health.ejections == 1  # after five failures in a row
    assert [event for event, _ in harness.logged] == ["endpoint ejected"]


def backend_name(backend: Any):
    return f"{backend.address[0]}:{backend.address[1]}"


async def test_all_endpoints_dead(harness: Any):
    address = harness.serve(*(dead_endpoint() for _ in range(5)), protocol="tcp")
    client = await harness.client(address)
    assert await client.is_reset()
    record = await harness.record()
    assert record.flags == "UF"
    assert record.tries == 3
    assert "ECONNREFUSED" in record.detail


async def test_no_endpoints(harness: Any):
    client = await harness.client(harness.serve(protocol="tcp"))
    assert await client.is_reset()
    assert (await harness.record()).flags == "UH"


async def test_the_service_is_unknown(harness: Any):
    address = harness.node.serve_port(listen(("127.0.0.1", 0)), "test/none", 80).address
    client = await harness.client(address)
    assert await client.is_reset()
    assert (await harness.record()).flags == "UH"


async def test_the_limit_on_connections(make_harness: Any):
    async with make_harness(policy={"max_connections": 1}) as harness:
        address = harness.serve(await harness.backend(echo), protocol="tcp")
        first = await harness.client(address)
        await first.send(b"x")
        await first.exactly(1)
        second = await harness.client(address)
        assert await second.is_reset()
        assert (await harness.record()).flags == "UO"
        first.close()
        await harness.until(lambda: len(harness.records) == 2)
        third = await harness.client(address)
        await third.send(b"x")
        assert await third.exactly(1) == b"x"


async def test_no_socket_of_our_own_is_not_the_endpoints_fault(harness: Any, monkeypatch: Any):
    def broken(address: Any, mark: Any) -> Never:
        raise OSError(24, "Too many open files")

    backend = await harness.backend(echo)
    address = harness.serve(backend, protocol="tcp")
    monkeypatch.setattr("nodeproxy.dataplane.stream.open_socket", broken)
    for count in range(6):
        client = await harness.client(address)
        assert await client.is_reset()
        record = await harness.record(count + 1)
        assert (record.flags, record.tries) == ("UO", 1)
    (target,) = harness.upstream().targets.values()
    assert target.health.failures_5xx == 0
    monkeypatch.undo()
    client = await harness.client(address)
    await client.send(b"x")
    assert await client.exactly(1) == b"x"


async def test_no_descriptors_for_pipes_means_copying(harness: Any, monkeypatch: Any):
    def none(*_: Any) -> Never:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("os.pipe2", none)
    client = await harness.client(harness.serve(await harness.backend(echo), protocol="tcp"))
    data = os.urandom(4 * MIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, data)
        assert await client.exactly(len(data)) == data


async def test_the_service_leaves_while_a_relay_runs(harness: Any):
    client = await harness.client(harness.serve(await harness.backend(echo), protocol="tcp"))
    await client.send(b"x")
    await client.exactly(1)
    harness.know(gone=["test/web"])
    await client.send(b"y")
    assert await client.exactly(1) == b"y"
    client.end()
    assert await client.rest() == b""
    (upstream,) = harness.upstreams
    await harness.until(lambda: upstream.connections == 0)


async def test_shutdown_ends_every_relay(harness: Any):
    address = harness.serve(await harness.backend(stall), protocol="tcp")
    clients = [await harness.client(address) for _ in range(10)]
    await harness.until(lambda: len(harness.backends[0].open) == 10)
    harness.node.close()
    for client in clients:
        assert await client.rest() == b""
    assert not harness.node.lanes.lanes
    assert len(harness.records) == 10
    assert isinstance(client.sock.family, socket.AddressFamily)
