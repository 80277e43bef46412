"""Copies of requests (RequestMirror): sent beside the request, their answers thrown away.

A copy is never waited for, and costs its request nothing but the sending: there are at most
``MOST`` under way, further ones are not sent.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from nodeproxy.core.errors import ProxyError
from nodeproxy.core.http1 import CHUNKED, Chunked, parse_response
from nodeproxy.core.record import Record
from nodeproxy.core.routing.backends import target
from nodeproxy.core.routing.rules import Backend
from nodeproxy.dataplane.stream import Stream
from nodeproxy.dataplane.upstream import Lease, Upstream

if TYPE_CHECKING:
    from nodeproxy.dataplane.node import Node

__all__ = ["mirror"]

MOST: Final = 64
PATIENCE: Final = 15.0
"""Seconds for a copy's answer."""
ANSWER: Final = 1 << 20
"""Bytes of an answer that are read so that its connection can serve again."""


def mirror(node: Node, backend: Backend, request: bytes, method: bytes) -> None:
    """Send a copy to one endpoint of ``backend``."""
    if node.mirroring >= MOST or node.draining:
        return
    try:
        upstream = node.upstream(*target(node.catalog, backend))
    except ProxyError:
        return  # a backend that can't be used gets no copies; `nodeproxy routes` says so
    node.reactor.spawn(_send(node, upstream, request, method), node.lanes)


async def _send(node: Node, upstream: Upstream, request: bytes, method: bytes) -> None:
    node.mirroring += 1
    lease: Lease | None = None
    try:
        record = Record(monotonic(), "HTTP/1.1", "", "")
        lease = await upstream.lease(record)
        found, stream, _ = lease
        await stream.send(request, PATIENCE)
        if await _answered(stream, method):
            upstream.checkin(found, stream)
            lease = None
    except ProxyError:
        pass  # nobody waits for it
    finally:
        node.mirroring -= 1
        if lease is not None:
            upstream.discard(lease[0], lease[1])


async def _answered(stream: Stream, method: bytes) -> bool:
    """Read an answer to its end. Whether the connection may serve again."""
    until = monotonic() + PATIENCE
    data = b""
    while True:
        while (response := parse_response(data, method)) is None or response.status < 200:
            if response is not None:
                data = data[response.end :]
                continue
            more = await stream.recv(max(0.0, until - monotonic()))
            if not more:
                return False
            data += more
        break
    body = data[response.end :]
    chunks = Chunked() if response.framing == CHUNKED else None
    if chunks is None and not 0 <= response.framing <= ANSWER:
        return False
    seen = 0
    while True:
        end = response.framing if chunks is None else chunks.feed(body)
        seen += len(body)
        if chunks is None:
            if seen >= end:
                return response.keep_alive and seen == end
        elif end >= 0:
            return response.keep_alive and end == len(body)
        if seen > ANSWER:
            return False
        body = await stream.recv(max(0.0, until - monotonic()), 65536)
        if not body:
            return False
