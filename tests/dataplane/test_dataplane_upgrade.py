"""Upgrade (RFC 9110, 7.8): a connection that changes to another protocol becomes a tunnel."""

from __future__ import annotations

from typing import Any

import pytest
import trio

ASK = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: %b\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: %b\r\nConnection: Upgrade\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
MIB = 1 << 20


async def echo(talk: Any):
    """Changes to what is asked for, and sends back what comes, to the end."""
    _, fields = await talk.request()
    await talk.send(SWITCH % fields[b"upgrade"])
    while data := await talk.some():
        await talk.send(data)
    talk.end()


@pytest.mark.parametrize("protocol", [b"websocket", b"WebSocket", b"anything/1.0"])
async def test_a_tunnel_carries_both_ways_and_ends_half_by_half(harness: Any, protocol: Any):
    client = await harness.client(harness.serve(await harness.backend(echo)))
    await client.send(ASK % protocol)
    line, fields = await client.head()
    assert line == b"HTTP/1.1 101 Switching Protocols"
    assert (fields[b"connection"], fields[b"upgrade"]) == (b"upgrade", protocol)
    for _ in range(3):
        await client.send(b"GET / HTTP/1.1\r\n\x00\xff")
        assert await client.exactly(18) == b"GET / HTTP/1.1\r\n\x00\xff"
    client.end()  # what the endpoint still has to say arrives after our end
    assert await client.rest() == b""
    record = await harness.record()
    assert (record.status, record.flags, record.protocol) == (101, "", "HTTP/1.1")
    assert (record.bytes_received, record.bytes_sent) == (54, 54)
    (target,) = harness.upstream().targets.values()
    assert (target.series.success.value, target.series.failure.value) == (1, 0)
    assert len(target.pool.idle) == 0


async def test_the_endpoint_is_asked_for_what_the_client_asked_for(harness: Any):
    seen = []

    async def script(talk: Any) -> None:
        seen.append(await talk.request())
        await talk.send(HELLO)

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(ASK % b"h2c, websocket")
    assert (await client.answer())[2] == b"hi"  # it need not change; the connection goes on
    assert (seen[0][1][b"connection"], seen[0][1][b"upgrade"]) == (b"upgrade", b"websocket")
    await client.send(ASK % b"h2c")
    assert (await client.answer())[2] == b"hi"
    assert not {b"upgrade", b"connection"} & seen[1][1].keys()


async def test_bytes_that_come_with_the_switch_are_the_tunnels(harness: Any):
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(SWITCH % b"x" + b"first words")
        assert await talk.exactly(5) == b"early"
        await talk.send(b"!")
        talk.end()
        await talk.rest()

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(ASK % b"x" + b"early")
    await client.head()
    assert await client.exactly(12) == b"first words!"
    client.end()
    assert await client.rest() == b""
    record = await harness.record()
    assert (record.bytes_received, record.bytes_sent) == (5, 12)


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", SWITCH % b"websocket"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", SWITCH % b"websocket"),
        (ASK % b"h2c", SWITCH % b"h2c"),
        (ASK % b"websocket", SWITCH % b"other"),
        (ASK % b"websocket", SWITCH % b"websocket, other"),
        (ASK % b"websocket", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        (
            ASK % b"websocket",
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello",
        ),
    ],
)
async def test_a_101_that_was_not_asked_for_is_an_error(harness: Any, ask: Any, answer: Any):
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(answer)
        await talk.rest()

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(ask)
    assert (await client.answer())[0] == 502
    assert await client.rest() == b""
    assert (await harness.record()).flags == "UPE"


async def test_no_request_is_read_in_a_tunnel(harness: Any):
    """What looks like a request behind an upgrade is not one, unless the endpoint declines."""

    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(HELLO)
        line, _ = await talk.request()
        assert line == b"GET /second HTTP/1.1"
        await talk.send(HELLO)

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(ASK % b"websocket" + b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
    for _ in range(2):
        assert (await client.answer())[2] == b"hi"
    assert (await harness.record(2)).status == 200


async def test_a_426_tells_what_to_ask_for(harness: Any):
    """RFC 9110, 15.5.22: it has to name the protocols, and so Connection names the field."""

    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(
            b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Content-Length: 0\r\n\r\n"
        )

    status, fields, _ = await harness.get(harness.serve(await harness.backend(script)))
    assert status == 426
    assert (fields[b"connection"], fields[b"upgrade"]) == (b"upgrade", b"websocket")


async def test_silence_ends_a_tunnel(make_harness: Any):
    async with make_harness(tcp_idle_timeout=0.1) as harness:
        client = await harness.client(harness.serve(await harness.backend(echo)))
        await client.send(ASK % b"websocket")
        await client.head()
        assert await client.is_reset()
        record = await harness.record()
        assert record.status == 101
        assert "nothing was read" in record.detail
        (target,) = harness.upstream().targets.values()
        assert target.series.failure.value == 0  # it did what it was asked for


@pytest.mark.parametrize("who", ["client", "endpoint"])
async def test_a_reset_in_a_tunnel_reaches_the_other_side(harness: Any, who: Any):
    reset = []

    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(SWITCH % b"x")
        await talk.exactly(2)
        if who == "endpoint":
            talk.reset()
        else:
            reset.append(await talk.is_reset())

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(ASK % b"x")
    await client.head()
    await client.send(b"go")
    if who == "client":
        await harness.until(lambda: harness.backends[0].open)
        client.reset()
        await harness.until(lambda: reset)
        assert reset == [True]
        assert (await harness.record()).flags == "DC"
    else:
        assert await client.is_reset()
        assert (await harness.record()).flags == "UC"


async def test_shutdown_ends_a_tunnel(make_harness: Any):
    async with make_harness() as harness:
        client = await harness.client(harness.serve(await harness.backend(echo)))
        await client.send(ASK % b"websocket")
        await client.head()
        harness.node.drain()
        await client.send(b"still here")
        assert await client.exactly(10) == b"still here"
        harness.node.close()
        assert await client.rest() == b""


async def test_a_tunnel_has_back_pressure(harness: Any):
    """The endpoint floods, the client does not read: the proxy holds no more than a pipe."""
    sent = []

    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(SWITCH % b"x")
        while len(sent) < 64:
            await talk.send(bytes(MIB))
            sent.append(1)

    client = await harness.client(harness.serve(await harness.backend(script)), buffer=16384)
    await client.send(ASK % b"x")
    await client.head()
    before = -1
    while before != len(sent):
        before = len(sent)
        for _ in range(300):
            await trio.lowlevel.checkpoint()
    assert len(sent) < 40
    client.reset()
    assert (await harness.record()).flags == "DC"
