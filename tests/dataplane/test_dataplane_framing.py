"""Requests that two servers could read differently, through the whole data plane: each ends in one
well-formed reading at the endpoint, or in a clear 4xx and a closed connection.

Every case is followed by a second request that must not be smuggled. The ids name what is
wrong; docs/design/http1-requirements.md names the sections.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio

from nodeproxy.core.http1 import Chunked

BODIES = {"chunk", "last", "trailer", "trailers"}
"""First words of the cases that are about bodies."""
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
TE = b"Transfer-Encoding: chunked\r\n"


def post(*fields: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    lines = b"".join(field + b"\r\n" for field in (b"Host: a", *fields))
    return b"POST / HTTP/%b\r\n%b\r\n%b" % (version, lines, body)


def get(line: bytes = b"GET / HTTP/1.1", *fields: bytes, host: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def chunks(text: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=text)


BAD: dict[str, tuple[bytes, int]] = {
    # Content-Length and Transfer-Encoding
    "both": (post(b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "both the other way": (
        post(b"Transfer-Encoding: chunked", b"Content-Length: 4", body=b"0\r\n\r\n"),
        400,
    ),
    "lengths differ": (post(b"Content-Length: 4", b"Content-Length: 5", body=b"body"), 400),
    "lengths differ in a list": (post(b"Content-Length: 4, 5", body=b"body"), 400),
    "length with a sign": (post(b"Content-Length: +4", body=b"body"), 400),
    "length negative": (post(b"Content-Length: -1"), 400),
    "length hexadecimal": (post(b"Content-Length: 0x4", body=b"body"), 400),
    "length with a blank inside": (post(b"Content-Length: 1 0", body=b"0123456789"), 400),
    "length with an underscore": (post(b"Content-Length: 1_0", body=b"0123456789"), 400),
    "length of 2**63": (post(b"Content-Length: 9223372036854775808"), 400),
    "length of 2**64+4": (post(b"Content-Length: 18446744073709551620", body=b"body"), 400),
    "length empty": (post(b"Content-Length:"), 400),
    "length a list with a hole": (post(b"Content-Length: 4,,4", body=b"body"), 400),
    "length of other digits": (post("Content-Length: \u0664".encode(), body=b"body"), 400),
    "length a fraction": (post(b"Content-Length: 4.0", body=b"body"), 400),
    "coding identity": (post(b"Transfer-Encoding: identity"), 501),
    "coding unknown": (post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 501),
    "coding gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501),
    "coding chunked, identity": (post(b"Transfer-Encoding: chunked, identity"), 400),
    "coding twice": (post(b"Transfer-Encoding: chunked, chunked"), 400),
    "coding twice in two fields": (post(TE[:-2], TE[:-2]), 400),
    "coding with a parameter": (post(b"Transfer-Encoding: chunked;q=1"), 400),
    "coding quoted": (post(b'Transfer-Encoding: "chunked"'), 400),
    "coding empty": (post(b"Transfer-Encoding:"), 400),
    "coding behind a vertical tab": (post(b"Transfer-Encoding: \x0bchunked"), 400),
    "coding behind a comma": (post(b"Transfer-Encoding: , chunked"), 400),
    "coding with a blank before the colon": (post(b"Transfer-Encoding : chunked"), 400),
    "coding with a tab before the colon": (post(b"Transfer-Encoding\t: chunked"), 400),
    "coding folded": (post(b"Transfer-Encoding:\r\n chunked"), 400),
    "coding in HTTP/1.0": (post(TE[:-2], version=b"1.0", body=b"0\r\n\r\n"), 400),
    # chunks
    "chunk size too large": (chunks(b"10000000000000000\r\nx"), 400),
    "chunk size of 2**63": (chunks(b"8000000000000000\r\nx"), 400),
    "chunk size with a sign": (chunks(b"+1\r\nx\r\n0\r\n\r\n"), 400),
    "chunk size negative": (chunks(b"-1\r\nx\r\n0\r\n\r\n"), 400),
    "chunk size with 0x": (chunks(b"0x1\r\nx\r\n0\r\n\r\n"), 400),
    "chunk size with a blank before": (chunks(b" 1\r\nx\r\n0\r\n\r\n"), 400),
    "chunk size with a blank behind": (chunks(b"1 \r\nx\r\n0\r\n\r\n"), 400),
    "chunk size empty": (chunks(b"\r\nx\r\n0\r\n\r\n"), 400),
    "chunk size no number": (chunks(b"g\r\nx\r\n0\r\n\r\n"), 400),
    "chunk line with LF": (chunks(b"1\nx\r\n0\r\n\r\n"), 400),
    "chunk line with CR": (chunks(b"1\rx\r\n0\r\n\r\n"), 400),
    "chunk data with LF behind": (chunks(b"1\r\nx\n0\r\n\r\n"), 400),
    "chunk data without an end": (chunks(b"1\r\nx0\r\n\r\n"), 400),
    "chunk data longer than said": (chunks(b"1\r\nxyz\r\n0\r\n\r\n"), 400),
    "chunk data shorter than said": (chunks(b"5\r\nx\r\n0\r\n\r\nGET"), 400),
    "chunk extension with LF": (chunks(b"1;a\nb\r\nx\r\n0\r\n\r\n"), 400),
    "chunk extension with a control byte": (chunks(b"1;a=\x01\r\nx\r\n0\r\n\r\n"), 400),
    "chunk extension unfinished quote": (chunks(b'1;a="b\r\nx\r\n0\r\n\r\n'), 400),
    "chunk extension too long": (chunks(b"1;" + b"a" * 2000 + b"\r\nx\r\n0\r\n\r\n"), 400),
    "last chunk with LF": (chunks(b"0\n\n"), 400),
    "trailer folded": (chunks(b"0\r\nA: b\r\n c\r\n\r\n"), 400),
    "trailer with LF": (chunks(b"0\r\nA: b\n\r\n"), 400),
    "trailer without a colon": (chunks(b"0\r\nGET / HTTP/1.1\r\n\r\n"), 400),
    "trailer Content-Length": (chunks(b"0\r\nContent-Length: 5\r\n\r\n"), 400),
    "trailer Transfer-Encoding": (chunks(b"0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
    "trailer Host": (chunks(b"0\r\nHost: evil\r\n\r\n"), 400),
    "trailers too large": (chunks(b"0\r\n" + b"A: b\r\n" * 200 + b"\r\n"), 400),
    # lines and bytes
    "bare LF in the head": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF in a field": (get(b"GET / HTTP/1.1", b"A: b\nTransfer-Encoding: chunked"), 400),
    "bare CR in a field": (get(b"GET / HTTP/1.1", b"A: b\rTransfer-Encoding: chunked"), 400),
    "bare CR before CRLF": (get(b"GET / HTTP/1.1", b"A: b\r"), 400),
    "NUL in a field": (get(b"GET / HTTP/1.1", b"A: b\x00c"), 400),
    "NUL in a name": (get(b"GET / HTTP/1.1", b"A\x00: b"), 400),
    "control byte in a field": (get(b"GET / HTTP/1.1", b"A: \x1f"), 400),
    "DEL in a field": (get(b"GET / HTTP/1.1", b"A: \x7f"), 400),
    "obs-fold": (get(b"GET / HTTP/1.1", b"A: b\r\n c"), 400),
    "blank before the first field": (get(b"GET / HTTP/1.1\r\n A: b"), 400),
    "blank before the colon": (get(b"GET / HTTP/1.1", b"A : b"), 400),
    "empty name": (get(b"GET / HTTP/1.1", b": b"), 400),
    "name without a colon": (get(b"GET / HTTP/1.1", b"A"), 400),
    "name with a bad byte": (get(b"GET / HTTP/1.1", b"A(b): c"), 400),
    "name beyond ASCII": (get(b"GET / HTTP/1.1", b"\xc3\xa4: c"), 400),
    "name over-long": (get(b"GET / HTTP/1.1", b"a" * 70_000 + b": b"), 431),
    "two empty lines before": (b"\r\n\r\n" + get(), 400),
    # Host and target
    "no Host": (get(host=b""), 400),
    "two Hosts": (get(b"GET / HTTP/1.1", b"Host: b"), 400),
    "two equal Hosts": (get(b"GET / HTTP/1.1", b"Host: a"), 400),
    "Host empty": (get(host=b"Host:\r\n"), 400),
    "Host with user information": (get(host=b"Host: u@a\r\n"), 400),
    "Host with a bad port": (get(host=b"Host: a:80x\r\n"), 400),
    "Host with a port out of range": (get(host=b"Host: a:65536\r\n"), 400),
    "Host a list": (get(host=b"Host: a, b\r\n"), 400),
    "Host with a path": (get(host=b"Host: a/b\r\n"), 400),
    "Host with a blank": (get(host=b"Host: a b\r\n"), 400),
    "Host a bad IPv6 address": (get(host=b"Host: [::g]\r\n"), 400),
    "absolute-form with user information": (get(b"GET http://u@b/ HTTP/1.1"), 400),
    "absolute-form without a host": (get(b"GET http:/// HTTP/1.1"), 400),
    "absolute-form of another scheme": (get(b"GET ftp://b/ HTTP/1.1"), 400),
    "authority-form": (get(b"GET a:80 HTTP/1.1"), 400),
    "asterisk-form of GET": (get(b"GET * HTTP/1.1"), 400),
    "CONNECT": (get(b"CONNECT a:80 HTTP/1.1"), 501),
    "relative target": (get(b"GET x HTTP/1.1"), 400),
    "target with a fragment": (get(b"GET /#x HTTP/1.1"), 400),
    "target with a blank": (get(b"GET / x HTTP/1.1"), 400),
    "target with a control byte": (get(b"GET /\x01 HTTP/1.1"), 400),
    "target beyond ASCII": (get(b"GET /\xc3\xa4 HTTP/1.1"), 400),
    "target too long": (get(b"GET /" + b"a" * 20_000 + b" HTTP/1.1"), 414),
    "target longer than a head": (get(b"GET /" + b"a" * 70_000 + b" HTTP/1.1"), 414),
    # method and version
    "method with a bad byte": (get(b"G(T / HTTP/1.1"), 400),
    "method empty": (get(b" / HTTP/1.1"), 400),
    "method too long": (get(b"A" * 65 + b" / HTTP/1.1"), 501),
    "two blanks": (get(b"GET  / HTTP/1.1"), 400),
    "a tab for a blank": (get(b"GET\t/ HTTP/1.1"), 400),
    "no version": (get(b"GET /"), 400),
    "version 0.9": (get(b"GET / HTTP/0.9"), 400),
    "version 1.2": (get(b"GET / HTTP/1.2"), 400),
    "version 2.0": (get(b"GET / HTTP/2.0"), 400),
    "version in small letters": (get(b"GET / http/1.1"), 400),
    "version with a blank behind": (get(b"GET / HTTP/1.1 "), 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    # sizes
    "too many fields": (get(b"GET / HTTP/1.1", *[b"A: b"] * 101), 431),
    "head too large": (get(b"GET / HTTP/1.1", b"A: " + b"b" * 70_000), 431),
    # what would change the framing on the way
    "Connection nominates Content-Length": (
        post(b"Content-Length: 4", b"Connection: content-length", body=b"body"),
        400,
    ),
    "Connection nominates Host": (get(b"GET / HTTP/1.1", b"Connection: Host"), 400),
    "Connection no list of tokens": (get(b"GET / HTTP/1.1", b"Connection: a b"), 400),
    "TRACE with a body": (b"TRACE" + post(b"Content-Length: 1", body=b"x")[4:], 400),
    "OPTIONS with a bad Max-Forwards": (
        get(b"OPTIONS / HTTP/1.1", b"Max-Forwards: -1"),
        400,
    ),
}


async def strict_backend(harness: Any):
    """An endpoint that notes what requests it reads, and answers each."""
    seen: list[bytes] = []

    async def script(talk: Any) -> None:
        while True:
            line, fields = await talk.request()
            seen.append(line)
            if b"transfer-encoding" in fields:
                reader = Chunked()
                while (end := reader.feed(data := await talk.some())) < 0:
                    assert data
                talk.data = data[end:] + talk.data
            await talk.exactly(int(fields.get(b"content-length", 0)))
            await talk.send(HELLO)

    return await harness.backend(script), seen


@pytest.mark.parametrize("name", BAD)
async def test_refused(harness: Any, name: Any):
    request, status = BAD[name]
    backend, seen = await strict_backend(harness)
    client = await harness.client(harness.serve(backend))
    await client.send(request + SMUGGLED)
    answer, fields, body = await client.answer()
    assert answer == status
    assert fields[b"connection"] == b"close"
    assert fields[b"proxy-status"].startswith(b"nodeproxy; error=http_request_")
    assert body.startswith(b"nodeproxy: ")
    client.end()
    assert await client.rest() == b""
    # A body that turns out bad when its head has been sent on is never sent to its end.
    assert seen == [] or (len(seen) == 1 and name.split()[0] in BODIES)
    assert (await harness.record()).flags == "DPE"


GOOD: dict[str, tuple[bytes, bytes]] = {
    "one empty line before": (b"\r\n" + get(), b"GET / HTTP/1.1"),
    "length with blanks around": (
        post(b"Content-Length:\t4 ", body=b"body"),
        b"POST / HTTP/1.1",
    ),
    "length with zeros before": (post(b"Content-Length: 0004", body=b"body"), b"POST / HTTP/1.1"),
    "length repeated": (
        post(b"Content-Length: 4", b"Content-Length: 4", body=b"body"),
        b"POST / HTTP/1.1",
    ),
    "length a list of equals": (post(b"Content-Length: 4, 4", body=b"body"), b"POST / HTTP/1.1"),
    "coding in capitals": (
        post(b"Transfer-Encoding: CHUNKED", body=b"1\r\nx\r\n0\r\n\r\n"),
        b"POST / HTTP/1.1",
    ),
    "chunk size with zeros before": (chunks(b"0001\r\nx\r\n000\r\n\r\n"), b"POST / HTTP/1.1"),
    "chunk extension": (chunks(b'1;a=b;c="d;\\""\r\nx\r\n0\r\n\r\n'), b"POST / HTTP/1.1"),
    "trailer": (chunks(b"1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n"), b"POST / HTTP/1.1"),
    "absolute-form": (get(b"GET http://b/x?y HTTP/1.1"), b"GET /x?y HTTP/1.1"),
    "asterisk-form": (get(b"OPTIONS * HTTP/1.1"), b"OPTIONS * HTTP/1.1"),
    "absolute-form of OPTIONS": (get(b"OPTIONS http://b HTTP/1.1"), b"OPTIONS * HTTP/1.1"),
    "Host with a port": (get(host=b"Host: a:8080\r\n"), b"GET / HTTP/1.1"),
    "Host an IPv6 address": (get(host=b"Host: [::1]:80\r\n"), b"GET / HTTP/1.1"),
    "method unknown": (get(b"BREW-2 / HTTP/1.1"), b"BREW-2 / HTTP/1.1"),
    "value beyond ASCII": (get(b"GET / HTTP/1.1", b"A: \xc3\xa4\xff"), b"GET / HTTP/1.1"),
    "value empty": (get(b"GET / HTTP/1.1", b"A:", b"B: \t"), b"GET / HTTP/1.1"),
    "target with dots and escapes": (
        get(b"GET /a/../%2e%2E//b HTTP/1.1"),
        b"GET /a/../%2e%2E//b HTTP/1.1",
    ),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("trickled", [False, True])
async def test_one_reading(harness: Any, name: Any, trickled: Any):
    request, line = GOOD[name]
    backend, seen = await strict_backend(harness)
    client = await harness.client(harness.serve(backend))
    await (client.trickle if trickled else client.send)(request + SMUGGLED)
    for _ in range(2):
        assert (await client.answer())[2] == b"hi"
    # The endpoint saw what the client sent: this request, and the next one as one of its own.
    assert seen == [line, b"GET /smuggled HTTP/1.1"]
    assert (await harness.record(2)).flags == ""


async def test_lengths_and_hosts_are_sent_on_once(harness: Any):
    heads = []

    async def script(talk: Any) -> None:
        while True:
            head = await talk.until(b"\r\n\r\n")
            heads.append(head.lower())
            await talk.exactly(4)
            await talk.send(HELLO)

    client = await harness.client(harness.serve(await harness.backend(script)))
    target = b"POST http://b:81/ HTTP/1.1\r\nHost: a\r\n"
    await client.send(target + b"Content-Length: 4\r\nA: 1\r\nContent-Length: 4\r\n\r\nbody")
    await client.answer()
    (head,) = heads
    assert head.count(b"content-length:") == head.count(b"host:") == 1
    assert b"host: b:81\r\n" in head


async def test_trailers_are_sent_on_and_not_merged(harness: Any):
    """RFC 9110, 6.5.1: they stay trailers, both ways."""
    body = b"1\r\nx\r\n0\r\nX-Sum: 1\r\nAuthorization: later\r\n\r\n"
    seen = []

    async def script(talk: Any) -> None:
        _, fields = await talk.request()
        seen.append((fields, await talk.exactly(len(body))))
        await talk.send(b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\n" + TE + b"\r\n" + body)

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(chunks(body))
    _, fields = await client.head()
    assert await client.exactly(len(body)) == body
    assert seen[0][1] == body
    assert not {b"x-sum", b"authorization"} & (seen[0][0].keys() | fields.keys())
    assert fields[b"trailer"] == b"X-Sum"


@pytest.mark.parametrize(
    "request_",
    [
        post(b"Content-Length: 101", body=b"x" * 101),
        post(b"Content-Length: 101"),
        chunks(b"65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n"),
        chunks(b"60\r\n" + b"x" * 96),
    ],
)
async def test_bodies_over_the_limit(make_harness: Any, request_: Any):
    async with make_harness(max_body=100) as harness:
        backend, seen = await strict_backend(harness)
        address = harness.serve(backend)
        client = await harness.client(address)
        await client.send(request_)
        if b"\r\n60\r\n" in request_:
            await harness.until(lambda: seen)
            await client.send(b"\r\n10\r\n")
        status, fields, _ = await client.answer()
        assert (status, fields[b"connection"]) == (413, b"close")
        client.end()
        assert await client.rest() == b""
        assert (await harness.record()).flags == "DPE"
        client = await harness.client(address)
        await client.send(post(b"Content-Length: 100", body=b"x" * 100))
        assert (await client.answer())[0] == 200


async def test_pipelined_requests_wait_in_the_clients_socket(harness: Any):
    """While an answer is awaited, no more than one read is held, however much is sent."""
    release = trio.Event()

    async def script(talk: Any) -> None:
        await release.wait()
        while True:
            await talk.request()
            await talk.send(HELLO)

    client = await harness.client(harness.serve(await harness.backend(script)), buffer=16384)
    request = get(b"GET /" + b"a" * 4000 + b" HTTP/1.1")
    sent = 0

    async def flood() -> None:
        nonlocal sent
        for _ in range(5000):
            await client.send(request)
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        await harness.until(lambda: harness.backends[0].open)
        before = -1
        while before != sent:
            before = sent
            for _ in range(200):
                await trio.lowlevel.checkpoint()
        assert sent < 2500  # the kernel's buffers are full: 20 MB are not in this process
        release.set()
        for _ in range(200):
            assert (await client.answer())[2] == b"hi"
        nursery.cancel_scope.cancel()
    client.reset()


async def test_bytes_before_the_request_is_wanted_stay_where_they_are(harness: Any):
    """The next request may come while the answer to the last is under way: it waits its turn."""
    release = trio.Event()
    seen = []

    async def script(talk: Any) -> None:
        while True:
            seen.append((await talk.request())[0])
            await release.wait()
            await talk.send(HELLO)

    client = await harness.client(harness.serve(await harness.backend(script)))
    await client.send(get(b"GET /1 HTTP/1.1"))
    await harness.until(lambda: seen)
    await client.send(get(b"GET /2 HTTP/1.1") + b"not a request\r\n\r\n")
    for _ in range(50):
        await trio.lowlevel.checkpoint()
    assert seen == [b"GET /1 HTTP/1.1"]
    release.set()
    assert [(await client.answer())[0] for _ in range(3)] == [200, 200, 400]
    assert seen == [b"GET /1 HTTP/1.1", b"GET /2 HTTP/1.1"]
