"""Everybody misbehaves at random, and in the end nothing is left over."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
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
                _, fields = await talk.request()
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


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_chaos(make_harness: Any, seed: Any):
    rng = Random(seed)
    timeouts = {
        "header_timeout": 0.2,
        "body_timeout": 0.2,
        "keep_alive_timeout": 0.3,
        "tcp_idle_timeout": 0.3,
        "detect_timeout": 0.05,
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
        assert all(0 < r.started <= r.ended for r in harness.records)
        flags = {r.flags for r in harness.records}
        assert {"", "DC", "UC"} <= flags
