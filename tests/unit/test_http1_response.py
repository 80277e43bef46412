"""Responses: what is read, refused (each id names the section of its rule), and sent on."""

from __future__ import annotations

import pytest

from nodeproxy.core.errors import BadResponse
from nodeproxy.core.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    Limits,
    ResponseHead,
    parse_response,
    response_head,
)

OK = b"HTTP/1.1 200 OK\r\n"


def read(data: bytes, method: bytes = b"GET") -> ResponseHead:
    head = parse_response(data, method)
    assert head is not None
    return head


REFUSED = {
    "9112-4 no status line": b"Hello\r\n\r\n",
    "9112-2.3 version 2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "9112-2.3 version 1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "9112-2.2 empty line first": b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    "9112-4 status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "9112-4 status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "9110-15 status below 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "9112-4 two spaces": b"HTTP/1.1  200 OK\r\n\r\n",
    "9112-4 control byte in the reason": b"HTTP/1.1 200 O\x01K\r\n\r\n",
    "9112-2.2 bare LF": b"HTTP/1.1 200 OK\nA: 1\r\n\r\n",
    "9112-2.2 bare LF between fields": OK + b"A: 1\nSet-Cookie: x\r\n\r\n",
    "9112-2.2 bare CR": OK + b"A: 1\rB: 2\r\n\r\n",
    "9110-5.5 NUL": OK + b"A: \x00\r\n\r\n",
    "9112-5.1 blank before the colon": OK + b"A : 1\r\n\r\n",
    "9112-5.2 obs-fold": OK + b"A: 1\r\n 2\r\n\r\n",
    "9112-5 no colon": OK + b"A\r\n\r\n",
    "9112-6.3 lengths differ": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "9110-8.6 list of different lengths": OK + b"Content-Length: 1, 2\r\n\r\n",
    "9110-8.6 signed length": OK + b"Content-Length: +1\r\n\r\n",
    "9110-8.6 empty length": OK + b"Content-Length:\r\n\r\n",
    "9110-8.6 huge length": OK + b"Content-Length: 9223372036854775808\r\n\r\n",
    "9112-6.3 length and chunked": OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "9112-6.1 chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "9112-6.1 chunked twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n",
    "9112-6.1 two fields": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "9112-6.1 gzip": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "9112-6.1 empty coding": OK + b"Transfer-Encoding: \r\n\r\n",
    "9112-6.1 chunked 204": b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n",
    "9110-8.6 204 with a length": b"HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\n",
    "9110-8.6 100 with a length": b"HTTP/1.1 100 Go\r\nContent-Length: 3\r\n\r\n",
    "9110-7.8 101 that nobody asked for": b"HTTP/1.1 101 Go\r\n\r\n",
    "9110-7.6.1 Connection is no list of tokens": OK + b"Connection: ;\r\n\r\n",
    "9110-7.6.1 Content-Length nominated": OK
    + b"Content-Length: 1\r\nConnection: content-length\r\n\r\n",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_refuses(data: bytes):
    with pytest.raises(BadResponse) as caught:
        parse_response(data, b"GET")
    assert str(caught.value).isascii()


EARLY = {
    "no HTTP": b"S",
    "version": b"HTTP/2",
    "line feed": b"HTTP/1.1 200 OK\n",
    "status": b"HTTP/1.1 0",
    "fold": OK + b"\t",
    "blank before the colon": OK + b"A ",
}


@pytest.mark.parametrize("data", EARLY.values(), ids=EARLY)
def test_refuses_as_soon_as_no_byte_can_help(data: bytes):
    with pytest.raises(BadResponse):
        parse_response(data, b"GET")
    assert parse_response(data[:-1], b"GET") is None


@pytest.mark.parametrize(
    "data",
    [
        OK + b"A: 1\r\n" * 5 + b"\r\n",
        OK + b"A: " + b"x" * 100 + b"\r\n\r\n",
        OK + b"A: " + b"x" * 100 + b"\r\n: 1\r\n\r\n",
        OK + b"A" * 100,
    ],
)
def test_limits(data: bytes):
    with pytest.raises(BadResponse, match=r"exceeds|more than"):
        parse_response(data, b"GET", Limits(head=100, target=10, fields=4))


def test_a_long_head_without_end_is_searched_from_where_it_was_searched():
    data = OK + b"A: " + b"x" * 5000 + b"\r\n\r\n"
    assert parse_response(data[:-1], b"GET") is None
    head = parse_response(data, b"GET", seen=len(data) - 1)
    assert head is not None
    assert head.end == len(data)


FRAMING = [
    (b"GET", b"200", b"", UNTIL_CLOSE),
    (b"GET", b"200", b"Content-Length: 0\r\n", 0),
    (b"GET", b"200", b"content-length:\t5 \r\n", 5),
    (b"GET", b"200", b"Content-Length: 5\r\nContent-Length: 5\r\n", 5),
    (b"GET", b"200", b"Transfer-Encoding: Chunked\r\n", CHUNKED),
    (b"HEAD", b"200", b"Content-Length: 5\r\n", 0),
    (b"HEAD", b"200", b"Transfer-Encoding: chunked\r\n", 0),
    (b"HEAD", b"200", b"", 0),
    (b"GET", b"304", b"Content-Length: 5\r\n", 0),
    (b"GET", b"204", b"", 0),
    (b"GET", b"204", b"Content-Length: 0\r\n", 0),
    (b"GET", b"100", b"", 0),
    (b"GET", b"103", b"Link: x\r\n", 0),
    (b"GET", b"599", b"Content-Length: 1\r\n", 1),
    (b"GET", b"999", b"Content-Length: 1\r\n", 1),
]


@pytest.mark.parametrize(("method", "status", "fields", "framing"), FRAMING)
def test_framing(method: bytes, status: bytes, fields: bytes, framing: int):
    """RFC 9112 section 6.3."""
    head = read(b"HTTP/1.1 %b R\r\n%b\r\n" % (status, fields), method)
    assert (head.status, head.framing) == (int(status), framing)
    assert head.keep_alive is (framing != UNTIL_CLOSE)


@pytest.mark.parametrize(
    ("version", "fields", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: x\r\nConnection: Close\r\n", False),
        (b"1.1", b"Connection: close, keep-alive\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_keep_alive(version: bytes, fields: bytes, keep_alive: bool):
    """RFC 9112 section 9.3."""
    data = b"HTTP/%b 200 OK\r\nContent-Length: 0\r\n%b\r\n" % (version, fields)
    assert read(data).keep_alive is keep_alive


LENGTH = b"Content-Length: 1\r\n"
FORWARDED = [
    (OK + LENGTH + b"B: 1\r\na: 2\r\nB: 3\r\n", True, OK + LENGTH + b"B: 1\r\na: 2\r\nB: 3\r\n"),
    (OK + LENGTH + b"Connection: keep-alive\r\n", False, OK + LENGTH),
    (OK + b"Connection: x, close\r\nX: 1\r\n" + LENGTH, False, OK + LENGTH),
    (OK + LENGTH + b"Keep-Alive: timeout=5\r\n", False, OK + LENGTH),
    (OK + LENGTH + b"Upgrade: h2,h2c\r\nConnection: Upgrade\r\n", False, OK + LENGTH),
    (OK + LENGTH + b"Trailer: t\r\n", True, OK + LENGTH + b"Trailer: t\r\n"),
    (OK + LENGTH * 2, False, OK + LENGTH),
    (OK + b"A: 1\r\n", False, OK + b"A: 1\r\n"),
    (b"HTTP/1.0 200 Fine\r\n" + LENGTH, False, b"HTTP/1.1 200 Fine\r\n" + LENGTH),
    (b"HTTP/1.1 200\r\n" + LENGTH, False, b"HTTP/1.1 200 \r\n" + LENGTH),
    (b"HTTP/1.1 200 \r\n" + LENGTH, True, b"HTTP/1.1 200 \r\n" + LENGTH),
]


@pytest.mark.parametrize(("data", "clean", "sent"), FORWARDED)
def test_forwards_fields_in_order_without_those_of_this_hop(data: bytes, clean: bool, sent: bytes):
    """RFC 9110 sections 2.5 and 7.6.1."""
    head = read(data + b"\r\nrest")
    assert head.clean is clean
    assert head.end == len(data) + 2
    assert response_head(head, close=False) == sent + b"\r\n"
    if clean:
        assert response_head(head, close=False) == data + b"\r\n"
    closing = response_head(head, close=True, extra=b"Via: 1.1 n\r\n")
    assert closing == sent + b"Via: 1.1 n\r\nConnection: close\r\n\r\n"


def test_header():
    head = read(OK + b"Server: a \r\nVary: a\r\nvary: b\r\nX-Server: c\r\n\r\n")
    assert head.header(b"server") == b"a"
    assert head.header(b"vary") == b"a, b"
    assert head.header(b"date") is None
