"""A structure-aware fuzzer over the whole exchange: clients and endpoints that send what the
grammar gives, and what damage makes of it, in pieces, with resets and half-closes.

What has to hold, whatever is sent:

* What reaches an endpoint is read by h11 as requests, one behind the other, to the last byte, and
  never more of them than the proxy says that it has sent.
* What reaches a client is read by h11 as answers, never more than it has sent requests, and none
  that another client was meant to get.
* No lane, connection, slot or descriptor is left over, and nothing crashes.

Bounded in time: NODEPROXY_FUZZ_SECONDS for each seed (5), NODEPROXY_FUZZ_SEED for others. A night:
``NODEPROXY_FUZZ_SECONDS=9000 NODEPROXY_FUZZ_SEED=$RANDOM pytest tests/dataplane/test_fuzz_*.py``
"""

from __future__ import annotations

import os
from contextlib import suppress
from random import Random
from typing import Any

import h11
import pytest
import trio

from nodeproxy.core.errors import ProxyError
from nodeproxy.core.http1 import CHUNKED, Chunked, parse_request, parse_response, request_head
from tests.dataplane import http1_grammar

SECONDS = float(os.environ.get("NODEPROXY_FUZZ_SECONDS", "5"))
FIRST = int(os.environ.get("NODEPROXY_FUZZ_SEED", "1"))
TIMES = {
    "header_timeout": 0.1,
    "body_timeout": 0.1,
    "request_timeout": 0.5,
    "keep_alive_timeout": 0.1,
    "tcp_idle_timeout": 0.1,
    "policy": {"response_timeout": 0.1, "body_timeout": 0.1, "connect_tries": 1},
}


def pieces(rng: Random, data: bytes) -> list[bytes]:
    if rng.random() < 0.5:
        return [data]
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 8)))
    return [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)]


