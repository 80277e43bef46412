"""Everybody misbehaves at random, and in the end nothing is left over."""

from __future__ import annotations

import gc
import os
from random import Random
from typing import Any

import pytest
import trio

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
STREAM = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
CHAT = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
LAST = b"OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
SECONDS = 2.0


def backend_script(rng: Any):
    async def script(talk: Any) -> None:
        if rng.random() < 0.05:
            talk.reset()
            return
        if rng.random() < 0.1:
            await talk.send(b"220 hello\r\n")
        while True:
            with trio.move_on_after(0.3):
                try:
                    _, fields = await talk.request()
                except ValueError:
                    return  # relayed as TCP, it need not be a request
                if b"upgrade" in fields and rng.random() < 0.7:
                    await talk.send(SWITCH + b"welcome")
                    while data := await talk.some():
                        await talk.send(data)
                    return
                if b"transfer-encoding" in fields:
                    if rng.random() < 0.5:
                        await talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                    if rng.random() < 0.7:
                        await talk.until(b"0\r\n\r\n")
                body = await talk.exactly(int(fields.get(b"content-length", 0)))
                answer = rng.choice(
                    [
                        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
                        b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nhi",
                        CHUNKED,
                        b"HTTP/1.1 200 OK\r\n\r\n" + body,
                        b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n" + bytes(500_000),
                        b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n" + bytes(70_000),
                        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
                        b"HTTP/1.1 100 Continue\r\n\r\n",
                        b"nonsense\r\n\r\n",
                    ]
                )
                what = rng.random()
                if what < 0.1:
                    await talk.trickle(answer[:200], turns=1)
                elif what < 0.15:
                    talk.end()
                elif what < 0.2:
                    talk.reset()
                    return
                else:
                    await talk.send(answer)
                if answer.startswith(b"HTTP/1.1 200 OK\r\n\r\n"):
                    return
                continue
            return

    return script


async def client_life(harness: Any, address: Any, rng: Any):
    try:
        client = await harness.client(address)
        for _ in range(rng.randrange(1, 6)):
            what = rng.random()
            if what < 0.5:
                await client.send(b"".join(GET % i for i in range(rng.randrange(1, 5))))
            elif what < 0.8:
                size = rng.choice([0, 10, 100_000, 1_000_000])
                await client.send(POST % size)
                await client.send(bytes(rng.choice([size, size // 2])))
            elif what < 0.85:
                await client.send(b"\x00\x01binary")
            elif what < 0.89:
                await client.send(CHAT)
                await client.send(bytes(rng.choice([0, 5, 200_000])))
            elif what < 0.94:
                size = rng.choice([1, 70_000])
                await client.send(STREAM + b"%x\r\n" % size)
                await client.send(bytes(rng.choice([size, size // 2])) + b"\r\n0\r\n\r\n")
            elif what < 0.96:
                await client.send(LAST)
            else:
                await client.trickle(GET % 1, turns=1)
            with trio.move_on_after(rng.random() * 0.1):
                await client.some()
            what = rng.random()
            if what < 0.1:
                client.reset()
                return
            if what < 0.2:
                client.end()
        client.close()
    except OSError:
        pass


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_chaos(make_harness: Any, seed: Any):
    rng = Random(seed)
    timeouts = {
        "header_timeout": 0.2,
        "body_timeout": 0.2,
        "keep_alive_timeout": 0.3,
        "tcp_idle_timeout": 0.3,
        "detect_timeout": 0.05,
        "request_timeout": 0.5,
        "max_body": 900_000,
        "max_per_client": 18,
        "policy": {"response_timeout": 0.2, "body_timeout": 0.2, "max_connections": 60},
    }
    async with make_harness(**timeouts) as harness:
        backends = [await harness.backend(backend_script(rng)) for _ in range(4)]
        services = [
            harness.service(*backends, protocol=protocol, name=f"test/{protocol or 'detect'}")
            for protocol in ("http", "tcp", "")
        ]
        addresses = [
            harness.serve(*backends, protocol=s.ports[0].protocol, name=s.name) for s in services
        ]
        with trio.move_on_after(SECONDS):
            async with trio.open_nursery() as nursery:

                async def life() -> None:
                    while True:
                        await client_life(harness, rng.choice(addresses), rng)
                        await trio.lowlevel.checkpoint()

                async def registry() -> None:
                    """Endpoints come and go, and so does the one or other service."""
                    while True:
                        await trio.sleep(0.02)
                        service = rng.choice(services)
                        some = rng.sample(backends, rng.randrange(1, 5))
                        if rng.random() < 0.1:
                            harness.know(gone=[service.name])
                        else:
                            harness.know(
                                harness.service(
                                    *some, protocol=service.ports[0].protocol, name=service.name
                                )
                            )

                for _ in range(20):
                    nursery.start_soon(life)
                nursery.start_soon(registry)
        assert len(harness.records) > 100
        await harness.settle()
        assert harness.node.door.open == 0
        assert harness.node.door._clients == {}
        assert all(0 < r.started <= r.ended for r in harness.records)
        flags = {r.flags for r in harness.records}
        assert {"", "DC", "UC"} <= flags
        assert 101 in {r.status for r in harness.records}


async def test_memory_is_flat_in_chaos(make_harness: Any):
    """Four rounds of the same: what the first one took is what the last one has."""
    rng = Random(4)
    timeouts = {"header_timeout": 0.1, "body_timeout": 0.1, "keep_alive_timeout": 0.1}
    policy = {"response_timeout": 0.1, "body_timeout": 0.1}
    async with make_harness(**timeouts, tcp_idle_timeout=0.1, policy=policy) as harness:
        address = harness.serve(*[await harness.backend(backend_script(rng)) for _ in range(3)])
        seen = []
        for _ in range(4):
            with trio.move_on_after(SECONDS / 2):
                async with trio.open_nursery() as nursery:

                    async def life() -> None:
                        while True:
                            await client_life(harness, address, rng)
                            await trio.lowlevel.checkpoint()

                    for _ in range(10):
                        nursery.start_soon(life)
            for talk in harness.clients:
                talk.close()
            await harness.until(lambda: not harness.node.lanes.lanes)
            harness.records.clear()
            harness.lines.clear()
            harness.clients.clear()
            gc.collect()
            seen.append(resident())
        assert seen[-1] - seen[1] < 8 << 20
