"""The pure parts of the demo's client and back end."""

from __future__ import annotations

import errno
import json
from collections import Counter

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.demo.backend import answer, split_address
from nodeproxy.demo.load import outcome_of, read_answer, shape


def response(body: bytes, extra: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n{extra}\r\n".encode() + body


@pytest.mark.parametrize("targets", [1, 2, 3])
def test_every_target_gets_as_many_requests_of_each_kind(targets: int) -> None:
    counts = Counter(shape(number, targets) for number in range(12 * targets))
    assert len(counts) == 2 * targets
    assert set(counts.values()) == {6}


def test_what_a_failure_is_called() -> None:
    assert outcome_of(ConnectionRefusedError()) == "refused"
    assert outcome_of(ConnectionResetError()) == "reset"
    assert outcome_of(BrokenPipeError()) == "reset"
    assert outcome_of(trio.TooSlowError()) == "timeout"
    assert outcome_of(EOFError()) == "closed"
    assert outcome_of(OSError(errno.ENETUNREACH, "x")) == "unreachable"
    assert outcome_of(OSError(errno.EHOSTUNREACH, "x")) == "unreachable"
    assert outcome_of(OSError(errno.EMFILE, "x")) == "error"
    assert outcome_of(ValueError()) == "error"


def test_the_back_end_says_how_the_request_came() -> None:
    direct = read_answer(response(answer("pod1-2", None)))
    assert direct is not None
    assert (direct.status, direct.backend, direct.via, direct.reusable) == (
        200,
        "pod1-2",
        False,
        True,
    )
    proxied = read_answer(response(answer("b", "1.1 nodeproxy"), "Connection: close\r\n"))
    assert proxied is not None
    assert proxied.via
    assert not proxied.reusable
    assert json.loads(answer("b", "1.1 nodeproxy")) == {"backend": "b", "via": "1.1 nodeproxy"}


def test_the_proxys_own_errors_are_read() -> None:
    found = read_answer(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno\n")
    assert found is not None
    assert (found.status, found.backend, found.via) == (503, "", False)


def test_a_response_without_length_is_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        read_answer(b"HTTP/1.1 200 OK\r\n\r\nhello")


@given(st.integers(0, 200))
def test_an_answer_is_read_when_it_is_whole(cut: int) -> None:
    data = response(answer("pod", None))
    found = read_answer(data[:cut])
    assert (found is not None) == (cut >= len(data))


def test_bytes_behind_an_answer_spoil_the_connection() -> None:
    found = read_answer(response(answer("pod", None)) + b"HTTP/1.1")
    assert found is not None
    assert not found.reusable


def test_addresses() -> None:
    assert split_address("10.0.0.1:80") == ("10.0.0.1", 80)
    assert split_address("[fd00::1]:8080") == ("fd00::1", 8080)
    with pytest.raises(ValueError, match="invalid literal"):
        split_address("10.0.0.1:http")
