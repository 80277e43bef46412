"""What is added to requests is the same on the short way and on the long one."""

from __future__ import annotations

from random import Random

import pytest

from nodeproxy.core.http1 import Onward, onward, parse_request, request_head
from nodeproxy.core.trust import trust

GET = b"GET /x HTTP/1.1\r\nHost: a\r\nA: b\r\n"


def make(**changes: bool) -> Onward:
    settings = {"via": True, "via_answers": False, "request_id": True, "traceparent": False}
    return Onward(**(settings | changes), random=Random(1).getrandbits)


@pytest.mark.parametrize("peer", [b"10.0.0.1", b"fe80::1%eth0", b"fd00::1"])
@pytest.mark.parametrize("via", [True, False])
def test_the_short_way_writes_what_the_long_one_does(peer: bytes, via: bool) -> None:
    made = make(via=via)
    for _ in range(2):
        head = parse_request(GET + b"\r\n")
        assert head is not None
        sent = made.request(head, peer, True)
        extra = b"Via: 1.1 nodeproxy\r\n" * via + b"X-Request-Id: %b\r\n" % head.request_id
        assert len(head.request_id) == 36
        assert sent == request_head(head, forwarded_for=peer, extra=extra)


def test_ids_count_and_none_is_made_for_a_request_that_has_one() -> None:
    made = make()
    ids = set()
    for fields in (b"", b"X-Forwarded-For: 1.1.1.1\r\n", b"Forwarded: for=x\r\n", b""):
        head = parse_request(GET + fields + b"\r\n")
        assert head is not None
        sent = made.request(head, b"10.0.0.1", True)
        assert sent.count(b"X-Request-Id: %b\r\n" % head.request_id) == 1
        ids.add(head.request_id)
    assert len(ids) == 4
    head = parse_request(GET + b"x-request-id: mine\r\n\r\n")
    assert head is not None
    assert b"X-Request-Id" not in made.request(head, b"10.0.0.1", True)


def test_what_is_kept_for_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onward, "CLIENTS", 10)
    made = make()
    for number in range(100):
        head = parse_request(GET + b"\r\n")
        assert head is not None
        made.request(head, b"10.0.0.%d" % number, True)
        assert len(made._ends) <= 10


@pytest.mark.parametrize(
    ("address", "believed"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.1.2.3", False),
        ("fd00::1", True),
        ("fe80::1%eth0", False),
    ],
)
def test_who_is_believed(address: str, believed: bool) -> None:
    assert trust("trusted", ["10.0.0.0/8", "fd00::/8"])(address) == believed
    assert trust("append", [])(address)
    assert not trust("overwrite", [])(address)
