"""Messages of HTTP/1.1 as a fuzzer makes them: well-formed ones by the grammar, then damaged at the
places where readers differ."""

from __future__ import annotations

from random import Random
from typing import Final

__all__ = ["damage", "requests", "response"]

METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"BREW")
TARGETS: Final = (b"/", b"/a?b=c", b"*", b"http://b/x", b"http://b:81", b"/%2e%2e/..", b"/" * 50)
FIELDS: Final = (
    b"A: b", b"Via: 1.1 x", b"Connection: close", b"Connection: keep-alive, X-Hop", b"X-Hop: 1",
    b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: h2c", b"TE: trailers",
    b"Expect: 100-continue", b"X-Forwarded-For: 1.1.1.1", b"Forwarded: for=x", b"Max-Forwards: 0",
    b"Max-Forwards: 3", b"X-Request-Id: 1", b"Trailer: X-Sum", b"Cookie: a=b; c=d", b"B:",
    b"Content-Type: text/plain", b"Proxy-Connection: keep-alive", b"Keep-Alive: timeout=5",
)  # fmt: skip
STATUSES: Final = (
    b"200 OK", b"204 No Content", b"304 Not Modified", b"500 Oops", b"404 ", b"205 Reset",
    b"299", b"426 Upgrade",
)  # fmt: skip
INTERIM: Final = (b"100 Continue", b"103 Early Hints", b"102 Processing", b"101 Switching")
FRAGMENTS: Final = (
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b",", b";", b"\x0b", b"\xff", b"\r\n ",
    b"\r\n\r\n", b"0\r\n\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"transfer-encoding : chunked\r\n", b"Host: evil\r\n", b"GET /evil HTTP/1.1\r\n", b"+", b"-",
    b"0x", b"chunked", b"HTTP/1.0", b"HTTP/1.1 200 OK\r\n", b"Connection: content-length\r\n",
    b"ffffffffffffffff", b"Upgrade: websocket\r\nConnection: upgrade\r\n",
)  # fmt: skip


def body(rng: Random) -> tuple[bytes, bytes]:
    """A framing field with its CRLF, and the body in it."""
    size = rng.choice((0, 1, 5, 100, 5000, 40_000))
    data = bytes(rng.getrandbits(8) for _ in range(min(size, 50))) * (max(size, 1) // 50 + 1)
    data = data[:size]
    if rng.random() < 0.5:
        return b"Content-Length: %d\r\n" % size, data
    parts = []
    while data:
        cut = rng.randrange(1, len(data) + 1)
        extension = rng.choice((b"", b"", b";a", b';a="b"'))
        parts.append(b"%x%b\r\n%b\r\n" % (cut, extension, data[:cut]))
        data = data[cut:]
    trailer = rng.choice((b"", b"", b"X-Sum: 1\r\n"))
    return b"Transfer-Encoding: chunked\r\n", b"".join((*parts, b"0\r\n", trailer, b"\r\n"))


def fields(rng: Random) -> list[bytes]:
    return [rng.choice(FIELDS) + b"\r\n" for _ in range(rng.randrange(6))]


def request(rng: Random) -> bytes:
    lines = fields(rng)
    lines.insert(rng.randrange(len(lines) + 1), b"Host: a\r\n")
    data = b""
    if rng.random() < 0.5:
        framing, data = body(rng)
        lines.insert(rng.randrange(len(lines) + 1), framing)
    version = b"1.1" if rng.random() < 0.9 else b"1.0"
    line = b"%b %b HTTP/%b\r\n" % (rng.choice(METHODS), rng.choice(TARGETS), version)
    return b"".join((line, *lines, b"\r\n", data))


def requests(rng: Random) -> bytes:
    """One to four requests, one behind the other; half of the time damaged."""
    data = b"".join(request(rng) for _ in range(rng.randrange(1, 5)))
    return damage(rng, data) if rng.random() < 0.5 else data


def response(rng: Random) -> bytes:
    """What an endpoint answers: interim answers, an answer, at times more; perhaps damaged."""
    parts = []
    while rng.random() < 0.2:
        parts.append(b"HTTP/1.1 %b\r\n\r\n" % rng.choice(INTERIM))
    lines = fields(rng)
    data = b""
    if rng.random() < 0.8:
        framing, data = body(rng)
        lines.append(framing)
    version = b"1.1" if rng.random() < 0.9 else b"1.0"
    parts.append(b"HTTP/%b %b\r\n" % (version, rng.choice(STATUSES)))
    parts += [*lines, b"\r\n", data]
    if rng.random() < 0.05:
        parts.append(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    whole = b"".join(parts)
    return damage(rng, whole) if rng.random() < 0.4 else whole


def damage(rng: Random, data: bytes) -> bytes:
    """A few changes: fragments put in, bytes changed, ranges cut, doubled or moved; mostly near
    the ends of lines."""
    for _ in range(rng.randrange(1, 4)):
        ends = [i for i in range(min(len(data), 4000)) if data[i] in b"\r\n: ,;"]
        place = rng.choice(ends) if ends and rng.random() < 0.7 else rng.randrange(len(data) + 1)
        place += rng.randrange(2)
        what = rng.randrange(5)
        length = rng.choice((1, 2, 5, 20, 300))
        if what < 2:
            data = data[:place] + rng.choice(FRAGMENTS) + data[place:]
        elif what == 2:
            data = data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]
        elif what == 3:
            data = data[:place] + data[place + length :]
        else:
            other = rng.randrange(len(data) + 1)
            data = data[:place] + data[other : other + length] + data[place:]
        if not data:
            break
    return data
