"""One accepted connection: what all its requests have in common."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from nodeproxy.core.destination import Address, host_port
from nodeproxy.core.record import Record
from nodeproxy.dataplane.stream import Stream
from nodeproxy.dataplane.upstream import Upstream

if TYPE_CHECKING:
    from nodeproxy.dataplane.listener import Listener
    from nodeproxy.dataplane.node import Node

__all__ = ["Connection"]


@lru_cache(maxsize=4096)
def _encoded(address: str) -> bytes:
    """One object for all connections of a client."""
    return address.encode()


class Connection:
    """A client's connection: who called, and what it dialled."""

    __slots__ = (
        "client",
        "destination",
        "forwarded_for",
        "idle",
        "listener",
        "node",
        "peer",
        "trusted",
        "upstream",
    )

    def __init__(self, node: Node, client: Stream, peer: Address, destination: str) -> None:
        self.node = node
        self.client = client
        self.peer = host_port(peer)
        self.forwarded_for = _encoded(peer[0])
        self.destination = destination
        """``address:port`` that the client dialled: before the redirection, if there was one."""
        self.trusted = node.trusts(peer[0])
        """What it says of earlier hops (X-Forwarded-For) is believed."""
        self.upstream: Upstream | None = None
        self.listener: Listener | None = None
        """Where it was counted in."""
        self.idle = False
        """It has served a request and waits for another one: to end it now loses nothing."""

    def open(self, upstream: Upstream) -> None:
        """It is known who is meant."""
        self.upstream = upstream
        upstream.series.active.value += 1

    def close(self) -> None:
        """End it, in an orderly way if it has not been reset."""
        if self.upstream is not None:
            self.upstream.series.active.value -= 1
            self.upstream = None
        self.node.door.leave(self)
        self.client.close()

    def record(self, started: float, protocol: str, provider: Upstream) -> Record:
        """A new record of something on this connection."""
        record = Record(started, protocol, self.peer, self.destination)
        record.service = provider.service.name
        record.backend = provider.name
        return record
