"""The chunked coding: where a body ends, in any pieces, and what is refused.

h11 is the oracle: whatever our reader accepts, h11 reads to the same end. h11 accepts more, which
we refuse on purpose: blanks after the size, sizes beyond 63 bits, any bytes in extensions, and
trailer fields that frame the message.
"""

from __future__ import annotations

from itertools import pairwise

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nodeproxy.core.http1 import BadChunk, Chunked
from nodeproxy.core.http1.body import (
    EXTENSION_BYTES,
    LINE_BYTES,
    TRAILER_BYTES,
    TRAILER_FIELDS,
    TRAILER_LINE_BYTES,
)


def feed_all(pieces: list[bytes]) -> int:
    """Offset of the body's end in all pieces together, or -1."""
    reader = Chunked()
    before = 0
    for piece in pieces:
        end = reader.feed(piece)
        if end >= 0:
            return before + end
        before += len(piece)
    return -1


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def outcome(pieces: list[bytes]) -> int | str:
    try:
        return feed_all(pieces)
    except BadChunk:
        return "refused"


def h11_outcome(data: bytes) -> int | str:
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    server.next_event()
    server.receive_data(data)
    try:
        while True:
            event = server.next_event()
            if event is h11.NEED_DATA:
                return -1
            if isinstance(event, h11.EndOfMessage):
                return len(data) - len(server.trailing_data[0])
    except h11.RemoteProtocolError:
        return "refused"


TOKENS = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8).map(str.encode)
QUOTED = st.text('az ;\t,=()\\"', max_size=6).map(
    lambda text: b'"%b"' % text.replace("\\", "\\\\").replace('"', '\\"').encode()
)
EXTENSION = st.builds(
    lambda name, value: b";" + name + (b"" if value is None else b"=" + value),
    TOKENS,
    st.none() | TOKENS | QUOTED,
)
EXTENSIONS = st.lists(EXTENSION, max_size=2).map(b"".join)
SIZE_FORMS = st.sampled_from([b"%x", b"%X", b"0%x", b"%016x"])
CHUNK = st.builds(
    lambda form, extensions, data: (form % len(data)) + extensions + b"\r\n" + data + b"\r\n",
    SIZE_FORMS,
    EXTENSIONS,
    st.binary(min_size=1, max_size=40),
)
TRAILER = st.builds(
    lambda name, value: b"X-" + name + b":" + value + b"\r\n",
    TOKENS,
    st.sampled_from([b"", b" v", b"\tv \xe9 "]),
)
BODY = st.builds(
    lambda chunks, zeros, extensions, trailers: b"".join(
        [*chunks, b"0" * zeros, extensions, b"\r\n", *trailers, b"\r\n"]
    ),
    st.lists(CHUNK, max_size=4),
    st.integers(1, 16),
    EXTENSIONS,
    st.lists(TRAILER, max_size=3),
)
CUTS = st.lists(st.integers(0, 500), max_size=12)


@given(BODY, st.binary(max_size=20), CUTS)
def test_finds_the_end_of_well_formed_bodies_in_any_pieces(
    body: bytes, rest: bytes, cuts: list[int]
):
    assert feed_all([body + rest]) == len(body)
    assert feed_all(split(body + rest, cuts)) == len(body)
    assert feed_all([body[i : i + 1] for i in range(len(body))]) == len(body)
    assert feed_all([body[:-1]]) == -1
    assert h11_outcome(body + rest) == len(body)


FRAGMENTS = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"\r",
        b"0",
        b"5",
        b"a",
        b"F",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b";a=b",
        b" ",
        b"\t",
        b";",
        b'"',
        b"=",
        b"+",
        b"-",
        b"0x",
        b"\x00",
        b"\xff",
        b"X: y\r\n",
        b"Host: y\r\n",
        b"10\r\n0123456789abcdef",
        b"ffffffffffffffff",
        b"8000000000000000",
        b":",
        b"hello",
    ]
)
MANGLED = st.lists(FRAGMENTS | st.binary(max_size=3), max_size=12).map(b"".join)


