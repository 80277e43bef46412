"""The reactor: fairness, rhythm, measured stalls; and listeners that run out of descriptors."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import suppress
from typing import Any, Never

import pytest
import trio

from nodeproxy.dataplane.listener import listen
from nodeproxy.dataplane.reactor import BATCH, Reactor
from nodeproxy.dataplane.stream import UPSTREAM, Stream

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
LONG = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def hello(talk: Any):
    while True:
        await talk.request()
        await talk.send(HELLO)


def test_a_sweep_is_bounded(lanes: Any):
    ends = [lanes.pair() for _ in range(BATCH + 20)]
    got = []

    async def read(stream: Any) -> None:
        got.append(await stream.recv(LONG))

    streams = [Stream(lanes.reactor, mine, UPSTREAM) for mine, _ in ends]
    for stream in streams:
        lanes.spawn(read(stream))
    for _, peer in ends:
        peer.send(b"x")
    assert lanes.reactor.sweep() == BATCH
    assert len(got) == BATCH
    lanes.turn()
    assert len(got) == BATCH + 20
    for stream in streams:
        stream.close()
    for _, peer in ends:
        peer.close()


def test_a_lane_that_always_has_something_to_read_gets_one_turn_a_sweep(lanes: Any):
    turns = {"firehose": 0, "small": 0}
    ends = {name: lanes.pair() for name in turns}
    streams = {name: Stream(lanes.reactor, ends[name][0], UPSTREAM) for name in turns}

    async def read(name: Any, size: Any) -> None:
        while True:
            await streams[name].recv(LONG, size)
            turns[name] += 1

    for name in turns:
        lanes.spawn(read(name, 100))
        ends[name][1].send(bytes(100 * 50 if name == "firehose" else 100 * 3))
    for sweep in range(1, 4):
        lanes.reactor.sweep()
        assert turns == {"firehose": sweep, "small": sweep}
    lanes.group.cancel()
    for name in turns:
        streams[name].close()
        ends[name][1].close()


async def test_a_firehose_does_not_starve_a_small_request(harness: Any):
    async def flood(talk: Any) -> None:
        while True:
            await talk.send(bytes(1 << 20))

    loud = harness.serve(await harness.backend(flood), protocol="tcp", name="test/loud")
    quiet = harness.serve(await harness.backend(hello))
    clients = [await harness.client(loud) for _ in range(4)]

    async def swallow(client: Any) -> None:
        while await client.some(1 << 20):
            pass

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(swallow, client)
        for _ in range(50):
            assert (await harness.get(quiet))[0] == 200
        nursery.cancel_scope.cancel()


def test_every_keeps_its_rhythm():
    clock = Clock()
    reactor = Reactor(clock=clock)
    calls = []
    reactor.every(0.1, lambda: calls.append(clock.now))
    for tick in range(1, 101):  # two seconds of ticks, each a little late
        clock.now = 1000.0 + tick * 0.02 + 0.003
        reactor.tick()
    assert len(calls) == 20
    assert all(0 <= at - 1000.0 - 0.1 * (i + 1) < 0.025 for i, at in enumerate(calls))
    clock.now += 5.0  # a stall: one call, and the rhythm from there
    reactor.tick()
    reactor.tick()
    assert len(calls) == 21
    clock.now += 0.101
    reactor.tick()
    assert len(calls) == 22
    reactor.close()


async def test_stalls_are_told():
    clock = Clock()
    reactor = Reactor(clock=clock)
    lags = []
    reactor.on_lag = lags.append
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        with trio.fail_after(10):
            while len(lags) < 3:
                clock.now += 0.02
                await trio.sleep(0.001)
            clock.now += 1.5
            while max(lags) < 1.4:  # noqa: ASYNC110
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    reactor.close()


async def test_out_of_descriptors_it_stops_accepting_and_begins_again(harness: Any):
    address = harness.serve(await harness.backend(hello))
    client = await harness.client(address)
    await client.send(GET)
    await client.answer()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(harness.descriptors()) + 64, limits[1]))
    fillers = []
    try:
        with suppress(OSError):
            while True:
                fillers.append(os.dup(2))
        # The client's socket takes the last descriptor: none is left to accept it with.
        os.close(fillers.pop())
        late = await harness.client(address)
        await harness.until(lambda: harness.logged)
        assert "out of descriptors" in harness.logged[0][0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in fillers:
            os.close(fd)
    for each in (late, client):
        await each.send(GET)
        assert (await each.answer())[0] == 200


async def test_a_connection_that_cannot_be_watched_is_closed(harness: Any, monkeypatch: Any):
    address = harness.serve(await harness.backend(hello))
    register = harness.reactor.register

    def full(fd: Any, pollable: Any, mask: Any) -> None:
        if isinstance(pollable, Stream):
            raise OSError(28, "No space left on device")  # epoll's max_user_watches
        register(fd, pollable, mask)

    monkeypatch.setattr(harness.reactor, "register", full)
    client = await harness.client(address)
    assert await client.rest() == b""
    monkeypatch.undo()
    await harness.until(lambda: harness.logged)
    assert (await harness.get(address))[0] == 200


async def test_a_crash_in_a_lane_harms_no_other(harness: Any, monkeypatch: Any):
    address = harness.serve(await harness.backend(hello))
    other = await harness.client(address)
    await other.send(GET)
    await other.answer()

    def bug(*_: Any, **__: Any) -> Never:
        raise ZeroDivisionError

    monkeypatch.setattr("nodeproxy.core.http1.onward.Onward.request", bug)
    client = await harness.client(address)
    await client.send(GET)
    assert await client.rest() == b""
    monkeypatch.undo()
    await other.send(GET)
    assert (await other.answer())[0] == 200
    assert [type(e) for e in harness.crashes] == [ZeroDivisionError]
    harness.crashes.clear()


def test_a_flood_of_connections_leaves_time_for_others(lanes: Any):
    from nodeproxy.dataplane.listener import ACCEPTS, Listener

    server = listen(("127.0.0.1", 0))
    taken = []
    listener = Listener(
        lanes.reactor, server, lambda sock, peer: taken.append(sock), on_scarce=pytest.fail
    )
    clients = [socket.create_connection(listener.address) for _ in range(ACCEPTS + 5)]
    lanes.reactor.sweep()
    assert len(taken) == ACCEPTS
    lanes.reactor.sweep()
    assert len(taken) == ACCEPTS + 5
    listener.close()
    listener.close()
    for sock in [*clients, *taken]:
        sock.close()
