"""HTTP/1.1 on a connection: requests one after the other, each an exchange with an endpoint."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import Final

from nodeproxy.core.errors import (
    BadRequest,
    BadResponse,
    ClientGone,
    ClientTimeout,
    ProxyError,
    UpstreamClosed,
    UpstreamTimeout,
)
from nodeproxy.core.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    BadChunk,
    Chunked,
    RequestHead,
    ResponseHead,
    error_response,
    parse_request,
    parse_response,
    request_head,
    response_head,
)
from nodeproxy.core.record import Record
from nodeproxy.dataplane.connection import Connection
from nodeproxy.dataplane.lane import Companion, Lane
from nodeproxy.dataplane.pump import UNBOUNDED, Bytes, pump
from nodeproxy.dataplane.stream import CLIENT, Stream
from nodeproxy.dataplane.upstream import Lease, Upstream

__all__ = ["serve_http"]

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110, 9.2.2."""
NO_LIMIT: Final = float("inf")
LINGER_SECONDS: Final = 1.0
LINGER_BYTES: Final = 1 << 20


async def serve_http(
    connection: Connection, upstream: Upstream, data: bytes, lease: Lease | None
) -> None:
    """Serve requests until the connection ends. ``data``: bytes that were read already.
    ``lease``: an open connection for the first request."""
    node, client = connection.node, connection.client
    settings = node.settings
    lane = client.reactor.lane
    assert lane is not None
    client.on_idle = partial(_left, lane)
    started = monotonic()
    try:
        while True:
            head = None
            while True:
                if data:
                    head = parse_request(data, node.limits)
                    if head is not None:
                        break
                    wait = started + settings.header_timeout - monotonic()
                    more = await client.recv(max(0.0, wait))
                else:
                    more = await client.recv(settings.keep_alive_timeout)
                    started = monotonic()
                if not more:
                    return
                data = data + more if data else more
            data, goes_on = await exchange(connection, upstream, head, data, started, lease)
            lease = None
            if not goes_on:
                return
            if data:
                started = monotonic()
    except (BadRequest, ClientTimeout) as error:
        if data:  # else it was silent between requests, which is no error
            record = connection.record(started, "HTTP/1.1", upstream)
            _blame(record, error)
            await _answer(client, error)
            record.ended = monotonic()
            node.emit(record, upstream.series)
    except ClientGone:
        pass  # between two requests
    finally:
        if lease is not None:
            upstream.discard(lease[0], lease[1])


async def exchange(
    connection: Connection,
    upstream: Upstream,
    head: RequestHead,
    data: bytes,
    started: float,
    lease: Lease | None,
) -> tuple[bytes, bool]:
    """One request and its answer.

    ``data`` begins with the request's head. Returns what the client has sent beyond the request,
    and whether the connection can serve another. Never raises a ProxyError: the client is
    answered, or its connection reset where an answer had begun.
    """
    node, client = connection.node, connection.client
    record = connection.record(started, "HTTP/1.1" if head.minor else "HTTP/1.0", upstream)
    record.head = head
    upload: Companion[bytes | None] | None = None
    received, sent = Bytes(), Bytes()
    begun = False  # the client has been sent a byte of the answer
    try:
        # The request, with as much of its body as has come.
        rest = data[head.end :]
        chunks = Chunked() if head.framing == CHUNKED else None
        end = _cut(head.framing, rest, chunks, BadRequest) if head.framing else 0
        request = request_head(
            head,
            forwarded_for=connection.forwarded_for,
            proto=b"http",
            extra=node.request_fields,
        )
        if head.framing:
            request += rest if end < 0 else rest[:end]
            received.value = len(rest) if end < 0 else end
        # An endpoint, and its answer's head. A connection that was kept may have been closed
        # just now: then the request was not processed, and goes out once more on a fresh one.
        while True:
            if lease is None:
                lease = await upstream.lease(record, fresh=record.tries > 0)
            target, stream, reused = lease
            record.upstream = target.name
            try:
                await stream.send(request, node.settings.body_timeout)
                record.sent = monotonic()
                if end < 0:
                    upload = _start_upload(connection, stream, head, len(rest), chunks, received)
                response, answer = await _answer_head(
                    client, stream, head, upstream.policy.response_timeout
                )
                break
            except UpstreamClosed as error:
                if not reused or head.method not in IDEMPOTENT or upload is not None:
                    raise
                upstream.discard(target, stream)
                lease = None
                upstream.series.retry(error.reason)
        record.responded = monotonic()
        record.status = response.status
        if response.status < 500:
            upstream.succeeded(target)
        else:
            upstream.failed(target, None, response.status)
        # The answer, with as much of its body as has come.
        goes_on = (
            head.keep_alive
            and head.minor == 1
            and response.framing != UNTIL_CLOSE
            and not node.draining
        )
        if response.clean and goes_on:
            out = answer
        else:
            out = response_head(response, close=not goes_on) + answer[response.end :]
        have = len(answer) - response.end
        framing = response.framing
        surplus = b""
        begun = True
        if have == framing:
            sent.value = have
            await client.send(out, upstream.policy.body_timeout)
        else:
            chunks = Chunked() if framing == CHUNKED else None
            cut = _cut(framing, answer[response.end :], chunks, BadResponse)
            sent.value = have if cut < 0 else cut
            if cut >= 0:
                surplus = answer[response.end + cut :]
                out = out[: len(out) - len(surplus)]
            await client.send(out, upstream.policy.body_timeout)
            if cut < 0:
                surplus = await _stream_body(
                    stream, client, framing - have, chunks, upstream.policy.body_timeout, sent
                )
        # What remains of both connections.
        complete = upload is None
        if upload is not None:
            # Answered before the request was complete: then nobody knows where it ends.
            complete = upload.result is not None
            goes_on = goes_on and complete
            rest, end = upload.result or b"", 0
        if response.keep_alive and complete and not surplus:
            upstream.checkin(target, stream)
            lease = None
        return rest[end:], goes_on
    except ProxyError as error:
        _blame(record, error)
        if lease is not None and not isinstance(error, (ClientGone, ClientTimeout, BadRequest)):
            upstream.failed(lease[0], error)
        if begun:
            client.reset()  # an orderly end could be taken for a complete answer
        elif not isinstance(error, ClientGone):
            if upload is not None:
                upload.cancel()
            await _answer(client, error, head.method)
        return b"", False
    finally:
        if upload is not None:
            upload.cancel()
        if lease is not None:
            upstream.discard(lease[0], lease[1])
        record.bytes_received, record.bytes_sent = received.value, sent.value
        record.ended = monotonic()
        node.emit(record, upstream.series)


