"""HTTP/1.1 exchanges: framing, fields, keep-alive and pipelining, both sides well-behaved."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest
import trio

from nodeproxy.core.http1 import Chunked

MIB = 1 << 20
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def always(answer: Any):
    """A back end that gives one answer to every request without a body."""

    async def script(talk: Any) -> None:
        while True:
            await talk.request()
            await talk.send(answer)

    return script


def once(answer: Any):
    """As always, but closes after the first."""

    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(answer)

    return script


async def read_chunked(talk: Any):
    """The body as it came, up to its end."""
    chunks, parts = Chunked(), []
    while True:
        data = await talk.some()
        assert data
        end = chunks.feed(data)
        if end >= 0:
            talk.data = data[end:] + talk.data
            parts.append(data[:end])
            return b"".join(parts)
        parts.append(data)


def chunked(body: Any, size: Any):
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


async def mirror(talk: Any):
    """Sends a request's body back as it came, with the framing it came in."""
    while True:
        _, fields = await talk.request()
        if b"transfer-encoding" in fields:
            body = await read_chunked(talk)
            await talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        else:
            body = await talk.exactly(int(fields.get(b"content-length", 0)))
            await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


async def test_keep_alive_on_both_sides(harness: Any):
    backend = await harness.backend(always(HELLO))
    client = await harness.client(harness.serve(backend))
    for _ in range(50):
        await client.send(GET)
        assert (await client.answer())[2] == b"hi"
    assert backend.accepted == 1
    record = await harness.record(50)
    assert (record.status, record.flags, record.tries) == (200, "", 1)
    assert (record.bytes_received, record.bytes_sent) == (0, 2)
    assert 0 < record.started <= record.sent <= record.responded <= record.ended
    assert harness.lines[-1].startswith(b'{"start_time"')
    (target,) = harness.upstream().targets.values()
    assert target.series.success.value == 50
    assert target.series.failure.value == 0
    assert target.series.waited.value > 0
    assert len(target.pool.idle) == 1


async def test_requests_are_balanced_each_on_its_own(harness: Any):
    backends = [await harness.backend(always(HELLO)) for _ in range(3)]
    client = await harness.client(harness.serve(*backends))
    for _ in range(60):
        await client.send(GET)
        await client.answer()
    assert all(t.series.success.value > 5 for t in harness.upstream().targets.values())


async def test_pipelined_requests_are_answered_in_order(harness: Any):
    async def script(talk: Any) -> None:
        while True:
            line, _ = await talk.request()
            body = line.split()[1]
            await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(100)))
    for i in range(100):
        assert (await client.answer())[2] == b"/%d" % i
    await harness.record(100)


async def test_pipelined_requests_with_bodies(harness: Any):
    client = await harness.client(harness.serve(await harness.backend(mirror)))
    one = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none"
    two = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n"
    await client.send(one + two + GET + one)
    assert (await client.answer())[2] == b"one"
    assert (await client.answer())[2] == b"3\r\ntwo\r\n0\r\n\r\n"
    assert (await client.answer())[2] == b""
    assert (await client.answer())[2] == b"one"
    await harness.record(4)


async def test_a_pipelined_request_after_a_body_that_came_in_pieces(harness: Any):
    client = await harness.client(harness.serve(await harness.backend(mirror)))
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe")
    await harness.until(lambda: harness.backends[0].open)
    await client.send(b"llo\r\n0\r\n\r\n" + GET)
    assert (await client.answer())[2] == b"5\r\nhello\r\n0\r\n\r\n"
    assert (await client.answer())[2] == b""
    assert (await harness.record(2)).flags == ""


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_10_mib_up_and_down(harness: Any, framing: Any):
    async def script(talk: Any) -> None:
        """As mirror, at the same time in both directions."""
        _, fields = await talk.request()
        if framing == "length":
            left = int(fields[b"content-length"])
            await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
            while left:
                data = await talk.some()
                left -= len(data)
                await talk.send(data)
        else:
            await talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await talk.send(await read_chunked(talk))

    body = os.urandom(10 * MIB)
    if framing == "chunked":
        head = b"Transfer-Encoding: chunked"
        body = chunked(body, 70_001)
    else:
        head = b"Content-Length: %d" % len(body)
    client = await harness.client(harness.serve(await harness.backend(script)))

    async def write() -> None:
        await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n" + body)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await client.head()
        got = await client.exactly(len(body))
    assert hashlib.blake2b(got).digest() == hashlib.blake2b(body).digest()
    record = await harness.record()
    assert (record.bytes_received, record.bytes_sent) == (len(body), len(body))
    assert record.flags == ""


