"""Requests: what is read, refused (each id names the section of its rule), and sent on."""

from __future__ import annotations

import pytest

from nodeproxy.core.errors import BadRequest, HeadTooLarge, TargetTooLong, Unsupported
from nodeproxy.core.http1 import CHUNKED, Limits, RequestHead, parse_request, request_head

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


def read(data: bytes, limits: Limits | None = None) -> RequestHead:
    head = parse_request(data) if limits is None else parse_request(data, limits)
    assert head is not None
    return head


def sent(data: bytes, extra: bytes = b"") -> bytes:
    return request_head(read(data), forwarded_for=b"10.0.0.9", proto=b"http", extra=extra)


OURS = b"X-Forwarded-For: 10.0.0.9\r\nX-Forwarded-Proto: http\r\n"

REFUSED = {
    # the request line
    "9112-3 two spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "9112-3 trailing space": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "9112-3 tab for a space": b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "9112-3 leading space": b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "9112-3 no version (HTTP/0.9)": b"GET /\r\n\r\n",
    "9112-3.1 method is no token": b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "9112-3.2 space in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "9112-3.2 control byte in the target": b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "9112-3.2 target beyond ASCII": b"GET /\xfc HTTP/1.1\r\nHost: a\r\n\r\n",
    "9112-3.2 fragment": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "9112-3.2.1 a path without its slash": b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    "9112-3.2.2 https over clear text": b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "9112-3.2.2 no host": b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
    "9110-4.2.4 user information": b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "9112-3.2.3 authority-form": b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "9112-3.2.4 asterisk-form of GET": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "9112-2.3 version 1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "9112-2.3 version 2.0": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "9112-2.3 version 1.10": b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
    "9112-2.3 version in lower case": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "9112-2.2 two empty lines first": b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "9112-2.2 bare LF first": b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    # lines and fields
    "9112-2.2 bare LF after the request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "9112-2.2 bare LF between fields": GET + b"A: 1\nB: 2\r\n\r\n",
    "9112-2.2 bare LF at the end": GET + b"A: 1\r\n\n",
    "9112-2.2 bare CR in a value": GET + b"A: 1\rB: 2\r\n\r\n",
    "9112-2.2 CR CR LF": GET + b"A: 1\r\r\n\r\n",
    "9110-5.5 NUL in a value": GET + b"A: \x00\r\n\r\n",
    "9110-5.5 control byte in a value": GET + b"A: a\x0bb\r\n\r\n",
    "9110-5.5 DEL in a value": GET + b"A: \x7f\r\n\r\n",
    "9112-5.1 blank before the colon": GET + b"A : 1\r\n\r\n",
    "9112-5.1 tab before the colon": GET + b"Content-Length\t: 1\r\n\r\n",
    "9112-5.2 obs-fold by a space": GET + b"A: 1\r\n 2\r\n\r\n",
    "9112-5.2 obs-fold by a tab": GET + b"A: 1\r\n\t2\r\n\r\n",
    "9112-2.2 blank before the first field": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "9110-5.1 empty name": GET + b": 1\r\n\r\n",
    "9110-5.1 name is no token": GET + b"A(b): 1\r\n\r\n",
    "9110-5.1 name beyond ASCII": GET + b"Cont\xe9nt: 1\r\n\r\n",
    "9112-5 no colon": GET + b"Nothing\r\n\r\n",
    # Host
    "9112-3.2 no Host": b"GET / HTTP/1.1\r\n\r\n",
    "9112-3.2 two Hosts": GET + b"Host: b\r\n\r\n",
    "9112-3.2 two equal Hosts": GET + b"hOST: a\r\n\r\n",
    "9112-3.2 two Hosts in HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
    "9112-3.2.2 no Host beside absolute-form": b"GET http://a/ HTTP/1.1\r\n\r\n",
    **{
        f"9110-7.2 Host {host!r}": b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host
        for host in (
            b"",
            b"a b",
            b"a,b",
            b"a/b",
            b"u@a",
            b"a:b",
            b"a:80:80",
            b"a:65536",
            b"a:999999",
            b":80",
            b"[::1",
            b"[::1]x",
            b"[::g]",
            b"[1:2]",
            b"[v1.x]",
            b"::1",
            b"a%zz",
            b"a\xff",
            b"a?b",
            b"a\\b",
            b"<a>",
            b"a" * 300,
        )
    },
    # framing
    **{
        f"9110-8.6 Content-Length {value!r}": POST + b"Content-Length: %b\r\n\r\n" % value
        for value in (
            b"",
            b"+5",
            b"-5",
            b"5 5",
            b"0x5",
            b"5,",
            b"5, 6",
            b"5,05",
            b"5.0",
            b"5_0",
            b"\xb2",
            b"abc",
            b"9223372036854775808",
            b"99999999999999999999",
            b"1" * 5000,
        )
    },
    "9112-6.3 Content-Lengths differ": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "9112-6.3 Content-Length and chunked": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "9112-6.3 chunked and Content-Length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
    "9112-6.1 chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "9112-6.1 chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n",
    "9112-6.1 chunked in two fields": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "9112-6.1 chunked then identity": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
    "9112-6.3 chunked not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n",
    "9112-6.1 empty Transfer-Encoding": POST + b"Transfer-Encoding:\r\n\r\n",
    "9112-6.1 empty then chunked": POST
    + b"Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n\r\n",
    "9112-6.1 empty element": POST + b"Transfer-Encoding: ,chunked\r\n\r\n",
    "9112-6.1 quoted": POST + b'Transfer-Encoding: "chunked"\r\n\r\n',
    "9112-7.1 parameter of chunked": POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n",
    "9110-7.6.1 Connection is no list of tokens": GET + b"Connection: a b\r\n\r\n",
    "9110-7.6.1 Host nominated": GET + b"Connection: close, host\r\n\r\n",
    "9110-7.6.1 Content-Length nominated": POST
    + b"Content-Length: 5\r\nConnection: Content-Length\r\n\r\n",
    "9110-7.6.1 Transfer-Encoding nominated": POST
    + b"Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n\r\n",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_refuses(data: bytes):
    with pytest.raises(BadRequest) as caught:
        parse_request(data + b"rest")
    assert type(caught.value) is BadRequest
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


UNSUPPORTED = {
    "9110-9.3.6 CONNECT": b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    "9112-6.1 gzip": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "9112-6.1 gzip then chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "9112-6.1 identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "9112-6.1 xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n",
    "9112-3 long method": b"M" * 65 + b" / HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("data", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_answers_501(data: bytes):
    with pytest.raises(Unsupported):
        parse_request(data)


LIMITS = Limits(head=256, target=32, fields=4)
TOO_LARGE = {
    "head": GET + b"A: " + b"x" * 256 + b"\r\n\r\n",
    "head with a bad field": GET + b"A: " + b"x" * 256 + b"\r\n: 1\r\n\r\n",
    "head without an end": GET + b"A: " + b"x" * 256,
    "target": b"GET /" + b"x" * 32 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "target without an end": b"GET /" + b"x" * 300,
    "fields": GET + b"A: 1\r\n" * 4 + b"\r\n",
}


@pytest.mark.parametrize("data", TOO_LARGE.values(), ids=TOO_LARGE)
def test_limits(data: bytes):
    with pytest.raises(HeadTooLarge):
        parse_request(data, LIMITS)


def test_limits_are_inclusive():
    assert read(b"GET /" + b"x" * 31 + b" HTTP/1.1\r\nHost: a\r\n\r\n", LIMITS).minor == 1
    assert read(GET + b"A: 1\r\n" * 3 + b"\r\n", LIMITS).end == len(GET) + 20
    filler = b"x" * (256 - len(GET) - 7)
    assert read(GET + b"A: %b\r\n\r\n" % filler, LIMITS).end == 256
    with pytest.raises(HeadTooLarge):
        parse_request(GET + b"A: %bx\r\n\r\n" % filler, LIMITS)


@pytest.mark.parametrize("named", [{"head": 10}, {"target": 0}, {"fields": 0}, {"head": 1 << 30}])
def test_limits_have_sane_ranges(named: dict[str, int]):
    with pytest.raises(ValueError, match="out of range"):
        Limits(**named)


def test_a_target_is_never_allowed_more_than_its_head():
    assert Limits(head=1024).target == 1024


def test_default_limits_take_a_large_head():
    data = GET + b"".join(b"X-%d: %b\r\n" % (n, b"v" * 600) for n in range(99)) + b"\r\n"
    assert read(data).end == len(data)
    with pytest.raises(HeadTooLarge):
        parse_request(data[:-2] + b"X: 1\r\n\r\n")


EARLY = {
    "no method": b"\x00",
    "line feed": b"GET / HTTP/1.1\n",
    "version": b"GET / HTTQ",
    "minor version": b"GET / HTTP/1.2",
    "no version": b"GET /\r",
    "long method": b"M" * 65,
    "third empty line": b"\r\n\r",
    "blank before the colon": GET + b"Host ",
    "fold": GET + b" ",
    "bare CR": GET + b"A: b\rc",
    "control byte": GET + b"A: \x01",
}


@pytest.mark.parametrize("data", EARLY.values(), ids=EARLY)
def test_refuses_as_soon_as_no_byte_can_help(data: bytes):
    with pytest.raises(BadRequest):
        parse_request(data)
    assert parse_request(data[:-1]) is None


def test_a_long_head_without_end_is_searched_from_where_it_was_searched():
    data = GET + b"A: " + b"x" * 5000 + b"\r\n\r\n"
    for size in range(len(data) - 5, len(data)):
        assert parse_request(data[:size], seen=size - 1) is None
    head = parse_request(data, seen=len(data) - 1)
    assert head is not None
    assert head.end == len(data)


def test_reads_what_a_proxy_needs():
    head = read(
        b"\r\nPUT /v1/x?y=1?z HTTP/1.1\r\nHOST:\t Shop.Example:8080 \t\r\ncontent-length:  12 \r\n"
        b"Expect: 100-Continue\r\nX-Request-ID: r1 \r\nTraceparent: 00-aa-bb-01\r\n"
        b"User-Agent: curl/8\r\nX-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2 \r\n"
        b"X-Forwarded-Proto: https\r\nX-Version: two\r\nx-version: three\r\n\r\nbody"
    )
    assert (head.method, head.target, head.path) == (b"PUT", b"/v1/x?y=1?z", b"/v1/x")
    assert (head.minor, head.keep_alive, head.framing) == (1, True, 12)
    assert head.host == b"shop.example:8080"
    assert head.expect_continue
    assert (head.request_id, head.traceparent) == (b"r1", b"00-aa-bb-01")
    assert head.user_agent == b"curl/8"
    assert head.x_forwarded_for == b"1.1.1.1, 2.2.2.2"
    assert head.header(b"x-forwarded-for") == b"1.1.1.1, 2.2.2.2"
    assert head.x_forwarded_proto == b"https"
    assert head.header(b"x-version") == b"two, three"
    assert head.header(b"version") is None
    assert head.upgrade == b""


HOSTS = (b"a", b"A.b-c_d:0", b"10.0.0.1:65535", b"[::1]", b"[fd00::1]:80", b"a:", b"a%41", b"a.")


@pytest.mark.parametrize("host", HOSTS)
def test_hosts(host: bytes):
    assert read(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host).host == host.lower()


ABSOLUTE = [
    (b"GET", b"http://Other:81/x?y", b"/x?y", b"other:81"),
    (b"GET", b"HTTP://other", b"/", b"other"),
    (b"GET", b"http://other?y=/z", b"/?y=/z", b"other"),
    (b"OPTIONS", b"http://other", b"*", b"other"),
    (b"OPTIONS", b"http://other/", b"/", b"other"),
]


@pytest.mark.parametrize(("method", "target", "origin", "host"), ABSOLUTE)
def test_absolute_form_becomes_origin_form_with_its_host(
    method: bytes, target: bytes, origin: bytes, host: bytes
):
    """RFC 9112 section 3.2.2: the target's host replaces Host, so that one reading is left."""
    data = b"%b %b HTTP/1.1\r\nA: 1\r\nHost: evil\r\n\r\n" % (method, target)
    head = read(data)
    assert (head.target, head.host) == (origin, host)
    again = read(sent(data))
    assert (again.target, again.host) == (origin, host)
    assert b"evil" not in sent(data)


def test_asterisk_form_of_options():
    assert read(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").path == b"*"


@pytest.mark.parametrize(
    ("fields", "framing"),
    [
        (b"", 0),
        (b"Content-Length: 0\r\n", 0),
        (b"Content-Length: 007\r\n", 7),
        (b"Content-Length: 9223372036854775807\r\n", 2**63 - 1),
        (b"Transfer-Encoding: chunked\r\n", CHUNKED),
        (b"transfer-encoding: \tCHUNKED \r\n", CHUNKED),
    ],
)
def test_framing(fields: bytes, framing: int):
    assert read(POST + fields + b"\r\n").framing == framing


@pytest.mark.parametrize(
    "fields",
    [b"Content-Length: 5\r\nA: 1\r\nCONTENT-LENGTH: 5\r\n", b"Content-Length: 5, 5\r\nA: 1\r\n"],
)
def test_equal_content_lengths_collapse_to_one(fields: bytes):
    """RFC 9110 section 8.6."""
    head = read(POST + fields + b"\r\n")
    assert head.framing == 5
    assert head.fields == b"Host: a\r\nA: 1\r\nContent-Length: 5\r\n"


@pytest.mark.parametrize(
    ("version", "fields", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"connection: foo\r\nCONNECTION: CLOSE\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: closed, not-close\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", False),
    ],
)
def test_keep_alive(version: bytes, fields: bytes, keep_alive: bool):
    """RFC 9112 section 9.3: a proxy never keeps a connection of an HTTP/1.0 client."""
    data = b"GET / HTTP/%b\r\nHost: a\r\n%b\r\n" % (version, fields)
    assert read(data).keep_alive is keep_alive


def test_expect_continue_needs_http_1_1_and_a_body():
    """RFC 9110 section 10.1.1."""
    expect = b"Expect: 100-continue\r\n"
    assert read(POST + expect + b"Content-Length: 1\r\n\r\n").expect_continue
    assert not read(POST + expect + b"\r\n").expect_continue
    old = b"POST / HTTP/1.0\r\nContent-Length: 1\r\n" + expect + b"\r\n"
    assert not read(old).expect_continue


FORWARDED = [
    (b"", b""),
    (b"B: 1\r\na: 2\r\nB: 3\r\n", b"B: 1\r\na: 2\r\nB: 3\r\n"),
    (b"Connection: keep-alive\r\nA: 1\r\n", b"A: 1\r\n"),
    (b"A: 1\r\nX-Connection: close\r\nConnection: close\r\n", b"A: 1\r\nX-Connection: close\r\n"),
    (b"Connection: close, x\r\nConnection: close\r\nX: 1\r\nXx: 2\r\n", b"Xx: 2\r\n"),
    (b"Keep-Alive: 5\r\nProxy-Connection: close\r\nTE: trailers\r\nA: 1\r\n", b"A: 1\r\n"),
    (b"Connection: upgrade\r\nUpgrade: h2c\r\nSec-X: 1\r\n", b"Sec-X: 1\r\n"),
    (b"Connection: HTTP2-Settings\r\nHTTP2-Settings: x\r\nA: 1\r\n", b"A: 1\r\n"),
    (b"Connection: x-real-ip, cookie\r\nCookie: 1\r\n", b"Cookie: 1\r\n"),
    (b"Expect: 100-continue\r\nTrailer: t\r\n", b"Expect: 100-continue\r\nTrailer: t\r\n"),
    (b"TE: a\r\n" * 20 + b"A: \xe9 \t\r\n", b"A: \xe9 \t\r\n"),
]


@pytest.mark.parametrize(("fields", "kept"), FORWARDED)
def test_forwards_fields_in_order_without_those_of_this_hop(fields: bytes, kept: bytes):
    """RFC 9110 section 7.6.1."""
    assert sent(GET + fields + b"\r\n") == GET + kept + OURS + b"\r\n"


@pytest.mark.parametrize(
    ("fields", "upgrade"),
    [
        (b"Upgrade: websocket\r\n", b""),
        (b"Connection: keep-alive\r\nUpgrade: websocket\r\n", b""),
        (b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n", b"WebSocket"),
        (b"Connection: Upgrade\r\nUpgrade: a/1, b\r\nUpgrade: c\r\n", b"a/1, b, c"),
        (b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b""),
        (b"Connection: Upgrade\r\nUpgrade: h2c, websocket, HTTP/2.0\r\n", b"websocket"),
        (b"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n", b""),
        (b"Connection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 1\r\n", b""),
        (b"Connection: Upgrade\r\nUpgrade:\r\n", b""),
    ],
)
def test_upgrade_is_asked_for_again_when_connection_nominates_it(fields: bytes, upgrade: bytes):
    """RFC 9110 section 7.8."""
    head = read(GET + fields + b"\r\n")
    assert head.upgrade == upgrade
    asked = b"Connection: upgrade\r\nUpgrade: %b\r\n" % upgrade
    assert (asked in request_head(head, forwarded_for=b"")) == bool(upgrade)


def test_upgrade_is_ignored_in_http_1_0_and_refused_when_malformed():
    """RFC 9110 section 7.8."""
    old = b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert read(old).upgrade == b""
    with pytest.raises(BadRequest):
        read(GET + b"Connection: upgrade\r\nUpgrade: web socket\r\n\r\n")


def test_forwarded_fields():
    data = GET + b"X-Forwarded-For: 1.1.1.1,2.2.2.2\r\nX-Forwarded-Proto: https\r\n\r\n"
    wanted = (
        GET
        + b"X-Forwarded-Proto: https\r\nX-Forwarded-For: 1.1.1.1,2.2.2.2, 10.0.0.9\r\nVia: 1.1 n"
    )
    assert sent(data, b"Via: 1.1 n\r\n") == wanted + b"\r\n\r\n"
    assert request_head(read(data), forwarded_for=b"", proto=b"").count(b", 10.0.0.9") == 0
    assert request_head(read(GET + b"\r\n"), forwarded_for=b"", proto=b"") == GET + b"\r\n"


def test_http_1_0_is_sent_on_as_http_1_0():
    """RFC 9112 section 6.1: who asks with HTTP/1.0 must not be answered in chunks."""
    head = read(b"GET /x HTTP/1.0\r\n\r\n")
    assert (head.minor, head.host) == (0, b"")
    assert sent(b"GET /x HTTP/1.0\r\n\r\n") == b"GET /x HTTP/1.0\r\n" + OURS + b"\r\n"


def test_pipelined_requests_are_left_alone():
    first = GET + b"\r\n"
    assert read(first + POST + b"\r\n").end == len(first)


def test_a_target_over_its_limit_is_414_and_a_head_over_its_is_431() -> None:
    with pytest.raises(TargetTooLong) as caught:
        parse_request(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert caught.value.status == 414
    with pytest.raises(HeadTooLarge) as large:
        parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"a" * 70_000 + b"\r\n\r\n")
    assert large.value.status == 431
