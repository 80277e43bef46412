"""One byte stream, one reading: ours, h11's, and that of who gets what we send on.

Whatever we accept, h11 accepts and reads alike (method, target, fields, framing). The other way
h11 accepts more, and we refuse it on purpose (test_http1_request.py holds each rule): bare LF as
a line's end, folded fields, control bytes in values, Transfer-Encoding beside Content-Length or
in HTTP/1.0, fragments, malformed Host, other versions 1.x. Only one thing that we accept h11
does not: an empty line before a request (RFC 9112 section 2.2).
"""

from __future__ import annotations

import h11
from hypothesis import example, given
from hypothesis import strategies as st

from nodeproxy.core.errors import BadRequest, BadResponse, ProxyError
from nodeproxy.core.http1 import (
    CHUNKED,
    RequestHead,
    ResponseHead,
    parse_request,
    parse_response,
    request_head,
    response_head,
)

HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"}


def lines(fields: bytes) -> list[tuple[bytes, bytes]]:
    pairs = [line.split(b":", 1) for line in fields.split(b"\r\n")[:-1]]
    both = [(name.lower(), value.strip(b" \t")) for name, value in pairs]
    return [(name, v.lower() if name == b"transfer-encoding" else v) for name, v in both]


def expected(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """A simple model of what may travel on: all but this hop's, in the order of arrival. (That
    one Content-Length at most is left, the framing tells.)"""
    said = b",".join(value for name, value in fields if name == b"connection").lower()
    dropped = HOP | {b"x-forwarded-for", b"content-length"}
    dropped |= {option.strip(b" \t") for option in said.split(b",")}
    return [(name, value) for name, value in fields if name not in dropped]


def framing_of(fields: list[tuple[bytes, bytes]]) -> int:
    names = dict(fields)
    if b"transfer-encoding" in names:
        return CHUNKED
    return int(names.get(b"content-length", b"0"))


def h11_request(data: bytes) -> h11.Request:
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(data)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    return event


def h11_response(data: bytes, method: bytes) -> h11.Response | h11.InformationalResponse:
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    event = client.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    return event


def check_request(head: RequestHead, data: bytes) -> None:
    """h11 reads ``data`` as we do, and what is sent on has the same reading for both."""
    seen = h11_request(data.removeprefix(b"\r\n"))
    fields = list(seen.headers)
    assert seen.method == head.method
    assert seen.http_version == b"1.%d" % head.minor
    assert framing_of(fields) == head.framing
    if seen.target[:1] in (b"/", b"*"):
        assert seen.target == head.target
        assert dict(fields).get(b"host", b"").lower() == head.host

    sent = request_head(head, forwarded_for=b"10.0.0.1", proto=b"http", extra=b"Via: 1.1 n\r\n")
    again = parse_request(sent + b"rest")
    assert again is not None
    assert again.end == len(sent)
    for name in ("method", "target", "path", "minor", "host", "framing", "expect_continue"):
        assert getattr(again, name) == getattr(head, name), name
    assert again.upgrade == head.upgrade
    seen_again = h11_request(sent)
    assert (seen_again.method, seen_again.target) == (head.method, head.target)
    forwarded = list(seen_again.headers)
    assert framing_of(forwarded) == head.framing
    hop = HOP - {b"connection", b"upgrade"} if head.upgrade else HOP
    assert not hop & {name for name, _ in forwarded}
    assert head.fields.endswith(b"\r\n") or not head.fields
    if seen.target[:1] in (b"/", b"*"):
        forwarded = lines(head.fields)
        assert [name for name, _ in forwarded].count(b"content-length") <= 1
        assert [f for f in forwarded if f[0] != b"content-length"] == expected(fields)


def check_response(head: ResponseHead, data: bytes, method: bytes) -> None:
    seen = h11_response(data, method)
    assert seen.status_code == head.status
    has_body = head.status >= 200 and head.status not in (204, 304) and method != b"HEAD"
    if has_body and head.framing >= CHUNKED:
        assert framing_of(list(seen.headers)) == head.framing

    sent = response_head(head, close=not head.keep_alive)
    again = parse_response(sent + b"rest", method)
    assert again is not None
    assert (again.status, again.framing, again.end) == (head.status, head.framing, len(sent))
    forwarded = dict(h11_response(sent, method).headers)
    if head.upgrade:  # of a 426
        return
    assert not (HOP - {b"connection"}) & forwarded.keys()
    assert forwarded.get(b"connection", b"close") == b"close"
    if head.clean:
        assert response_head(head, close=False) == data[: head.end]


# Well-formed heads

NAMES = st.text("abcdefgXYZ-_.!~0123", min_size=1, max_size=12).map(lambda s: b"x" + s.encode())
VALUES = st.binary(max_size=20).map(
    lambda value: bytes(b if b == 9 or (b > 31 and b != 127) else 45 for b in value)
)
PLAIN = st.builds(lambda n, v: n + b":" + v + b"\r\n", NAMES, VALUES)
KNOWN = st.sampled_from(
    [
        b"Connection: keep-alive\r\n",
        b"Connection: close, x-a\r\n",
        b"connection: Upgrade\r\nUpgrade: websocket\r\n",
        b"X-Forwarded-For: 1.1.1.1 \r\n",
        b"x-forwarded-for:2.2.2.2\r\n",
        b"X-Forwarded-Proto: https\r\n",
        b"Keep-Alive: timeout=5\r\n",
        b"Proxy-Connection: keep-alive\r\n",
        b"TE: trailers\r\n",
        b"Expect: 100-continue\r\n",
        b"traceparent: 00-1-2-01\r\n",
        b"X-Request-Id: 7\r\n",
    ]
)
LENGTHS = st.integers(0, 2**63 - 1).map(lambda n: b"Content-Length: %d\r\n" % n)
FRAMINGS = (
    st.just(b"")
    | LENGTHS
    | LENGTHS.map(lambda line: line * 2)
    | st.sampled_from([b"Transfer-Encoding: chunked\r\n", b"TRANSFER-ENCODING:\tChunked \r\n"])
)
FIELDS = st.lists(PLAIN | KNOWN, max_size=8)
TARGETS = st.text('abc/?=&%._-~"<>\\^`{|}', max_size=20).map(lambda s: b"/" + s.encode())
METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"x-m", b"M-SEARCH", b"PATCH"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    target = draw(TARGETS | TARGETS.map(lambda t: b"http://b.c:81" + t))
    fields = draw(FIELDS)
    fields.insert(draw(st.integers(0, len(fields))), draw(FRAMINGS))
    fields.insert(draw(st.integers(0, len(fields))), b"Host: a:80\r\n")
    start = draw(st.sampled_from([b"", b"", b"\r\n"]))
    return b"%b%b %b HTTP/1.1\r\n%b\r\n" % (start, draw(METHODS), target, b"".join(fields))


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    fields = draw(FIELDS)
    status = draw(st.sampled_from([b"200", b"404", b"304", b"503", b"206", b"999"]))
    reason = draw(st.sampled_from([b"", b" ", b" OK", b" Not \xe9"]))
    fields.insert(draw(st.integers(0, len(fields))), draw(FRAMINGS))
    return b"HTTP/1.%d %b%b\r\n%b\r\n" % (1, status, reason, b"".join(fields))


@given(requests(), st.lists(st.integers(0, 400), max_size=6), st.binary(max_size=8))
def test_well_formed_requests_in_any_pieces(data: bytes, cuts: list[int], rest: bytes):
    head = parse_request(data + rest)
    assert head is not None
    assert head.end == len(data)
    check_request(head, data)
    seen = 0
    for size in sorted({cut % len(data) for cut in cuts}):
        assert parse_request(data[:size], seen=seen) is None
        seen = size
    assert parse_request(data, seen=seen) == head


@given(responses(), st.sampled_from([b"GET", b"HEAD"]), st.binary(max_size=8))
def test_well_formed_responses_in_any_pieces(data: bytes, method: bytes, rest: bytes):
    head = parse_response(data + rest, method)
    assert head is not None
    assert head.end == len(data)
    check_response(head, data, method)
    for size in range(len(data)):
        assert parse_response(data[:size], method) is None


# Bytes that an attacker would try

FRAGMENTS = st.sampled_from(
    [
        b"GET ",
        b"POST ",
        b"OPTIONS ",
        b"/",
        b"*",
        b"http://c/",
        b" HTTP/1.1",
        b" HTTP/1.0\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 204 No\r\n",
        b"HTTP/1.0 200\r\n",
        b"HTTP/1.1 100 C\r\n",
        b"\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"#",
        b"\x00",
        b"Host: a\r\n",
        b"Host: b",
        b"host:",
        b"Content-Length: 5\r\n",
        b"Content-Length: 6",
        b"Content-Length:",
        b"5",
        b"5, 5",
        b"+5",
        b"Transfer-Encoding: chunked\r\n",
        b"chunked",
        b"Transfer-Encoding:",
        b"gzip",
        b"Connection: ",
        b"close",
        b"Content-Length",
        b"X: y\r\n",
        b"Upgrade: h2c\r\n",
        b"TE: trailers\r\n",
        b"Expect: 100-continue\r\n",
        b"\x80",
        b"\x0b",
    ]
)
REQUEST_LINE = b"POST / HTTP/1.1\r\nHost: a\r\n"
MANGLED = st.builds(
    lambda start, parts, end: start + b"".join(parts) + end,
    st.sampled_from([b"", REQUEST_LINE, b"GET / HTTP/1.0\r\n", b"HTTP/1.1 200 OK\r\n"]),
    st.lists(FRAGMENTS | st.binary(max_size=3), max_size=10),
    st.sampled_from([b"", b"\r\n", b"\r\n\r\n"]),
)


def mutated(heads: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Well-formed heads with a fragment put in or over some place."""
    return st.builds(
        lambda data, place, over, part: (
            data[: place % len(data)] + part + data[place % len(data) + over :]
        ),
        heads,
        st.integers(0, 1000),
        st.integers(0, 3),
        FRAGMENTS | st.binary(max_size=2),
    )


def request_outcome(data: bytes, seen: int = 0) -> RequestHead | type[ProxyError] | None:
    try:
        return parse_request(data, seen=seen)
    except BadRequest:
        return BadRequest


def response_outcome(data: bytes, method: bytes) -> ResponseHead | type[ProxyError] | None:
    try:
        return parse_response(data, method)
    except BadResponse:
        return BadResponse


@given(MANGLED | mutated(requests()) | st.binary(max_size=60))
@example(REQUEST_LINE + b"Content-Length: 5, 5\r\n\r\n")
@example(REQUEST_LINE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")
@example(REQUEST_LINE + b"Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding\r\n\r\n")
def test_no_request_has_a_second_reading(data: bytes):
    whole = request_outcome(data)
    if isinstance(whole, RequestHead):
        check_request(whole, data)
    # In pieces: the same in the end, and a refusal is never taken back.
    last: RequestHead | type[ProxyError] | None = None
    for size in range(len(data) + 1):
        last = request_outcome(data[:size], max(0, size - 1))
        if last is not None:
            break
    assert last == whole


@given(MANGLED | mutated(responses()) | st.binary(max_size=60), st.sampled_from([b"GET", b"HEAD"]))
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", b"HEAD")
def test_no_response_has_a_second_reading(data: bytes, method: bytes):
    whole = response_outcome(data, method)
    if isinstance(whole, ResponseHead):
        check_response(whole, data, method)
    last: ResponseHead | type[ProxyError] | None = None
    for size in range(len(data) + 1):
        last = response_outcome(data[:size], method)
        if last is not None:
            break
    assert last == whole