async def _answer_head(
    client: Stream, stream: Stream, head: RequestHead, timeout: float
) -> tuple[ResponseHead, bytes]:
    """The head of the final answer, and all bytes read from where it begins. Interim answers
    (1xx) are passed on to clients that know them. Raises UpstreamClosed when the endpoint
    closes without a byte."""
    wait = timeout or NO_LIMIT
    data = await stream.recv(wait)
    if not data:
        raise UpstreamClosed("the endpoint closed the connection instead of answering")
    while True:
        response = parse_response(data, head.method)
        if response is not None:
            if response.status >= 200:
                return response, data
            if response.status == 101:
                raise BadResponse("101 Switching Protocols, though no upgrade was asked for")
            if head.minor:
                await client.send(data[: response.end], wait)
            data = data[response.end :]
            if data:
                continue
        more = await stream.recv(wait)
        if not more:
            raise BadResponse("the endpoint closed the connection within an answer's head")
        data += more


def _start_upload(
    connection: Connection,
    stream: Stream,
    head: RequestHead,
    gone: int,
    chunks: Chunked | None,
    meter: Bytes,
) -> Companion[bytes | None]:
    """Send the rest of a request's body while its answer is awaited."""
    settings = connection.node.settings

    async def upload() -> bytes | None:
        try:
            return await _stream_body(
                connection.client,
                stream,
                head.framing - gone,
                chunks,
                settings.body_timeout,
                meter,
            )
        except (UpstreamClosed, UpstreamTimeout):
            return None  # it takes no more: what it answers, the first lane reads

    return Companion(connection.client.reactor, connection.node.lanes, upload())


async def _stream_body(
    source: Stream,
    target: Stream,
    left: int,
    chunks: Chunked | None,
    timeout: float,
    meter: Bytes,
) -> bytes:
    """Send the rest of a body on. Returns bytes of ``source`` beyond the body.

    ``chunks`` reads a chunked body; without it ``left`` counts the bytes of a Content-Length,
    and is negative for a body that ends with its connection.
    """
    if chunks is None:
        if left < 0:
            await pump(source, target, UNBOUNDED, timeout, meter)
        elif await pump(source, target, left, timeout, meter) < left:
            raise source.faults.broken("closed within a body, before its Content-Length")
        return b""
    while True:
        data = await source.recv(timeout, 65536)
        if not data:
            raise source.faults.broken("closed within a chunked body")
        end = _cut(CHUNKED, data, chunks, BadRequest if source.faults is CLIENT else BadResponse)
        meter.value += len(data) if end < 0 else end
        await target.send(data if end < 0 else data[:end], timeout)
        if end >= 0:
            return data[end:]


def _cut(framing: int, data: bytes, chunks: Chunked | None, error: type[ProxyError]) -> int:
    """Where a body ends in ``data``; -1: all of it belongs to the body, and more is to come."""
    if chunks is None:
        return framing if 0 <= framing <= len(data) else -1
    try:
        return chunks.feed(data)
    except BadChunk as bad:
        raise error(str(bad)) from None


async def _answer(client: Stream, error: ProxyError, method: bytes = b"") -> None:
    """Tell the client of an error and end the connection so that it can read the answer: a
    close with unread bytes would reset the connection under it."""
    try:
        await client.send(error_response(error, head_only=method == b"HEAD"), LINGER_SECONDS)
        client.end_writing()
        left = LINGER_BYTES
        until = monotonic() + LINGER_SECONDS
        while left > 0 and monotonic() < until:
            gone = await client.recv(LINGER_SECONDS)
            if not gone:
                break
            left -= len(gone)
    except ProxyError:
        pass  # nobody is left to be told


def _blame(record: Record, error: ProxyError) -> None:
    record.flags = error.flag
    record.detail = f"{error.reason}: {error}"
    if not record.status:
        record.status = error.status


def _left(lane: Lane, client: Stream, gone: bool) -> None:
    """The client closed while its answer was awaited: whoever works for it may stop."""
    if gone:
        client.reactor.soon(lane, ClientGone("the client closed before it was answered"))