@given(MANGLED, CUTS)
@example(b"0\r\n\r\n", [1, 2, 3, 4])
@example(b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", [1, 4, 9, 12])
@example(b"5 \r\nhello\r\n0\r\n\r\n", [])
def test_never_a_second_reading(data: bytes, cuts: list[int]):
    """Pieces don't matter, and what we accept h11 reads to the same end."""
    whole = outcome([data])
    assert outcome(split(data, cuts)) == whole
    if whole not in (-1, "refused"):
        assert h11_outcome(data) == whole


REFUSED = {
    "9112-7.1 no size": b"\r\n",
    "9112-7.1 sign": b"+5\r\n",
    "9112-7.1 prefix": b"0x5\r\n",
    "9112-7.1 underscore": b"1_0\r\n",
    "9112-7.1 blank before the size": b" 5\r\n",
    "9112-7.1 blank after the size": b"5 \r\n",
    "9112-7.1.1 blank before an extension": b"5 ;a\r\n",
    "9112-2.2 bare LF after the size": b"5\nhello",
    "9112-2.2 bare CR after the size": b"5\rhello",
    "9112-7.1 seventeen digits": b"0" * 16 + b"5\r\n",
    "9112-7.1 beyond 63 bits": b"8000000000000000\r\n",
    "9112-7.1 data longer than the size": b"5\r\nhello!\r\n",
    "9112-7.1 LF after the data": b"5\r\nhello\n0\r\n\r\n",
    "9112-7.1 CR without LF after the data": b"5\r\nhello\r0\r\n\r\n",
    "9112-7.1 no CRLF after the data": b"5\r\nhello0\r\n\r\n",
    "9112-7.1.1 LF in an extension": b"5;a\nhello",
    "9112-7.1.1 control byte in an extension": b"5;a=\x01\r\n",
    "9112-7.1.1 empty extension": b"5;\r\nhello",
    "9112-7.1.1 open quote": b'5;a="b\r\nhello',
    "9112-7.1.1 long line": b"5;a=" + b"x" * LINE_BYTES,
    "9112-7.1.1 long whole line": b"5;a=" + b"x" * LINE_BYTES + b"\r\n",
    "9112-7.1.1 extensions of many chunks": (b"1;a=" + b"x" * 500 + b"\r\nd\r\n") * 40,
    "9112-7.1.2 bare LF ends the trailers": b"0\r\n\n",
    "9112-7.1.2 trailer without colon": b"0\r\nA\r\n\r\n",
    "9112-7.1.2 folded trailer": b"0\r\nA: 1\r\n 2\r\n\r\n",
    "9112-7.1.2 control byte in a trailer": b"0\r\nA: \x00\r\n\r\n",
    "9112-7.1.2 long trailer": b"0\r\nA: " + b"x" * TRAILER_LINE_BYTES,
    "9112-7.1.2 long whole trailer": b"0\r\nA: " + b"x" * TRAILER_LINE_BYTES + b"\r\n\r\n",
    "9112-7.1.2 many trailers": b"0\r\n" + b"A: 1\r\n" * (TRAILER_FIELDS + 1),
    "9112-7.1.2 large trailers": b"0\r\n" + (b"A: " + b"x" * 3000 + b"\r\n") * 11,
    "9110-6.5.1 framing in a trailer": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "9110-6.5.1 length in a trailer": b"0\r\ncontent-length: 5\r\n\r\n",
    "9110-6.5.1 host in a trailer": b"0\r\nHOST: a\r\n\r\n",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_refuses(data: bytes):
    assert outcome([data]) == "refused"
    assert outcome([data[i : i + 1] for i in range(len(data))]) == "refused"


def test_limits_are_inclusive():
    line = b"1;a=" + b"x" * (LINE_BYTES - 6) + b"\r\n"
    assert feed_all([line + b"d\r\n0\r\n\r\n"]) == LINE_BYTES + 8
    trailer = b"A:" + b"x" * (TRAILER_LINE_BYTES - 4) + b"\r\n"
    count = TRAILER_BYTES // TRAILER_LINE_BYTES
    assert feed_all([b"0\r\n" + trailer * count + b"\r\n"]) == TRAILER_BYTES + 5
    assert EXTENSION_BYTES >= LINE_BYTES


def test_the_largest_chunk_is_counted_not_kept():
    reader = Chunked()
    assert reader.feed(b"7fffffffffffffff\r\nabc") == -1
    assert reader.feed(bytes(1 << 16)) == -1


def test_the_end_is_seen_with_the_next_request_behind_it():
    data = b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\n"
    assert feed_all([data]) == data.index(b"GET")
