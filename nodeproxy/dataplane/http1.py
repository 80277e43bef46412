"""HTTP/1.1 on a connection: requests one after the other, each an exchange with an endpoint."""

from __future__ import annotations

import contextlib
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
from nodeproxy.core.record import UNSET, Record
from nodeproxy.dataplane.connection import Connection
from nodeproxy.dataplane.lane import Companion
from nodeproxy.dataplane.pump import UNBOUNDED, Bytes, pump
from nodeproxy.dataplane.stream import CLIENT, GONE, PEER_CLOSED, Stream
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
    client.owner, client.on_idle = client.reactor.lane, _left
    try:
        while True:
            if not data:
                # An idle connection keeps nothing of its last request: there are many.
                head, given, started = None, None, 0.0
                data = await client.recv(node.settings.keep_alive_timeout)
                connection.idle = False
                if not data:
                    return
            started = monotonic()
            head = parse_request(data, node.limits)
            while head is None:
                seen = len(data)
                data += await _more(client, started + node.settings.header_timeout)
                if len(data) == seen:
                    return
                head = parse_request(data, node.limits, seen=seen)
            given, lease = lease, None  # from here on it is the exchange that ends it
            data, goes_on = await exchange(connection, upstream, head, data, started, given)
            if not goes_on:
                return
            connection.idle = not data
    except (BadRequest, ClientTimeout) as error:
        if data:  # else it was silent between requests, which is no error
            await _refuse(connection, upstream, started, error)
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
    goes_on = False  # the connection can serve another request
    unread = True  # the client may be sending what nobody will read
    rest = b""
    if lease is not None:
        record.tries = 1
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
        # What must not be processed twice is only sent where the kernel knows of no end yet.
        while True:
            if lease is None:
                lease = await upstream.lease(record, fresh=record.tries > 0)
            target, stream, reused = lease
            record.upstream = target.name
            if reused and head.method not in IDEMPOTENT and stream.ended():
                upstream.discard(target, stream)
                lease = None
                upstream.series.retry(UpstreamClosed.reason)
                continue
            try:
                await stream.send(request, node.settings.body_timeout)
                record.sent = monotonic()
                if end < 0:
                    left = head.framing - len(rest)
                    body = _upload(connection, stream, record, left, chunks, received)
                    upload = Companion(client.reactor, node.lanes, body)
                response, answer = await _answer_head(
                    connection, upstream, stream, record, upload, received
                )
                break
            except UpstreamClosed as error:
                if not reused or head.method not in IDEMPOTENT or upload is not None:
                    raise
                upstream.discard(target, stream)
                lease = None
                upstream.series.retry(error.reason)
        record.responded = monotonic()
        target.series.waited.value += record.responded - record.sent
        record.status = response.status
        # The answer, with as much of its body as has come. Where the request has not come to
        # its end yet, it may never do so, and nobody would know where the next one begins.
        keep = (
            head.keep_alive
            and response.framing != UNTIL_CLOSE
            and not node.draining
            and (upload is None or upload.result is not None)
        )
        if response.clean and keep:
            out = answer
        else:
            out = response_head(response, close=not keep) + answer[response.end :]
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
        unread = upload is not None and upload.result is None
        if response.keep_alive and not unread and not surplus:
            upstream.checkin(target, stream)
            lease = None
        if response.status < 500:
            upstream.succeeded(target)
        else:
            upstream.failed(target, None, response.status)
        rest = rest[end:] if upload is None else upload.result or b""
        goes_on = keep
    except ProxyError as error:
        _blame(record, error)
        if lease is not None:
            if not isinstance(error, (ClientGone, ClientTimeout, BadRequest)):
                upstream.failed(lease[0], error)
            elif record.responded != UNSET and record.status < 500:
                upstream.succeeded(lease[0])
        if begun:
            client.reset()  # an orderly end could be taken for a complete answer
        elif not isinstance(error, ClientGone):
            if upload is not None:
                upload.cancel()
            await _answer(client, error, head.method)
    finally:
        if upload is not None:
            upload.cancel()
        if lease is not None:
            upstream.discard(lease[0], lease[1])
        record.bytes_received, record.bytes_sent = received.value, sent.value
        record.ended = monotonic()
        node.emit(record, upstream.series)
    if not goes_on and (unread or rest):
        await _linger(client)
    return rest, goes_on


