"""The path of a connection, top to bottom: from the client's first byte to its last.

    accept -> original destination -> service -> protocol -> for HTTP, per request: exchange

What is decided here is decided from the catalog of this moment. A request keeps the objects
that it began with; the catalog may change meanwhile.
"""

from __future__ import annotations

from collections.abc import Coroutine
from time import monotonic
from typing import Any

from nodeproxy.core.errors import ClientTimeout, ProxyError
from nodeproxy.core.sniff import sniff
from nodeproxy.dataplane.connection import Connection
from nodeproxy.dataplane.http1 import serve_http
from nodeproxy.dataplane.stream import Stream, wait_either
from nodeproxy.dataplane.tcp import relay
from nodeproxy.dataplane.upstream import Lease, Upstream

__all__ = ["serve"]


def serve(connection: Connection, upstream: Upstream) -> Coroutine[Any, Any, None]:
    """What serves one accepted connection whose destination is known: the coroutine of a lane
    that owns the connection."""
    protocol = upstream.port.protocol
    routes = connection.node.routes
    if routes.services:
        rules = routes.find(upstream.service.name, upstream.port.port)
        if rules is not None and rules.tcp is not None:
            return relay(connection, upstream, b"", None, monotonic(), rules.tcp)
    if protocol == "http":
        return serve_http(connection, upstream, b"", None)
    if protocol:
        return relay(connection, upstream, b"", None, monotonic())
    return serve_undeclared(connection, upstream)


async def serve_undeclared(connection: Connection, upstream: Upstream) -> None:
    """Find out what is spoken, and serve that."""
    started = monotonic()
    try:
        protocol, first, lease = await detect(connection, upstream)
    except ProxyError as error:
        record = connection.record(started, "TCP", upstream)
        record.flags, record.detail = error.flag, f"{error.reason}: {error}"
        record.ended = monotonic()
        connection.node.emit(record, upstream.series)
        connection.client.reset()
        return
    if protocol == "http":
        await serve_http(connection, upstream, first, lease)
    else:
        await relay(connection, upstream, first, lease, started)


async def detect(connection: Connection, upstream: Upstream) -> tuple[str, bytes, Lease | None]:
    """Find out how an undeclared port speaks: the protocol, the client's first bytes, and the
    connection to an endpoint that was opened meanwhile.

    An endpoint is dialled at once and both sides are watched. Who speaks first decides: a
    server that greets (SMTP, MySQL, SSH) is relayed at once, so detection delays it by nothing;
    a client's first bytes tell what it speaks, or are taken for TCP after ``detect_timeout``.
    Where no endpoint can be reached, only a client that speaks HTTP at once can be told so.
    """
    node, client = connection.node, connection.client
    settings = node.settings
    record = connection.record(monotonic(), "TCP", upstream)
    lease: Lease | None = None
    try:
        try:
            target, stream, _ = await upstream.lease(record, fresh=True)
        except ProxyError:
            protocol, first = await _speaks(client, client, settings.detect_timeout)
            if protocol != "http":
                raise
            return protocol, first, None
        # As one that has served before: the endpoint may close it while the client is silent.
        lease = target, stream, True
        began = monotonic()
        speaker = await wait_either(client, stream, settings.tcp_idle_timeout)
        if speaker is None:
            raise ClientTimeout(f"neither side spoke for {settings.tcp_idle_timeout:g} s")
        if speaker is stream:
            node.detected("server-first", monotonic() - began)
            return "tcp", b"", lease
        began = monotonic()
        protocol, first = await _speaks(client, stream, settings.detect_timeout)
        node.detected(protocol, monotonic() - began)
        return protocol, first, lease
    except BaseException:
        if lease is not None:
            upstream.discard(lease[0], lease[1])
        raise


async def _speaks(client: Stream, other: Stream, timeout: float) -> tuple[str, bytes]:
    """What the client speaks, and its first bytes. TCP is what has not become something else
    within ``timeout`` seconds, or when ``other`` speaks meanwhile."""
    until = monotonic() + timeout
    first = b""
    while (found := sniff(first)) is None:
        left = until - monotonic()
        if left <= 0 or await wait_either(client, other, left) is not client:
            break
        more = client.recv_nowait()
        if not more:
            break
        first += more
    return found or "tcp", first
