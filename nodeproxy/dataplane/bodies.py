"""Bodies on their way from one stream to the other, and where they end."""

from __future__ import annotations

from nodeproxy.core.errors import (
    BadRequest,
    BadResponse,
    BodyTooLarge,
    ClientGone,
    ProxyError,
    UpstreamClosed,
    UpstreamTimeout,
)
from nodeproxy.core.http1 import CHUNKED, BadChunk, Chunked
from nodeproxy.core.record import UNSET, Record
from nodeproxy.dataplane.connection import Connection
from nodeproxy.dataplane.pump import UNBOUNDED, Bytes, pump
from nodeproxy.dataplane.stream import CLIENT, Stream

__all__ = ["body_end", "check_size", "stream_body", "upload", "wait_for_body"]


def body_end(framing: int, data: bytes, chunks: Chunked | None, error: type[ProxyError]) -> int:
    """Where a body ends in ``data``; -1: all of it belongs to the body, and more is to come."""
    if chunks is None:
        return framing if 0 <= framing <= len(data) else -1
    try:
        return chunks.feed(data)
    except BadChunk as bad:
        raise error(str(bad)) from None


def check_size(framing: int, come: int, limit: int) -> None:
    """Raise BodyTooLarge when a request's body is announced, or has come, larger than allowed."""
    if framing > limit or come > limit:
        raise BodyTooLarge(f"the request's body exceeds {limit} bytes")


async def wait_for_body(
    connection: Connection, record: Record, framing: int, rest: bytes, received: Bytes
) -> bytes:
    """Read the rest of a body with a Content-Length, of which ``rest`` has come. Returns all of
    it, and what came behind it."""
    settings = connection.node.settings
    until = record.started + settings.request_timeout
    parts, have = [rest], len(rest)
    while have < framing:
        wait = min(settings.body_timeout, max(0.0, until - connection.client.reactor.now))
        more = await connection.client.recv(wait, 65536)
        if not more:
            raise ClientGone("closed within a body, before its Content-Length")
        parts.append(more)
        have += len(more)
    received.value = framing
    return b"".join(parts)


async def upload(
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
    settings = connection.node.settings
    until = record.started + settings.request_timeout
    timeout, limit = settings.body_timeout, settings.max_body
    try:
        return await stream_body(
            connection.client, stream, left, chunks, timeout, received, until, limit
        )
    except UpstreamClosed:
        return None
    except UpstreamTimeout:
        if record.responded == UNSET:
            raise
        return None


async def stream_body(
    source: Stream,
    target: Stream,
    left: int,
    chunks: Chunked | None,
    timeout: float,
    meter: Bytes,
    until: float = float("inf"),
    limit: int = UNBOUNDED,
) -> bytes:
    """Send the rest of a body on. Returns bytes of ``source`` beyond the body.

    ``chunks`` reads a chunked body; without it ``left`` counts the bytes of a Content-Length,
    and is negative for a body that ends with its connection. ``source`` may be silent for
    ``timeout`` seconds, and has to come to the end at ``until``; ``limit`` is for chunked bodies.
    """
    if chunks is None:
        if left < 0:
            await pump(source, target, UNBOUNDED, timeout, meter)
        elif await pump(source, target, left, timeout, meter, until) < left:
            raise source.faults.broken("closed within a body, before its Content-Length")
        return b""
    reactor = source.reactor
    while True:
        wait = until - reactor.now
        data = await source.recv(timeout if timeout < wait else max(wait, 0.0), 65536)
        if not data:
            raise source.faults.broken("closed within a chunked body")
        end = body_end(
            CHUNKED, data, chunks, BadRequest if source.faults is CLIENT else BadResponse
        )
        meter.value += len(data) if end < 0 else end
        if meter.value > limit:
            check_size(0, meter.value, limit)
        meter.moved = reactor.now
        await target.send(data if end < 0 else data[:end], timeout)
        if end >= 0:
            return data[end:]