async def _answer_head(
    connection: Connection,
    upstream: Upstream,
    stream: Stream,
    record: Record,
    upload: Companion[bytes | None] | None,
    received: Bytes,
) -> tuple[ResponseHead, bytes]:
    """The head of the final answer, and all bytes read from where it begins. Interim answers
    (1xx) are passed on to clients that know them. Raises UpstreamClosed when the endpoint
    closes without a byte, UpstreamTimeout after ``response_timeout``, which begins when the
    request has come to its end."""
    head = record.head
    assert head is not None
    timeout = upstream.policy.response_timeout
    wait = timeout or NO_LIMIT
    data, seen = b"", 0
    while True:
        try:
            more = await stream.recv(wait)
        except UpstreamTimeout:
            wait = _since_request(record, upload, received) + timeout - monotonic()
            if wait > 0:
                continue
            raise
        if not more:
            if data:
                raise BadResponse("the endpoint closed the connection within an answer's head")
            raise UpstreamClosed("the endpoint closed the connection instead of answering")
        data = data + more if data else more
        while (response := parse_response(data, head.method, seen=seen)) is not None:
            if response.status >= 200:
                if response.framing == CHUNKED and not head.minor:
                    raise BadResponse("a chunked answer to an HTTP/1.0 request")
                return response, data
            if head.minor:
                interim = data[: response.end]
                if not response.clean:
                    interim = response_head(response, close=False)
                await connection.client.send(interim, upstream.policy.body_timeout)
            data, seen = data[response.end :], 0
            if not data:
                break
        else:
            seen = len(data)
        if timeout:
            left = _since_request(record, upload, received) + timeout - monotonic()
            wait = max(0.0, left)


def _since_request(
    record: Record, upload: Companion[bytes | None] | None, received: Bytes
) -> float:
    """When the request had been handed to the endpoint; now, while it is under way."""
    if upload is None:
        return record.sent
    return max(received.moved, record.sent) if upload.lane.done else monotonic()


async def _upload(
    connection: Connection,
    stream: Stream,
    record: Record,
    left: int,
    chunks: Chunked | None,
    received: Bytes,
) -> bytes | None:
    """Send the rest of a request's body while its answer is awaited. Returns what the client
    sent beyond it; None when the endpoint takes no more of it: then it has answered, or the
    first lane reads why not."""
    timeout = connection.node.settings.body_timeout
    try:
        return await _stream_body(connection.client, stream, left, chunks, timeout, received)
    except UpstreamClosed:
        return None
    except UpstreamTimeout:
        if record.responded == UNSET:
            raise
        return None


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
        meter.moved = source.reactor.now
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


async def _more(client: Stream, until: float) -> bytes:
    """More of a head that has to be complete at ``until``; empty: the client has closed."""
    return await client.recv(max(0.0, until - monotonic()))


async def _refuse(
    connection: Connection, upstream: Upstream, started: float, error: ProxyError
) -> None:
    """Answer what was no request, and end the connection."""
    record = connection.record(started, "HTTP/1.1", upstream)
    _blame(record, error)
    await _answer(connection.client, error)
    record.ended = monotonic()
    connection.node.emit(record, upstream.series)
    await _linger(connection.client)


async def _answer(client: Stream, error: ProxyError, method: bytes = b"") -> None:
    """Tell the client of an error, and that the connection ends."""
    with contextlib.suppress(ProxyError):  # nobody is left to be told
        await client.send(error_response(error, head_only=method == b"HEAD"), LINGER_SECONDS)


async def _linger(client: Stream) -> None:
    """End the connection so that the client can read its answer: a close with unread bytes
    would reset the connection under it."""
    if client.closed:
        return
    client.end_writing()
    try:
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


def _left(client: Stream, events: int) -> None:
    """The client closed while its answer was awaited: whoever works for it may stop.

    A client that only ends its own sending looks the same, and is treated the same, as other
    proxies do: nobody would answer those who left if it were not.
    """
    if events & (GONE | PEER_CLOSED):
        client.tell_owner("the client closed before it was answered")
