"""The data plane of one node: listeners, the upstreams in use, and the catalog of the moment.

It takes a catalog and gives records and counters; where they come from and go is not its
business.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from random import Random
from typing import Final

from nodeproxy.core.destination import Address, Direct, dialled, host_port, named
from nodeproxy.core.errors import ProxyError, TooManyConnections
from nodeproxy.core.http1 import Limits, Onward
from nodeproxy.core.record import Record
from nodeproxy.core.routing.table import NO_ROUTES, RouteTable
from nodeproxy.core.trust import trust
from nodeproxy.dataplane.answers import LINGER_SECONDS, refuse
from nodeproxy.dataplane.connection import Connection
from nodeproxy.dataplane.door import Door
from nodeproxy.dataplane.lane import LaneGroup
from nodeproxy.dataplane.listener import Listener, Own, original_destination
from nodeproxy.dataplane.outbound import serve
from nodeproxy.dataplane.reactor import Reactor
from nodeproxy.dataplane.settings import Settings
from nodeproxy.dataplane.stream import CLIENT, Stream
from nodeproxy.dataplane.upstream import Upstream
from nodeproxy.telemetry.accesslog import AccessLog
from nodeproxy.telemetry.families import NONE, Families
from nodeproxy.telemetry.metrics import Histogram
from nodeproxy.telemetry.requests import PASSTHROUGH, EndpointSeries, Requests, RequestSeries
from registry.catalog import EMPTY, Catalog, Change
from registry.model import Endpoint, Port, Service

__all__ = ["Node"]

MAINTENANCE: Final = 1.0
"""Seconds between two looks at idle connections and ejections."""

REFUSING: Final = 64
"""Connections over a limit that are answered at a time; more are reset."""
DRAIN_IDLE: Final = 0.5
"""Seconds within which idle clients' connections end when draining begins."""

_spelled = lru_cache(maxsize=4096)(host_port)  # one text for all connections to a destination


