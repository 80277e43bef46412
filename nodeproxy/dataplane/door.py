"""How many connections clients may have open: in total, at one listener, and each of them.

Whoever comes over a limit is not kept waiting: a client of an HTTP port is answered with 503, any
other's connection is reset. A limit of 0 is none; then only descriptors run out, and the listener
pauses (:mod:`nodeproxy.dataplane.listener`).
"""

from __future__ import annotations

from nodeproxy.core.errors import TooManyConnections
from nodeproxy.dataplane.connection import Connection
from nodeproxy.dataplane.listener import Listener

__all__ = ["Door"]


class Door:
    """Counts the connections that are open."""

    __slots__ = ("_clients", "open", "per_client", "per_listener", "total")

    def __init__(self, *, total: int, per_listener: int, per_client: int) -> None:
        self.total = total
        self.per_listener = per_listener
        self.per_client = per_client
        self.open = 0
        self._clients: dict[bytes, int] = {}
        """By client's address; kept only where there is a limit, and never for one that has
        no connection open."""

    def enter(self, connection: Connection, listener: Listener) -> None:
        """Count a connection in, or raise TooManyConnections with the limit's name as ``limit``."""
        if self.total and self.open >= self.total:
            raise _too_many("total", self.total)
        if self.per_listener and listener.open >= self.per_listener:
            raise _too_many("listener", self.per_listener)
        if self.per_client:
            address = connection.forwarded_for
            has = self._clients.get(address, 0)
            if has >= self.per_client:
                raise _too_many("client", self.per_client)
            self._clients[address] = has + 1
        self.open += 1
        listener.open += 1
        connection.listener = listener

    def leave(self, connection: Connection) -> None:
        """A connection that was counted in has ended. Harmless for others."""
        listener = connection.listener
        if listener is None:
            return
        connection.listener = None
        self.open -= 1
        listener.open -= 1
        if self.per_client:
            address = connection.forwarded_for
            has = self._clients.pop(address) - 1
            if has:
                self._clients[address] = has


def _too_many(limit: str, allowed: int) -> TooManyConnections:
    return TooManyConnections(f"{allowed} connections are open: the limit ({limit})", limit)