class Endpoint:
    """Checks every byte that reaches it with h11, and answers what the fuzzer says."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.read = 0
        """Requests that h11 has read to their heads."""
        self.wrong: list[str] = []

    async def serve(self, talk: Any) -> None:
        while await self.one(talk):
            pass

    async def one(self, talk: Any) -> bool:
        """One request and its answer. Whether another may follow."""
        server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        whole = b""
        answered = False
        while True:
            try:
                event = server.next_event()
            except h11.RemoteProtocolError as error:
                self.wrong.append(f"{error}: {whole[:600]!r}")
                return False
            if event is h11.NEED_DATA:
                data = talk.data or await talk.sock.recv(65536)
                talk.data = b""
                whole += data
                if not data:
                    return False  # the proxy gave up, which it may
                server.receive_data(data)
            elif isinstance(event, h11.Request):
                self.read += 1
                if self.rng.random() < 0.1:  # an answer before the request's end
                    answered = True
                    await self.answer(talk)
            elif isinstance(event, h11.EndOfMessage):
                talk.data = server.trailing_data[0]
                return answered or await self.answer(talk)
            elif isinstance(event, h11.ConnectionClosed):
                return False

    async def answer(self, talk: Any) -> bool:
        what = self.rng.random()
        if what < 0.03:
            talk.reset()
            return False
        if what < 0.06:
            await trio.sleep(0.15)
            return False
        for piece in pieces(self.rng, http1_grammar.response(self.rng)):
            await talk.send(piece)
            await trio.lowlevel.checkpoint()
        if what < 0.15:
            talk.end()
        return True


async def call(harness: Any, address: Any, rng: Random, wrong: list[str]) -> None:
    """A client: sends its bytes, reads what comes, and looks at it with our own strict reader and
    h11."""
    data = http1_grammar.requests(rng)
    client = await harness.client(address)
    got = bytearray()

    async def read() -> None:
        try:
            while more := await client.sock.recv(65536):
                got.extend(more)
        except (OSError, trio.ClosedResourceError):
            pass

    with trio.move_on_after(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            try:
                for piece in pieces(rng, data):
                    await client.send(piece)
                    await trio.lowlevel.checkpoint()
                if rng.random() < 0.1:
                    client.reset()
                elif rng.random() < 0.9:
                    client.end()
            except (OSError, trio.ClosedResourceError):
                pass
            if client.sock.fileno() < 0:
                nursery.cancel_scope.cancel()
    client.close()
    harness.clients.remove(client)
    check_answers(data, bytes(got), wrong)


def methods_of(sent: bytes) -> list[bytes]:
    """Of the requests that there are to answer; what is no request is answered, too."""
    methods = []
    while sent:
        try:
            head = parse_request(sent)
            if head is None:
                break
            methods.append(head.method)
            sent = sent[head.end :]
            if head.framing == CHUNKED:
                end = Chunked().feed(sent)
                if end < 0:
                    break
                sent = sent[end:]
            else:
                sent = sent[head.framing :]
        except ProxyError:
            break
    if sent:  # unfinished, or refused
        methods.append(b"HEAD" if sent.lstrip(b"\r\n").startswith(b"HEAD ") else b"")
    return methods


def check_answers(sent: bytes, got: bytes, wrong: list[str]) -> None:
    """Every answer but the last is whole and well-formed; none has more than one reading."""
    methods = methods_of(sent)
    finals = 0
    while got:
        method = methods[finals] if finals < len(methods) else b"GET"
        try:
            head = parse_response(got, method, upgrade=b"websocket")
        except ProxyError as error:
            wrong.append(f"{error}: {got[:600]!r} for {sent[:600]!r}")
            return
        if head is None or head.status == 101:
            return  # cut; or a tunnel: anything may follow
        got = got[head.end :]
        if head.status < 200:
            continue
        finals += 1
        if finals > len(methods):
            wrong.append(f"more answers than requests: {sent[:600]!r}")
        if head.framing == CHUNKED:
            try:
                end = Chunked().feed(got)
            except ProxyError:
                return  # of the endpoint; it was cut there
            if end < 0:
                return
            got = got[end:]
        elif head.framing >= 0:
            got = got[head.framing :]
        else:
            return


@pytest.mark.parametrize("seed", [FIRST, FIRST + 1, FIRST + 2])
async def test_the_exchange(make_harness: Any, seed: Any):
    rng = Random(seed)
    endpoint = Endpoint(rng)
    wrong: list[str] = []
    async with make_harness(**TIMES) as harness:
        backends = [await harness.backend(endpoint.serve) for _ in range(3)]
        address = harness.serve(*backends)
        with trio.move_on_after(SECONDS):
            async with trio.open_nursery() as nursery:

                async def calls() -> None:
                    while True:
                        await call(harness, address, rng, wrong)
                        if len(harness.records) > 10_000:
                            harness.records.clear()
                            harness.lines.clear()

                for _ in range(10):
                    nursery.start_soon(calls)
        assert wrong + endpoint.wrong == []
        assert endpoint.read > 50
        assert harness.crashes == []


@pytest.mark.parametrize("seed", [FIRST, FIRST + 1])
def test_the_parsers(seed: int):
    """As many messages as fit, each in all kinds of pieces: the pieces never matter, and what is
    sent on is read again, by us and by h11, as it was read."""
    rng = Random(seed)
    for _ in range(int(SECONDS * 600)):
        data = http1_grammar.requests(rng)
        try:
            head = parse_request(data)
        except ProxyError:
            for cut in range(0, min(len(data), 3000), 7):
                with suppress(ProxyError):
                    assert parse_request(data[:cut]) is None
            continue
        if head is None:
            continue
        for cut in {rng.randrange(head.end), head.end - 1}:
            assert parse_request(data[:cut]) is None
        assert parse_request(data[: head.end]) == head
        sent = request_head(head, forwarded_for=b"10.0.0.1", extra=b"Via: 1.1 n\r\n")
        server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        server.receive_data(sent)
        event = server.next_event()
        assert isinstance(event, h11.Request)
        assert (event.method, event.target) == (head.method, head.target)
        again = parse_request(sent)
        assert again is not None
        assert (again.framing, again.host, again.end) == (head.framing, head.host, len(sent))
    for _ in range(int(SECONDS * 600)):
        data = http1_grammar.response(rng)
        try:
            answer = parse_response(data, b"GET", upgrade=b"websocket")
        except ProxyError:
            continue
        if answer is not None:
            for cut in {rng.randrange(answer.end), answer.end - 1}:
                assert parse_response(data[:cut], b"GET", upgrade=b"websocket") is None
            whole = parse_response(data[: answer.end], b"GET", upgrade=b"websocket")
            assert whole == answer