class Node:
    """Everything that connections of this node share. All calls from the reactor's thread."""

    def __init__(
        self,
        settings: Settings,
        reactor: Reactor,
        families: Families,
        access_log: AccessLog,
        *,
        rng: Random,
        log: Callable[..., None],
    ) -> None:
        self.settings = settings
        self.reactor = reactor
        self.limits = Limits(head=settings.max_head)
        self.lanes = LaneGroup()
        self.catalog: Catalog = EMPTY
        self.routes: RouteTable = NO_ROUTES
        """The routes in force. Whoever decides by them takes them once: they are replaced."""
        self.listeners: list[Listener] = []
        self.draining = False
        """While draining, answers tell clients to close."""
        self.onward = Onward(
            via=settings.via,
            via_answers=settings.via_answers,
            request_id=settings.request_id,
            traceparent=settings.traceparent,
            random=rng.getrandbits,
        )
        self.trusts = trust(settings.forwarded, settings.trusted_proxies)
        self.door = Door(
            total=settings.max_clients,
            per_listener=settings.max_per_listener,
            per_client=settings.max_per_client,
        )
        self.upstreams: dict[tuple[str, int], Upstream] = {}
        """The service ports in use, by service name and port."""
        self.own = Own()
        """Where the proxy itself listens: never dialled."""
        self.ended = 0
        """Requests and relayed connections that have ended."""
        self.failed = 0
        """Those of them that ended with an error of the proxy's own."""
        self._requests = Requests(families)
        self._passthrough = EndpointSeries(families, PASSTHROUGH, NONE, NONE)
        self._refused = families.connections_refused
        self._refusing = 0
        self._detect = families.detect
        self._detected: dict[str, Histogram] = {}
        self._access_log = access_log
        self._rng = self.draw = rng.random
        """A random number in [0, 1)."""
        self.mirroring = 0
        """Copies of requests that are under way."""
        self._log = log
        reactor.every(MAINTENANCE, self._maintain)

    # -- listening -----------------------------------------------------------------------

    def intercept(self, sock: socket.socket) -> Listener:
        """Serve redirected connections: they go where their client had dialled."""
        return self._listen(sock, "", self._accept_redirected)

    def serve_port(self, sock: socket.socket, service: str, port: int) -> Listener:
        """Serve an explicit listener: every connection goes to one service port."""

        def accept(listener: Listener, sock: socket.socket, peer: Address) -> None:
            destination = _spelled(sock.getsockname()[:2])
            self._accept(listener, sock, peer, destination, lambda: self._named(service, port))

        return self._listen(sock, f"{service}:{port}", accept)

    def _listen(
        self,
        sock: socket.socket,
        service: str,
        accept: Callable[[Listener, socket.socket, Address], None],
    ) -> Listener:
        listener = Listener(
            self.reactor,
            sock,
            lambda sock, peer: accept(listener, sock, peer),
            on_scarce=self._scarce,
            service=service,
        )
        self.listeners.append(listener)
        self.own.add(listener.address)
        return listener

    def _accept_redirected(self, listener: Listener, sock: socket.socket, peer: Address) -> None:
        destination = original_destination(sock)
        if destination is None:
            # Somebody dialled the listener itself.
            destination = sock.getsockname()[:2]
        spelled = _spelled(destination)
        self._accept(listener, sock, peer, spelled, lambda: self._dialled(destination))

    def _accept(
        self,
        listener: Listener,
        sock: socket.socket,
        peer: Address,
        destination: str,
        find: Callable[[], Upstream],
    ) -> None:
        """Begin the lane of one accepted connection, or refuse it."""
        connection = Connection(self, Stream(self.reactor, sock, CLIENT), peer, destination)
        try:
            upstream = find()
        except ProxyError as error:
            self._reset(connection, self._requests.passthrough, error)
            return
        try:
            self.door.enter(connection, listener)
        except TooManyConnections as error:
            self._refused.bind(error.limit).value += 1
            if upstream.port.protocol == "http" and self._refusing < REFUSING:
                lane = self._turn_away(connection, upstream, error)
                self.reactor.spawn(lane, self.lanes, connection)
            else:
                self._reset(connection, upstream.series, error)
            return
        connection.open(upstream)
        self.reactor.spawn(serve(connection, upstream), self.lanes, connection)

    def _reset(self, connection: Connection, series: RequestSeries, error: ProxyError) -> None:
        """Refuse a connection of which nothing has been read."""
        record = Record(self.reactor.now, "TCP", connection.peer, connection.destination)
        record.flags, record.detail = error.flag, f"{error.reason}: {error}"
        record.ended = self.reactor.now
        self.emit(record, series)
        connection.client.reset()

    async def _turn_away(
        self, connection: Connection, upstream: Upstream, error: ProxyError
    ) -> None:
        """Tell an HTTP client that there is no room. Only a few at a time are told."""
        self._refusing += 1
        try:
            with suppress(ProxyError):  # some clients are confused by an answer before they ask
                await connection.client.readable(LINGER_SECONDS)
            await refuse(connection, upstream, self.reactor.now, error)
        finally:
            self._refusing -= 1

    # -- who is meant --------------------------------------------------------------------

    def _dialled(self, destination: Address) -> Upstream:
        """Who serves the address and port that a client dialled."""
        found = dialled(
            self.catalog, destination, self.own, registry_only=self.settings.registry_only
        )
        return self._direct(destination) if isinstance(found, Direct) else self.upstream(*found)

    def _named(self, name: str, port: int) -> Upstream:
        """The service port that an explicit listener stands for."""
        return self.upstream(*named(self.catalog, name, port))

    def upstream(self, service: Service, port: Port) -> Upstream:
        """The service port's upstream; made when it is first used."""
        key = (service.name, port.port)
        upstream = self.upstreams.get(key)
        if upstream is None:
            requests = self._requests

            def endpoint_series(endpoint: Endpoint) -> EndpointSeries:
                return requests.endpoint(service.name, port.port, endpoint.address, endpoint.port)

            upstream = self._make(
                service, port, requests.port(service.name, port.port), endpoint_series
            )
            self.upstreams[key] = upstream
        return upstream

    def _direct(self, destination: Address) -> Upstream:
        """An upstream of one endpoint for a destination that no registry knows: what was dialled
        is what is reached, byte for byte."""
        address, number = destination
        port = Port(number, protocol="tcp")
        service = Service(PASSTHROUGH, (), (port,), (Endpoint(address, number),))
        return self._make(
            service, port, self._requests.passthrough, lambda _endpoint: self._passthrough
        )

    def _make(
        self,
        service: Service,
        port: Port,
        series: RequestSeries,
        endpoint_series: Callable[[Endpoint], EndpointSeries],
    ) -> Upstream:
        return Upstream(
            service,
            port,
            self.settings.policy,
            reactor=self.reactor,
            series=series,
            endpoint_series=endpoint_series,
            rng=self._rng,
            mark=self.settings.mark,
            own=self.own,
            log=self._log,
        )

    # -- what changes --------------------------------------------------------------------

    def update(self, catalog: Catalog, changes: Sequence[Change]) -> None:
        """A new catalog is in force. Only services in use cost anything."""
        self.catalog = catalog
        for change in changes:
            self._requests.update(change.name, change.new)
            for old in change.old.ports if change.old else ():
                upstream = self.upstreams.get((change.name, old.port))
                if upstream is None:
                    continue
                port = change.new.port(old.port) if change.new else None
                if change.new is not None and port is not None:
                    upstream.update(change.new, port)
                else:
                    del self.upstreams[change.name, old.port]
                    upstream.withdraw()

    def drain(self) -> None:
        """Accept no more, and have answers tell clients to close. Lanes end by themselves; those
        that wait for a request end within ``DRAIN_IDLE`` seconds, spread over that time: what a
        client has just sent is still answered, and not all clients come back at once."""
        self.draining = True
        for listener in self.listeners:
            listener.close()
        for lane in self.lanes.lanes:
            if isinstance(lane.owns, Connection) and lane.owns.idle:
                lane.hurry(self.reactor.now + self._rng() * DRAIN_IDLE)

    def close(self) -> None:
        """End every connection now."""
        self.drain()
        self.lanes.cancel()
        for upstream in self.upstreams.values():
            upstream.withdraw()

    def _maintain(self) -> None:
        now = self.reactor.now
        for upstream in self.upstreams.values():
            upstream.maintain(now)
        for listener in self.listeners:
            listener.maintain(now)

    # -- what is told --------------------------------------------------------------------

    def emit(self, record: Record, series: RequestSeries) -> None:
        """A record is complete: count it, and log it if somebody wants to read it."""
        series.observe(record)
        self.ended += 1
        if record.detail:
            self.failed += 1
        if self._access_log.wants(record):
            record.describe()
            self._access_log.emit(record)

    def detected(self, result: str, seconds: float) -> None:
        """The protocol of an undeclared port was found out."""
        series = self._detected.get(result)
        if series is None:
            series = self._detected[result] = self._detect.bind(result)
        series.observe(seconds)

    def _scarce(self, error: OSError) -> None:
        self._log(
            "not accepting for a moment: the process is out of descriptors or memory",
            error=str(error),
            connections=len(self.lanes),
            hint="raise LimitNOFILE (systemd) or `ulimit -n`",
        )

    def connections(self) -> int:
        """Connections from clients that are open now."""
        return self._requests.connections()
