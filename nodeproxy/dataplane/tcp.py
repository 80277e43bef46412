"""Relaying a connection as TCP: two directions, each with its own end."""

from __future__ import annotations

from time import monotonic

from nodeproxy.core.errors import ProxyError
from nodeproxy.core.record import Record
from nodeproxy.core.routing.table import TcpRule
from nodeproxy.core.routing.way import tcp_target
from nodeproxy.dataplane.connection import Connection
from nodeproxy.dataplane.lane import Companion
from nodeproxy.dataplane.pump import UNBOUNDED, Bytes, pump
from nodeproxy.dataplane.stream import RESET, Stream
from nodeproxy.dataplane.upstream import Lease, Upstream

__all__ = ["relay", "tunnel"]


async def relay(
    connection: Connection,
    upstream: Upstream,
    first: bytes,
    lease: Lease | None,
    started: float,
    rule: TcpRule | None = None,
) -> None:
    """Relay until both directions have ended, or one is broken, or both are silent for too long.

    ``first`` are bytes that the client has sent already; ``lease`` is a connection that is
    open already; ``started`` is when the client's was accepted; ``rule`` says whose endpoints are
    meant, instead of those of ``upstream``. A half-close is passed on as a
    half-close, a reset as a reset.
    """
    node, client = connection.node, connection.client
    record = connection.record(started, "TCP", upstream)
    received, sent = Bytes(), Bytes()
    provider = upstream
    try:
        if rule is not None:
            record.route = rule.label
            provider = node.upstream(*tcp_target(rule, node.catalog, node.draw()))
            record.backend = provider.name
        if lease is None:
            lease = await provider.lease(record, fresh=True)
        target, stream, _ = lease
        record.upstream = target.name
        record.tries = record.tries or 1
        record.sent = monotonic()
        upstream.series.tcp_opened()
        provider.succeeded(target)
        await _both_ways(connection, stream, first, received, sent)
    except ProxyError as error:
        record.flags, record.detail = error.flag, f"{error.reason}: {error}"
        client.reset()
        if lease is not None:
            lease[1].reset()
    finally:
        if lease is not None:
            provider.discard(lease[0], lease[1])
        record.bytes_received, record.bytes_sent = received.value, sent.value
        record.ended = monotonic()
        node.emit(record, upstream.series)


async def tunnel(
    connection: Connection,
    stream: Stream,
    record: Record,
    first: bytes,
    received: Bytes,
    sent: Bytes,
) -> None:
    """Relay between a client and an endpoint that have changed to another protocol (101), as
    above. What ends it is written into the record, and is no failure of the endpoint: it did what
    it was asked for."""
    try:
        await _both_ways(connection, stream, first, received, sent)
    except ProxyError as error:
        record.flags, record.detail = error.flag, f"{error.reason}: {error}"
        connection.client.reset()
        stream.reset()


async def _both_ways(
    connection: Connection, stream: Stream, first: bytes, received: Bytes, sent: Bytes
) -> None:
    """Both directions, each to its own end. ``first``: what the client has sent already."""
    node, client = connection.node, connection.client
    idle = node.settings.tcp_idle_timeout
    client.owner = stream.owner = client.reactor.lane
    client.on_idle = stream.on_idle = _lost
    back: Companion[None] | None = None
    try:
        if first:
            await stream.send(first, idle)
            received.value += len(first)
        back = Companion(client.reactor, node.lanes, _carry(stream, client, idle, sent, received))
        await _carry(client, stream, idle, received, sent)
        await back.join()
    finally:
        if back is not None:
            back.cancel()


async def _carry(source: Stream, target: Stream, idle: float, meter: Bytes, other: Bytes) -> None:
    """One direction, to its end. It may be silent for as long as the other one is not."""
    while True:
        try:
            await pump(source, target, UNBOUNDED, idle, meter)
        except source.faults.late:
            if source.reactor.now - other.moved >= idle:
                raise
        else:
            break
    target.end_writing()


def _lost(stream: Stream, events: int) -> None:
    """A side whose direction has ended, or that nobody reads because the other side is slow,
    was reset. (HUP alone tells that both of its directions have ended; bytes may remain.)"""
    if events & RESET:
        stream.tell_owner("the connection was reset")
