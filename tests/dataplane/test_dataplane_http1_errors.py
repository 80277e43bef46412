"""HTTP/1.1 when something fails: every failure has its status, its flag, and one record."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio

from nodeproxy.dataplane.listener import listen
from registry.model import Endpoint

MIB = 1 << 20
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


async def hello(talk: Any):
    while True:
        _, fields = await talk.request()
        await talk.exactly(int(fields.get(b"content-length", 0)))
        await talk.send(HELLO)


async def stall(talk: Any):
    await trio.sleep_forever()


def dead_endpoint():
    sock = listen(("127.0.0.1", 0))
    address = sock.getsockname()[:2]
    sock.close()
    return Endpoint(*address)


# -- the endpoint fails ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status", "flags"),
    [
        (b"", 502, "UC"),
        (b"HTTP/1.1 200", 502, "UPE"),
        (b"garbage\r\n\r\n", 502, "UPE"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 502, "UPE"),
    ],
)
async def test_no_answer_or_a_bad_one(harness: Any, answer: Any, status: Any, flags: Any):
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(answer)

    assert (await harness.get(harness.serve(await harness.backend(script))))[0] == status
    record = await harness.record()
    assert (record.status, record.flags) == (status, flags)
    (target,) = harness.upstream().targets.values()
    assert (target.series.success.value, target.series.failure.value) == (0, 1)


async def test_an_endpoint_that_resets(harness: Any):
    async def script(talk: Any) -> None:
        await talk.request()
        talk.reset()

    assert (await harness.get(harness.serve(await harness.backend(script))))[0] == 502
    assert (await harness.record()).flags == "UC"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n" + bytes(MIB),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nbad chunk\r\n",
    ],
)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_answer_that_is_cut_short_is_cut_short_for_the_client(
    harness: Any, answer: Any, how: Any
):
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(answer)
        if how == "reset":
            talk.reset()

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(GET)
    assert await client.is_reset()
    record = await harness.record()
    assert record.flags in ("UC", "UPE")
    (target,) = harness.upstream().targets.values()
    # One request, one outcome.
    assert (target.series.success.value, target.series.failure.value) == (0, 1)


async def test_an_endpoint_that_dies_in_every_body_is_ejected(make_harness: Any):
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart")

    async with make_harness(policy={"balance": "round_robin"}) as harness:
        bad, good = await harness.backend(script), await harness.backend(hello)
        address = harness.serve(bad, good)
        for count in range(12):
            client = await harness.client(address)
            await client.send(GET)
            await client.is_reset() if count < 12 and not await ok(client) else None
            client.close()
            await harness.record(count + 1)
        assert [event for event, _ in harness.logged] == ["endpoint ejected"]


async def ok(client: Any):
    try:
        return (await client.answer())[2] == b"hi"
    except (OSError, AssertionError):
        return False


async def test_an_endpoint_that_is_too_slow(make_harness: Any):
    async with make_harness(policy={"response_timeout": 0.1}) as harness:
        assert (await harness.get(harness.serve(await harness.backend(stall))))[0] == 504
        record = await harness.record()
        assert (record.status, record.flags) == (504, "UT")


async def test_the_time_for_an_answer_is_for_the_whole_head(make_harness: Any):
    async def drip(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await talk.send(b"X: 1\r\n")
            await trio.sleep(0.01)

    async with make_harness(policy={"response_timeout": 0.15}) as harness:
        assert (await harness.get(harness.serve(await harness.backend(drip))))[0] == 504
        assert (await harness.record()).flags == "UT"


async def test_the_time_for_an_answer_begins_when_the_request_has_ended(make_harness: Any):
    async with make_harness(policy={"response_timeout": 0.2}) as harness:
        client = await harness.client(harness.serve(await harness.backend(hello)))
        await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n")
        for _ in range(30):  # takes longer than the time-out
            await client.send(b"x")
            await trio.sleep(0.02)
        assert (await client.answer())[0] == 200


async def test_an_endpoint_that_stops_reading(make_harness: Any):
    async with make_harness(body_timeout=0.2) as harness:
        backend = await harness.backend(stall)
        client = await harness.client(harness.serve(backend))
        await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                with suppress(OSError):
                    while True:
                        await client.send(bytes(MIB))

            nursery.start_soon(flood)
            assert (await harness.record()).flags == "UT"
            nursery.cancel_scope.cancel()
        assert harness.records[0].status == 504


async def test_an_endpoint_that_stalls_in_a_body(make_harness: Any):
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart")
        await trio.sleep_forever()

    async with make_harness(policy={"body_timeout": 0.1}) as harness:
        client = await harness.client(harness.serve(await harness.backend(script)))
        await client.send(GET)
        assert await client.is_reset()
        record = await harness.record()
        assert (record.status, record.flags) == (200, "UT")


# -- the client fails -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "end"])
async def test_a_client_that_leaves_while_the_endpoint_works(harness: Any, how: Any):
    seen = []

    async def script(talk: Any) -> None:
        await talk.request()
        seen.append("working")
        await talk.is_reset()
        seen.append("closed")

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(GET)
    await harness.until(lambda: seen)
    getattr(client, how)()
    await harness.until(lambda: len(seen) == 2)
    record = await harness.record()
    assert (record.status, record.flags) == (499, "DC")
    (target,) = harness.upstream().targets.values()
    assert target.series.failure.value == 0


async def test_a_client_that_leaves_with_another_request_waiting(harness: Any):
    seen = []

    async def script(talk: Any) -> None:
        await talk.request()
        seen.append("working")
        await talk.is_reset()
        seen.append("closed")

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(GET)
    await harness.until(lambda: seen)
    await client.send(GET)
    client.close()
    await harness.until(lambda: len(seen) == 2)
    assert (await harness.record()).flags == "DC"


async def test_a_client_that_leaves_within_an_answer(harness: Any):
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            await talk.send(bytes(MIB))

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(GET)
    await client.exactly(MIB)
    client.reset()
    record = await harness.record()
    assert (record.status, record.flags) == (200, "DC")
    (target,) = harness.upstream().targets.values()
    assert (target.series.success.value, target.series.failure.value) == (1, 0)


@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
async def test_a_client_that_leaves_within_a_request(harness: Any, framing: Any):
    client = await harness.client(harness.serve(await harness.backend(stall)))
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n5")
    await harness.until(lambda: harness.backends[0].open)
    client.close()
    assert (await harness.record()).flags == "DC"


async def test_a_body_that_is_malformed(harness: Any):
    client = await harness.client(harness.serve(await harness.backend(stall)))
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    await harness.until(lambda: harness.backends[0].open)
    await client.send(b"nonsense\r\n")
    assert (await client.answer())[0] == 400
    assert (await harness.record()).flags == "DPE"
    (target,) = harness.upstream().targets.values()
    assert target.series.failure.value == 0


async def test_a_body_that_does_not_come(make_harness: Any):
    async with make_harness(body_timeout=0.1) as harness:
        client = await harness.client(harness.serve(await harness.backend(stall)))
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        assert (await client.answer())[0] == 408
        assert (await harness.record()).flags == "SI"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nBad Field: x\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n" + CHUNKED + b"\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431),
    ],
)  # fmt: skip
async def test_a_malformed_head_is_refused_and_the_connection_closed(
    harness: Any, head: Any, status: Any
):
    backend = await harness.backend(hello)
    client = await harness.client(harness.serve(backend))
    await client.send(head)
    assert (await client.answer())[0] == status
    assert await client.rest() == b""
    record = await harness.record()
    assert (record.status, record.flags) == (status, "DPE")
    assert backend.accepted == 0


async def test_a_head_that_does_not_come_to_its_end(make_harness: Any):
    async with make_harness(header_timeout=0.1) as harness:
        client = await harness.client(harness.serve(await harness.backend(hello)))
        await client.send(b"GET / HTTP/1.1\r\nHo")
        assert (await client.answer())[0] == 408
        assert (await harness.record()).flags == "SI"


async def test_silence_between_requests_is_no_error(make_harness: Any):
    async with make_harness(keep_alive_timeout=0.1) as harness:
        client = await harness.client(harness.serve(await harness.backend(hello)))
        await client.send(GET)
        assert (await client.answer())[0] == 200
        assert await client.rest() == b""
        await harness.record(1)
