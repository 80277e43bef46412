"""What a proxy adds, counts and believes: Via, Max-Forwards, Forwarded, request ids, traces."""

from __future__ import annotations

import re
from typing import Any

import pytest

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


async def talk_to(harness: Any, *requests: bytes, answer: bytes = HELLO) -> Any:
    """What the endpoint saw of each request (its lines), and the client of the answers."""
    seen: list[list[bytes]] = []

    async def script(talk: Any) -> None:
        while True:
            head = await talk.until(b"\r\n\r\n")
            seen.append(head[:-4].split(b"\r\n"))
            await talk.send(answer)

    client = await harness.client(harness.serve(await harness.backend(script)))
    answers = []
    for request in requests:
        await client.send(request)
        answers.append(await client.answer())
    return seen, answers


def get(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join((line, b"Host: a", *fields, b"", b""))


def values(lines: list[bytes], name: bytes) -> list[bytes]:
    pairs = [line.split(b":", 1) for line in lines[1:]]
    return [value.strip() for key, value in pairs if key.lower() == name]


# -- Via ------------------------------------------------------------------------------------


async def test_via_is_added_to_requests(harness: Any):
    """RFC 9110, 7.6.3: a gateway must, with the version in which the message came."""
    seen, _ = await talk_to(harness, get(b"Via: 1.1 first"), get(line=b"GET / HTTP/1.0"))
    assert values(seen[0], b"via") == [b"1.1 first", b"1.1 nodeproxy"]
    assert values(seen[1], b"via") == [b"1.0 nodeproxy"]


async def test_via_can_be_left_out_and_can_be_added_to_answers(make_harness: Any):
    async with make_harness(via=False, via_answers=True) as harness:
        seen, answers = await talk_to(harness, get())
        assert values(seen[0], b"via") == []
        assert answers[0][1][b"via"] == b"1.1 nodeproxy"
    async with make_harness() as harness:
        _, answers = await talk_to(harness, get())
        assert b"via" not in answers[0][1]


# -- Max-Forwards ---------------------------------------------------------------------------


async def test_max_forwards_is_counted_for_trace_and_options(harness: Any):
    """RFC 9110, 7.6.2."""
    line = b"OPTIONS / HTTP/1.1"
    seen, _ = await talk_to(
        harness,
        get(b"Max-Forwards: 5", line=line),
        get(b"Max-Forwards: 0005", line=b"TRACE / HTTP/1.1"),
        get(b"Max-Forwards: 5"),
        get(line=line),
    )
    assert [values(lines, b"max-forwards") for lines in seen] == [[b"4"], [b"4"], [b"5"], []]


async def test_the_last_hop_of_options_answers_itself(harness: Any):
    seen, answers = await talk_to(
        harness,
        get(b"Max-Forwards: 0", line=b"OPTIONS * HTTP/1.1"),
        get(b"Max-Forwards: 1", line=b"OPTIONS * HTTP/1.1"),
    )
    assert answers[0][0] == 200
    assert answers[0][1] == {b"content-length": b"0"}
    assert len(seen) == 1  # the second one, on the same connection of the client
    record = harness.records[0]
    assert (record.status, record.upstream, record.tries) == (200, "", 0)


async def test_the_last_hop_of_trace_reflects_without_secrets(harness: Any):
    """RFC 9110, 9.3.8."""
    request = get(
        b"Authorization: Basic x", b"Cookie: a=b", b"X-Seen: 1", b"Max-Forwards: 0",
        line=b"TRACE /x HTTP/1.1",
    )  # fmt: skip
    seen, answers = await talk_to(harness, request)
    status, fields, body = answers[0]
    assert (status, fields[b"content-type"], seen) == (200, b"message/http", [])
    expected = request.replace(b"Authorization: Basic x\r\n", b"").replace(b"Cookie: a=b\r\n", b"")
    assert body == expected
    assert harness.records[0].bytes_sent == len(body)


async def test_the_last_hop_with_a_body_that_has_not_come(harness: Any):
    """Nobody reads it: the connection ends, and no byte of it becomes a request."""
    client = await harness.client(harness.serve(await harness.backend(lambda _t: None)))
    await client.send(
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nContent-Length: 30\r\n\r\n"
    )
    status, fields, _ = await client.answer()
    assert (status, fields[b"connection"]) == (200, b"close")
    client.end()
    assert await client.rest() == b""


@pytest.mark.parametrize("value", [b"x", b"-1", b"", b"1, 2", b"9" * 30])
async def test_a_bad_max_forwards_is_refused(harness: Any, value: Any):
    client = await harness.client(harness.serve(await harness.backend(lambda _t: None)))
    await client.send(get(b"Max-Forwards: " + value, line=b"TRACE / HTTP/1.1"))
    assert (await client.answer())[0] == 400


# -- who asked ------------------------------------------------------------------------------

CLAIMS = (
    b"X-Forwarded-For: 1.2.3.4",
    b"x-forwarded-proto: https",
    b"X-Forwarded-Host: evil",
    b"X-Forwarded-Port: 1",
    b"X-Real-IP: 1.2.3.4",
    b"Forwarded: for=1.2.3.4;proto=https",
)


async def test_claims_are_kept_and_added_to(harness: Any):
    seen, _ = await talk_to(harness, get(*CLAIMS, b"A: 1"), get())
    first, second = seen
    assert values(first, b"x-forwarded-for") == [b"1.2.3.4, 127.0.0.1"]
    assert values(first, b"x-forwarded-proto") == [b"https"]
    assert values(first, b"forwarded") == [
        b"for=1.2.3.4;proto=https",
        b"for=127.0.0.1;proto=http",
    ]
    assert values(first, b"x-real-ip") == [b"1.2.3.4"]
    assert values(second, b"x-forwarded-for") == [b"127.0.0.1"]
    assert values(second, b"x-forwarded-proto") == [b"http"]
    assert values(second, b"forwarded") == []


NETWORKS = [
    ("overwrite", (), False),
    ("trusted", ("10.0.0.0/8",), False),
    ("trusted", ("10.0.0.0/8", "127.0.0.0/8"), True),
]


@pytest.mark.parametrize(("mode", "networks", "believed"), NETWORKS)
async def test_claims_of_strangers_are_removed(
    make_harness: Any, mode: Any, networks: Any, believed: Any
):
    async with make_harness(forwarded=mode, trusted_proxies=networks) as harness:
        seen, _ = await talk_to(harness, get(*CLAIMS, b"A: 1"))
        (lines,) = seen
        own = [b"1.2.3.4, 127.0.0.1"] if believed else [b"127.0.0.1"]
        assert values(lines, b"x-forwarded-for") == own
        assert values(lines, b"x-forwarded-proto") == [b"https" if believed else b"http"]
        for name in (b"x-forwarded-host", b"x-forwarded-port", b"x-real-ip"):
            assert bool(values(lines, name)) == believed
        assert len(values(lines, b"forwarded")) == 2 * believed
        assert values(lines, b"a") == [b"1"]


# -- ids ------------------------------------------------------------------------------------


async def test_a_request_id_is_made_or_passed_on(harness: Any):
    seen, _ = await talk_to(harness, get(), get(), get(b"x-request-id: mine"))
    made = [values(lines, b"x-request-id") for lines in seen]
    uuid = rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert all(re.fullmatch(uuid, one) for (one,) in made[:2])
    assert made[0] != made[1]
    assert made[2] == [b"mine"]
    assert [record.request_id for record in harness.records] == [one for (one,) in made]


async def test_a_trace_is_passed_on_and_none_begun_unless_told(harness: Any):
    parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    seen, _ = await talk_to(harness, get(), get(b"TraceParent: " + parent, b"tracestate: a=b"))
    assert values(seen[0], b"traceparent") == []
    assert values(seen[1], b"traceparent") == [parent]
    assert values(seen[1], b"tracestate") == [b"a=b"]


async def test_a_trace_is_begun_when_told(make_harness: Any):
    async with make_harness(traceparent=True, request_id=False) as harness:
        parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
        seen, _ = await talk_to(
            harness, get(b"Tracestate: a=b"), get(), get(b"traceparent: " + parent)
        )
        ((one,), (two,), (kept,)) = (values(lines, b"traceparent") for lines in seen)
        assert all(re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", made) for made in (one, two))
        assert one != two
        assert kept == parent
        assert values(seen[0], b"tracestate") == []  # of a trace that nobody named
        assert all(values(lines, b"x-request-id") == [] for lines in seen)


# -- Expect ---------------------------------------------------------------------------------


async def test_an_expectation_is_sent_on_as_it_came(harness: Any):
    """RFC 9110, 10.1.1: who is asked decides, 417 included."""
    answer = b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n"
    seen, answers = await talk_to(harness, get(b"Expect: a-pony"), answer=answer)
    assert values(seen[0], b"expect") == [b"a-pony"]
    assert answers[0][0] == 417
