"""The proxy's own answers: well-formed for every error, and nothing of a peer's bytes in them."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.core import errors
from nodeproxy.core.http1 import error_response, parse_response

EVERY = [getattr(errors, name) for name in errors.__all__]


def read_by_h11(data: bytes, method: str = "GET") -> tuple[h11.Response, bytes]:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return response, body


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_has_a_whole_response(kind: type[errors.ProxyError]):
    response, body = read_by_h11(error_response(kind("the endpoint 10.0.0.1:80 is gone")))
    fields = dict(response.headers)
    assert response.status_code == kind.status
    assert fields[b"connection"] == b"close"
    assert fields[b"content-type"].startswith(b"text/plain")
    assert fields[b"proxy-status"].startswith(b"nodeproxy; error=")
    assert fields[b"proxy-status"].endswith(b'details="the endpoint 10.0.0.1:80 is gone"')
    assert body == b"nodeproxy: the endpoint 10.0.0.1:80 is gone\n"


@given(st.text(max_size=600))
def test_no_message_breaks_the_response(message: str):
    data = error_response(errors.BadRequest(message), keep_alive=True)
    head = parse_response(data, b"GET")
    assert head is not None
    assert head.clean
    assert head.end + head.framing == len(data)
    assert all(32 <= byte < 127 or byte in b"\r\n" for byte in data)
    response, body = read_by_h11(data)
    status = dict(response.headers)[b"proxy-status"]
    text = status.partition(b'details="')[2][:-1].replace(b"\\\\", b"").replace(b'\\"', b"")
    assert b'"' not in text
    assert b"\\" not in text
    assert body.count(b"\n") == 1


def test_an_answer_to_head_has_no_body_and_may_keep_the_connection():
    data = error_response(
        errors.NoEndpoints("none"),
        server="edge",
        keep_alive=True,
        head_only=True,
        extra=b"Via: 1.1 edge\r\n",
    )
    response, body = read_by_h11(data, "HEAD")
    fields = dict(response.headers)
    assert body == b""
    assert fields[b"content-length"] == b"11"
    assert fields[b"via"] == b"1.1 edge"
    assert fields[b"proxy-status"] == b'edge; error=destination_unavailable; details="none"'
    assert b"connection" not in fields


def test_an_error_without_message_and_without_a_registered_type():
    response, body = read_by_h11(error_response(errors.HeadTooLarge()))
    assert body == b"nodeproxy: Request Header Fields Too Large\n"
    assert b"error=http_request_error;" in dict(response.headers)[b"proxy-status"]