async def test_a_body_one_byte_at_a_time(harness: Any):
    client = await harness.client(harness.serve(await harness.backend(mirror)))
    await client.trickle(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4;ext=1\r\nabcd\r\n0\r\nX-Check: 1\r\n\r\n",
        turns=1,
    )
    line, _fields = await client.head()
    assert line == b"HTTP/1.1 200 OK"
    assert await client.until(b"X-Check: 1\r\n\r\n") == (
        b"4;ext=1\r\nabcd\r\n0\r\nX-Check: 1\r\n\r\n"
    )
    assert (await harness.record()).flags == ""


async def test_an_answer_one_byte_at_a_time(harness: Any):
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.trickle(
            b"HTTP/1.1 100 Continue\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n",
            turns=1,
        )
        await talk.request()
        await talk.send(HELLO)

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(GET)
    assert (await client.head())[0] == b"HTTP/1.1 100 Continue"
    assert (await client.head())[0] == b"HTTP/1.1 200 OK"
    assert await client.until(b"A: b\r\n\r\n") == b"2\r\nhi\r\n0\r\nA: b\r\n\r\n"
    await client.send(GET)
    assert (await client.answer())[2] == b"hi"
    assert harness.backends[0].accepted == 1


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
        (b"POST", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ],
)
async def test_answers_without_a_body(harness: Any, method: Any, answer: Any):
    client = await harness.client(harness.serve(await harness.backend(always(answer))))
    for _ in range(2):
        await client.send(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await client.until(b"\r\n\r\n") == answer
    assert harness.backends[0].accepted == 1
    assert (await harness.record(2)).bytes_sent == 0


async def test_a_body_that_ends_with_the_connection(harness: Any):
    script = once(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(MIB))
    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(GET)
    status, fields, body = await client.answer()
    assert (status, len(body)) == (200, MIB)
    assert fields[b"connection"] == b"close"
    assert (await harness.record()).flags == ""


@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
async def test_http_1_0_clients(harness: Any, connection: Any):
    seen = []

    async def script(talk: Any) -> None:
        seen.append(await talk.request())
        await talk.send(HELLO)

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(b"GET / HTTP/1.0\r\n" + connection + b"\r\n")
    status, fields, body = await client.answer()
    assert (status, fields[b"connection"], body) == (200, b"close", b"hi")
    assert await client.rest() == b""
    assert seen[0][0] == b"GET / HTTP/1.0"  # so that it is not answered with chunks
    assert (await harness.record()).protocol == "HTTP/1.0"


async def test_chunks_are_not_for_http_1_0(harness: Any):
    script = once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert (await client.answer())[0] == 502
    assert (await harness.record()).flags == "UPE"


async def test_an_http_1_0_server(harness: Any):
    script = once(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    backend = await harness.backend(script)
    client = await harness.client(harness.serve(backend))
    for _ in range(2):
        await client.send(GET)
        line, fields = await client.head()
        assert line == b"HTTP/1.1 200 OK"
        assert b"connection" not in fields
        assert await client.exactly(2) == b"hi"
    assert backend.accepted == 2


async def test_fields_on_the_way_up(harness: Any):
    seen = []

    async def script(talk: Any) -> None:
        seen.append(await talk.request())
        await talk.send(HELLO)

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(
        b"GET /x?y HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n"
        b"TE: trailers\r\nProxy-Connection: x\r\nUpgrade: websocket\r\nX-Forwarded-For: 1.2.3.4\r\n"
        b"X-Forwarded-Proto: https\r\nX-Keep: 1\r\n\r\n"
    )
    await client.answer()
    assert await client.rest() == b""
    line, fields = seen[0]
    assert line == b"GET /x?y HTTP/1.1"
    assert len(fields.pop(b"x-request-id")) == 36
    assert fields == {
        b"host": b"a",
        b"x-keep": b"1",
        b"x-forwarded-for": b"1.2.3.4, 127.0.0.1",
        b"x-forwarded-proto": b"https",
        b"via": b"1.1 nodeproxy",
    }


async def test_fields_on_the_way_down(harness: Any):
    script = once(
        b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Content-Length: 2\r\nX-Keep: 1\r\n\r\nhi"
    )
    client = await harness.client(harness.serve(await harness.backend(script)))
    for _ in range(2):
        await client.send(GET)
        status, fields, body = await client.answer()
        assert (status, body) == (200, b"hi")
        assert fields == {b"content-length": b"2", b"x-keep": b"1"}
    assert harness.backends[0].accepted == 2


# -- interim answers -----------------------------------------------------------------------


async def test_100_continue(harness: Any):
    async def script(talk: Any) -> None:
        _, fields = await talk.request()
        assert fields[b"expect"] == b"100-continue"
        await talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await talk.exactly(5) == b"hello"
        await talk.send(HELLO)

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    )
    assert (await client.head())[0] == b"HTTP/1.1 100 Continue"
    await client.send(b"hello")
    assert (await client.answer())[2] == b"hi"
    assert (await harness.record()).bytes_received == 5


async def test_a_final_answer_instead_of_100(harness: Any):
    script = always(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    )
    status, fields, _ = await client.answer()
    assert (status, fields[b"connection"]) == (417, b"close")
    assert await client.rest() == b""
    assert (await harness.record()).flags == ""


async def test_early_hints_and_a_final_answer_in_one_read(harness: Any):
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nX: 1\r\n\r\n"
    client = await harness.client(harness.serve(await harness.backend(always(hints + HELLO))))
    for _ in range(2):
        await client.send(GET)
        line, fields = await client.head()
        assert line == b"HTTP/1.1 103 Early Hints"
        assert fields == {b"link": b"</a>"}
        assert (await client.answer())[2] == b"hi"
    await harness.record(2)


async def test_interim_answers_are_not_for_http_1_0(harness: Any):
    script = always(b"HTTP/1.1 103 Early Hints\r\n\r\n" + HELLO)
    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert (await client.answer())[2] == b"hi"


# -- early answers -------------------------------------------------------------------------


async def test_an_answer_before_the_body_is_complete_is_read(harness: Any):
    """The client goes on sending: closing with its bytes unread would reset the connection
    and lose the answer."""

    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await talk.rest()

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n" + bytes(99))
    await harness.until(lambda: harness.records)
    await client.send(bytes(200_000))
    status, fields, body = await client.answer()
    assert (status, body) == (413, b"big")
    assert fields[b"connection"] == b"close"
    assert await client.rest() == b""
    record = await harness.record()
    assert (record.status, record.flags) == (413, "")


async def test_a_streaming_answer_while_the_request_still_runs(harness: Any):
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(5):
            data = await talk.exactly(1)
            await talk.send(b"1\r\n" + data + b"\r\n")
        await talk.send(b"0\r\n\r\n")

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
    assert (await client.head())[0] == b"HTTP/1.1 200 OK"
    for byte in b"abcde":
        await client.send(bytes([byte]))
        assert await client.exactly(6) == b"1\r\n" + bytes([byte]) + b"\r\n"
    assert await client.rest() == b"0\r\n\r\n"
    assert (await harness.record()).flags == ""
