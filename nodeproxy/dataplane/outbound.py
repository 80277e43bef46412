"""The path of a connection, top to bottom: from the client's first byte to its last.

    accept -> original destination -> service -> protocol -> for HTTP, per request: exchange

What is decided here is decided from the catalog of this moment. A request keeps the objects
that it began with; the catalog may change meanwhile.
"""

from __future__ import annotations

from time import monotonic

from nodeproxy.core.errors import ProxyError
from nodeproxy.core.sniff import sniff
from nodeproxy.dataplane.connection import Connection
from nodeproxy.dataplane.http1 import serve_http
from nodeproxy.dataplane.stream import wait_either
from nodeproxy.dataplane.tcp import relay
from nodeproxy.dataplane.upstream import Lease, Upstream

__all__ = ["serve"]


async def serve(connection: Connection, upstream: Upstream) -> None:
    """Serve one accepted connection whose destination is known, and close it."""
    series = upstream.series
    series.active.value += 1
    try:
        protocol: str = upstream.port.protocol
        first, lease = b"", None
        if not protocol:
            protocol, first, lease = await detect(connection, upstream)
        if protocol == "http":
            await serve_http(connection, upstream, first, lease)
        else:
            await relay(connection, upstream, first, lease)
    except ProxyError as error:
        record = connection.record(monotonic(), "TCP", upstream)
        record.flags, record.detail = error.flag, f"{error.reason}: {error}"
        record.ended = monotonic()
        connection.node.emit(record, series)
        connection.client.reset()
    finally:
        series.active.value -= 1
        connection.client.close()


async def detect(connection: Connection, upstream: Upstream) -> tuple[str, bytes, Lease | None]:
    """Find out how an undeclared port speaks: the protocol, the client's first bytes, and the
    connection to an endpoint that was opened meanwhile.

    An endpoint is dialled at once and both sides are watched. Who speaks first decides: a
    server that greets (SMTP, MySQL, SSH) is relayed at once, so detection delays it by nothing;
    a client's first bytes tell what it speaks, or are taken for TCP after ``detect_timeout``.
    """
    node, client = connection.node, connection.client
    began = monotonic()
    lease: Lease | None = None
    try:
        lease = await upstream.lease(connection.record(began, "TCP", upstream), fresh=True)
        stream = lease[1]
        if await wait_either(client, stream, node.settings.tcp_idle_timeout) is not client:
            node.detected("server-first", monotonic() - began)
            return "tcp", b"", lease
        spoke = monotonic()
        first = client.recv_nowait() or b""
        found = sniff(first)
        while found is None and first:
            left = spoke + node.settings.detect_timeout - monotonic()
            if left <= 0 or await wait_either(client, stream, left) is not client:
                break
            more = client.recv_nowait()
            if not more:
                break
            first += more
            found = sniff(first)
        node.detected(found or "tcp", monotonic() - spoke)
        return found or "tcp", first, lease
    except BaseException:
        if lease is not None:
            upstream.discard(lease[0], lease[1])
        raise
