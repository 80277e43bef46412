"""Which protocol do first bytes begin?"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nodeproxy.core.sniff import UNDECIDED_BYTES, sniff

HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
KNOWN = {
    b"GET / HTTP/1.1\r\n": "http",
    b"POST /x": "http",
    b"OPTIONS * HTTP/1.1": "http",
    b"GET http://a/": "http",
    b"GET HTTP://a/": "http",
    b"CONNECT a:443": "http",
    b"M-SEARCH * HTTP/1.1": "http",
    b"VERSION-CONTROL /x": "http",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": "http2",
    b"PRI * HTTP/1.1": "http",
    HELLO: "tls",
    b"\x16\x03\x03\x00\xf4\x01": "tls",
    b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n": "tcp",
    b"EHLO mail.example\r\n": "tcp",
    b"*3\r\n$3\r\nSET\r\n": "tcp",
    b"GET key\r\n": "tcp",
    b"get key\r\n": "tcp",
    b"INVITE sip:a SIP/2.0": "tcp",
    b"DESCRIBE rtsp://a": "tcp",
    b"GET https://a": "tcp",
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f": "tcp",
    b"\x16\x03\x01\x02\x00\x02": "tcp",
    b"\x16\x02": "tcp",
    b"\x16\x03\x01\xff\xff\x01": "tcp",
    b"\r\nGET / HTTP/1.1": "tcp",
    b"PRIVMSG": None,
    b"PRI * HTTP/2": None,
    b"GET ": None,
    b"GET h": None,
    b"": None,
    b"A" * 26: None,
    b"A" * 27: "tcp",
}


@pytest.mark.parametrize(("prefix", "protocol"), KNOWN.items())
def test_known(prefix: bytes, protocol: str | None):
    assert sniff(prefix) == protocol


@given(st.binary(max_size=64) | st.sampled_from(sorted(KNOWN)).map(lambda b: b + b" /"))
@example(b"A" * 26 + b" http")
@example(b"PRI * HTTP/1.1")
@example(b"CONNECT a")
def test_decides_once_and_in_bounded_bytes(data: bytes):
    """More bytes never change an answer, and enough bytes always give one."""
    answers = [sniff(data[:size]) for size in range(len(data) + 1)]
    decided = [answer for answer in answers if answer is not None]
    assert len(set(decided)) <= 1
    assert answers[len(answers) - len(decided) :] == decided
    assert sniff(data.ljust(UNDECIDED_BYTES, b"A")) is not None


@given(st.from_regex(rb"\A[A-Z][A-Z_-]{0,25} [/*][!-~]{0,9} HTTP/1\.1\r\n\Z"))
def test_every_request_line_is_http(line: bytes):
    assert sniff(line) == "http"
