"""Answers of the proxy's own: errors, and what it answers instead of an endpoint."""

from __future__ import annotations

import contextlib
from time import monotonic
from typing import Final

from nodeproxy.core.errors import ProxyError
from nodeproxy.core.http1 import RequestHead, error_response, own_response
from nodeproxy.core.record import Record
from nodeproxy.dataplane.connection import Connection
from nodeproxy.dataplane.stream import Stream
from nodeproxy.dataplane.upstream import Upstream

__all__ = ["answer_error", "answer_here", "answer_raw", "blame", "linger", "refuse"]

LINGER_SECONDS: Final = 1.0
LINGER_BYTES: Final = 1 << 20


def blame(record: Record, error: ProxyError) -> None:
    """Write into the record what went wrong, beside what is known already."""
    record.flags = f"{error.flag},{record.flags}" if record.flags else error.flag
    record.detail = f"{error.reason}: {error}"
    if not record.status:
        record.status = error.status


async def answer_error(
    connection: Connection, error: ProxyError, method: bytes = b"", *, keep: bool = False
) -> None:
    """Tell the client of an error, and that the connection ends. ``keep``: it goes on."""
    answer = error_response(
        error,
        keep_alive=keep,
        head_only=method == b"HEAD",
        proxy_status=connection.node.settings.proxy_status,
    )
    with contextlib.suppress(ProxyError):  # nobody is left to be told
        await connection.client.send(answer, LINGER_SECONDS)


async def answer_here(
    connection: Connection,
    record: Record,
    head: RequestHead,
    answer: tuple[int, bytes, bytes],
    keep: bool,
) -> None:
    """Give an answer (status, field lines, body) that needs no endpoint. ``keep``: the request
    has come to its end, and the connection may serve another. Raises ClientGone."""
    status, fields, body = answer
    data = own_response(status, fields, body, keep_alive=keep, head_only=head.method == b"HEAD")
    record.status = status
    record.responded = monotonic()
    await connection.client.send(data, connection.node.settings.body_timeout)
    record.bytes_sent = len(body)


async def answer_raw(
    connection: Connection, record: Record, head: RequestHead, answer: bytes, whole: bool
) -> bool:
    """Give an answer without a body that is complete, as a route says. ``whole``: the request has
    come to its end. Returns whether the connection may serve another one. Raises ClientGone."""
    record.status = int(answer[9:12])
    record.responded = monotonic()
    await connection.client.send(answer, connection.node.settings.body_timeout)
    closes = b"\r\nConnection: close\r\n" in answer
    return whole and head.keep_alive and not closes and not connection.node.draining


async def refuse(
    connection: Connection,
    upstream: Upstream,
    started: float,
    error: ProxyError,
    method: bytes = b"",
) -> None:
    """Answer what was no request, or one that is not even read, and end the connection."""
    record = connection.record(started, "HTTP/1.1", upstream)
    blame(record, error)
    await answer_error(connection, error, method)
    record.ended = monotonic()
    connection.node.emit(record, upstream.series)
    await linger(connection.client)


async def linger(client: Stream) -> None:
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
