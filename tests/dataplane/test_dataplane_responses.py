"""Answers that break the rules, through the whole data plane: 502 and a reason, and nothing of
them reaches the client; or, once an answer has begun, an end that the client can see."""

from __future__ import annotations

from typing import Any

import pytest

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
OK = b"HTTP/1.1 200 OK\r\n"
TE = b"Transfer-Encoding: chunked\r\n"


def once(answer: bytes) -> Any:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(answer)

    return script


BAD = {
    "no status line": b"hello\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "version 2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "version 1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "ICY": b"ICY 200 OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status below 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "status with a sign": b"HTTP/1.1 +20 OK\r\n\r\n",
    "two blanks before the status": b"HTTP/1.1  200 OK\r\n\r\n",
    "an empty line before": b"\r\n" + HELLO,
    "control byte in the reason": b"HTTP/1.1 200 O\x01K\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "bare CR": OK + b"A: b\rc\r\n\r\n",
    "NUL": OK + b"A: \x00\r\n\r\n",
    "obs-fold": OK + b"A: b\r\n c\r\n\r\n",
    "blank before the colon": OK + b"Content-Length : 2\r\n\r\nhi",
    "empty name": OK + b": b\r\n\r\n",
    "both": OK + TE + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "lengths differ": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
    "lengths differ in a list": OK + b"Content-Length: 2, 3\r\n\r\nhi",
    "length with a sign": OK + b"Content-Length: +2\r\n\r\nhi",
    "length out of range": OK + b"Content-Length: 9223372036854775808\r\n\r\nhi",
    "coding unknown": OK + b"Transfer-Encoding: gzip\r\n\r\n",
    "coding twice": OK + TE + TE + b"\r\n0\r\n\r\n",
    "coding in HTTP/1.0": b"HTTP/1.0 200 OK\r\n" + TE + b"\r\n0\r\n\r\n",
    "204 with a body": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi",
    "204 with chunks": b"HTTP/1.1 204 No Content\r\n" + TE + b"\r\n0\r\n\r\n",
    "1xx with a body": b"HTTP/1.1 103 Early\r\nContent-Length: 2\r\n\r\nhi" + HELLO,
    "too many fields": OK + b"A: b\r\n" * 101 + b"\r\n",
    "head too large": OK + b"A: " + b"b" * 70_000 + b"\r\n\r\n",
    "Connection nominates Content-Length": (
        OK + b"Connection: content-length\r\nContent-Length: 2\r\n\r\nhi"
    ),
    "closed within a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "closed after an interim answer": b"HTTP/1.1 103 Early\r\n\r\n",
    "interim answers without end": b"HTTP/1.1 103 Early\r\n\r\n" * 100,
    "first chunk bad": OK + TE + b"\r\nxyz\r\n",
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_answer_is_a_502(harness: Any, name: Any):
    client = await harness.client(harness.serve(await harness.backend(once(BAD[name]))))
    await client.send(GET)
    if name == "first chunk bad":
        assert await client.is_reset()  # its head was good, and is out
    else:
        status, fields, body = await client.answer()
        while status == 103:
            status, fields, body = await client.answer()
        assert status == 502
        assert b"error=http_protocol_error" in fields[b"proxy-status"]
        assert body.startswith(b"nodeproxy: ")
        assert await client.rest() == b""
    assert (await harness.record()).flags == "UPE"
    (target,) = harness.upstream().targets.values()
    assert (target.series.failure.value, len(target.pool.idle)) == (1, 0)


CUT = {
    "length": OK + b"Content-Length: 10\r\n\r\nshort",
    "chunked, between chunks": OK + TE + b"\r\n5\r\nshort\r\n",
    "chunked, within one": OK + TE + b"\r\nff\r\nshort",
    "chunked, before the trailers' end": OK + TE + b"\r\n5\r\nshort\r\n0\r\n",
    "chunked, bad later": OK + TE + b"\r\n5\r\nshort\r\nxyz\r\n",
}


@pytest.mark.parametrize("name", CUT)
async def test_a_client_sees_that_an_answer_was_cut(harness: Any, name: Any):
    client = await harness.client(harness.serve(await harness.backend(once(CUT[name]))))
    await client.send(GET)
    assert await client.is_reset()
    assert (await harness.record()).flags in ("UC", "UPE")


async def test_a_body_until_the_end_that_ends_with_a_reset(harness: Any):
    """RFC 9112, 8: without a length only the kind of end tells."""

    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(OK + b"\r\nshort")
        await harness.until(lambda: harness.upstream().targets)
        talk.reset()

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(GET)
    assert await client.is_reset()
    record = await harness.record()
    assert record.flags == "UC"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 205 Reset Content\r\n" + TE + b"\r\n0\r\n\r\n", b"0\r\n\r\n"),
        (b"HTTP/1.1 299 Own\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 200 \xe4\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (OK + b"Content-Length: 2, 2\r\n\r\nhi", b"hi"),
        (OK + b"Connection: content-type, x\r\nX: 1\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    ],
)
async def test_a_good_answer_passes(harness: Any, answer: Any, body: Any):
    client = await harness.client(harness.serve(await harness.backend(once(answer))))
    await client.send(GET)
    status, fields, got = await client.answer()
    assert (status, got) == (int(answer.split()[1]), body)
    assert b"x" not in fields


async def test_date_and_server_order_and_repetition_stay(harness: Any):
    fields = (
        b"Server: x/1\r\nSet-Cookie: a=1\r\nDATE: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
        b"set-cookie: b=2\r\nx-Odd-CASE:  v \t\r\nContent-Length: 0\r\n"
    )
    client = await harness.client(harness.serve(await harness.backend(once(OK + fields + b"\r\n"))))
    await client.send(GET)
    assert await client.until(b"\r\n\r\n") == OK + fields + b"\r\n"
    client.close()
    await harness.record()


async def test_proxy_status_can_be_left_out(make_harness: Any):
    async with make_harness(proxy_status=False) as harness:
        address = harness.serve(await harness.backend(once(b"nonsense\r\n\r\n")))
        status, fields, _ = await harness.get(address)
        assert status == 502
        assert b"proxy-status" not in fields


async def test_bytes_after_an_answer_are_nobodys(harness: Any):
    """The answer to a request that was not sent yet is never given to the next request."""
    backend = await harness.backend(
        once(HELLO + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    )
    client = await harness.client(harness.serve(backend))
    for _ in range(3):
        await client.send(GET)
        assert (await client.answer())[2] == b"hi"
    assert backend.accepted == 3


async def test_bytes_on_an_idle_connection_close_it(harness: Any):
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(HELLO)
        await harness.until(lambda: len(pool.idle) == 1)
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await talk.rest()

    address = harness.serve(await harness.backend(script))
    client = await harness.client(address)
    service = harness.node.catalog.get("test/web")
    (target,) = harness.node.upstream(service, service.ports[0]).targets.values()
    pool = target.pool
    for count in range(3):
        await client.send(GET)
        assert (await client.answer())[2] == b"hi"
        await harness.until(lambda: not pool.idle)
        await harness.record(count + 1)


async def test_an_idempotent_request_is_not_repeated_after_an_interim_answer(harness: Any):
    """Some byte of an answer came: the request was seen."""
    seen = []

    async def script(talk: Any) -> None:
        seen.append(await talk.request())
        await talk.send(HELLO)
        seen.append(await talk.request())
        await talk.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(GET)
    assert (await client.answer())[0] == 200
    await client.send(GET)
    assert [(await client.answer())[0] for _ in range(2)] == [103, 502]
    assert len(seen) == 2
    assert (await harness.record(2)).tries == 1


async def test_a_body_that_was_being_sent_is_not_sent_again(harness: Any):
    """PUT is idempotent, but its body has gone by."""
    seen = []

    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(HELLO)
        seen.append(await talk.request())
        talk.reset()

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(GET)
    assert (await client.answer())[0] == 200
    await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf.")
    assert (await client.answer())[0] == 502
    assert len(seen) == 1
