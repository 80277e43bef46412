"""Waiting for an endpoint's answer, up to the end of its head."""

from __future__ import annotations

from time import monotonic
from typing import Final

from nodeproxy.core.errors import BadResponse, UpstreamClosed, UpstreamTimeout
from nodeproxy.core.http1 import CHUNKED, ResponseHead, parse_response, response_head
from nodeproxy.core.record import Record
from nodeproxy.dataplane.connection import Connection
from nodeproxy.dataplane.lane import Companion
from nodeproxy.dataplane.pump import Bytes
from nodeproxy.dataplane.stream import Stream
from nodeproxy.dataplane.upstream import Upstream

__all__ = ["answer_head"]

NO_LIMIT: Final = float("inf")
MAX_INTERIM: Final = 64
"""Interim answers (1xx) to one request: each is passed on, and none is an answer."""


async def answer_head(
    connection: Connection,
    upstream: Upstream,
    stream: Stream,
    record: Record,
    upload: Companion[bytes | None] | None,
    received: Bytes,
) -> tuple[ResponseHead, bytes]:
    """The head of the final answer, and all bytes read from where it begins. Interim answers
    (1xx) are passed on to clients that know them. Raises UpstreamClosed when the endpoint
    closes without a byte (only then nobody knows whether it has seen the request),
    UpstreamTimeout after ``response_timeout``, which begins when the request has come to its
    end."""
    head = record.head
    assert head is not None
    timeout = upstream.policy.response_timeout
    wait = timeout or NO_LIMIT
    data, seen, interims = b"", 0, 0
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
            if interims:
                raise BadResponse("the endpoint closed the connection after an interim answer")
            raise UpstreamClosed("the endpoint closed the connection instead of answering")
        data = data + more if data else more
        while (
            response := parse_response(data, head.method, seen=seen, upgrade=head.upgrade)
        ) is not None:
            if response.status >= 200 or response.status == 101:
                if response.framing == CHUNKED and not head.minor:
                    raise BadResponse("a chunked answer to an HTTP/1.0 request")
                return response, data
            interims += 1
            if interims > MAX_INTERIM:
                raise BadResponse(f"more than {MAX_INTERIM} interim answers")
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
