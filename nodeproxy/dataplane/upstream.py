"""One service port as the data plane uses it: its endpoints, their pools and their health.

An Upstream is made when a service port is first used from this node, and lives until the
service leaves the catalog. Everything that a request needs is resolved when something changes
(the registry, an ejection), not when a request comes: ``pick`` draws from a ready list.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Sequence

from nodeproxy.core.balance import Picker, picker
from nodeproxy.core.destination import Address, host_port
from nodeproxy.core.errors import ConnectFailed, NoEndpoints, ProxyError, UpstreamOverflow
from nodeproxy.core.health import Health, ejection_allowed
from nodeproxy.core.policy import Policy
from nodeproxy.core.pool import Pool
from nodeproxy.core.record import Record
from nodeproxy.core.retry import Budget
from nodeproxy.core.standing import Standing, standings
from nodeproxy.dataplane.reactor import Reactor
from nodeproxy.dataplane.stream import Stream, connect
from nodeproxy.telemetry.requests import EndpointSeries, RequestSeries
from registry.model import Endpoint, Port, Service

__all__ = ["Lease", "Target", "Upstream"]

Log = Callable[..., None]
"""``log(event, **fields)``."""


class Target:
    """One endpoint of an upstream: its connections, its load and its health."""

    __slots__ = (
        "address",
        "endpoint",
        "health",
        "load",
        "name",
        "on_idle",
        "pool",
        "series",
        "standing",
        "takes_traffic",
        "upstream",
        "weight",
    )

    def __init__(self, upstream: Upstream, endpoint: Endpoint, series: EndpointSeries) -> None:
        self.upstream = upstream
        self.endpoint = endpoint
        self.address: Address = (endpoint.address, endpoint.port)
        self.name = host_port(self.address)
        self.weight = endpoint.weight
        self.load = 0
        """Requests and relayed connections in flight."""
        self.pool: Pool[Stream] = Pool(upstream.policy.idle_connections)
        self.health = Health()
        self.series = series
        self.standing = Standing.NOT_READY
        self.takes_traffic = False
        self.on_idle = self._lost

    def _lost(self, stream: Stream, _events: int) -> None:
        """An idle connection has something to read: it was closed, or speaks out of turn."""
        if self.pool.lost(stream):
            self.upstream.close(stream)


Lease = tuple[Target, Stream, bool]
"""An endpoint, a connection to it, and whether that has idled: then the endpoint may have closed
it just now, without having seen what is sent on it."""


class Upstream:
    """One service port; see the module's text. Called from the reactor's thread only."""

    def __init__(
        self,
        service: Service,
        port: Port,
        policy: Policy,
        *,
        reactor: Reactor,
        series: RequestSeries,
        endpoint_series: Callable[[Endpoint], EndpointSeries],
        rng: Callable[[], float],
        mark: int,
        own: Container[Address],
        log: Log,
    ) -> None:
        self.service = service
        self.port = port
        self.policy = policy
        self.name = f"{service.name}:{port.port}"
        self.targets: dict[tuple[str, int, str], Target] = {}
        self.connections = 0
        """All connections to all endpoints, in any state."""
        self.series = series
        self.budget: Budget | None = None
        """Of retries; made by the first request that may be retried."""
        self._reactor = reactor
        self._endpoint_series = endpoint_series
        self._rng = rng
        self._mark = mark
        self._own = own
        self._log = log
        self.candidates: list[Target] = []
        """The endpoints that take traffic now."""
        self.picker: Picker[Target] | None = None
        """Picks among the candidates; None: there is none."""
        self.update(service, port)

    # -- the path of a request -----------------------------------------------------------

    async def lease(
        self, record: Record, *, fresh: bool = False, avoid: Sequence[Target] = ()
    ) -> Lease:
        """An endpoint, a connection to it, and whether that has idled.

        While connecting fails nothing has been sent: the next endpoint is tried, for every
        method, up to ``policy.connect_tries``. ``avoid``: endpoints that come only when there are
        no others. Raises NoEndpoints, UpstreamOverflow or the
        last ConnectFailed. The caller ends the lease with ``checkin`` or ``discard``.
        """
        tried = list(avoid) if avoid and self._untried(avoid) else []
        most = len(tried) + self.policy.connect_tries
        while True:
            target = self.pick(tried)
            record.tries += 1
            record.upstream = target.name
            target.load += 1
            stream = None if fresh else target.pool.checkout()
            if stream is not None:
                stream.on_idle = None
                return target, stream, True
            try:
                return target, await self._connect(target), False
            except ConnectFailed as error:
                target.load -= 1
                self.failed(target, error)
                tried.append(target)
                if len(tried) >= most or not self._untried(tried):
                    raise
                self.series.retry(error.reason)
            except BaseException:
                target.load -= 1
                raise

    def pick(self, tried: Sequence[Target] = ()) -> Target:
        """The balancer's choice among the endpoints that have not been tried. Raises
        NoEndpoints."""
        if self.picker is None:
            raise NoEndpoints(
                f"{self.name} has {len(self.targets)} endpoints and none takes traffic;"
                f" see `nodeproxy endpoints {self.service.name}`"
            )
        if not tried:
            return self.picker.pick(self._rng)
        left = self._untried(tried)
        if not left:
            raise NoEndpoints(f"all endpoints of {self.name} have been tried")
        return picker(self.policy.balance, left).pick(self._rng)

    def _untried(self, tried: Sequence[Target]) -> list[Target]:
        """The candidates of this moment: a failure may just have ejected one."""
        return [t for t in self.candidates if t not in tried]

    async def _connect(self, target: Target) -> Stream:
        if self.connections >= self.policy.max_connections and not self._make_room():
            raise UpstreamOverflow(
                f"{self.name} has {self.connections} connections, as many as"
                " traffic.max_connections allows"
            )
        self.connections += 1
        target.pool.begin()
        try:
            stream = await connect(
                self._reactor, target.address, self.policy.connect_timeout, self._mark
            )
        except BaseException:
            target.pool.failed()
            self.connections -= 1
            raise
        target.pool.connected()
        return stream

    def _make_room(self) -> bool:
        """Close an idle connection to another endpoint, if there is one: what idles must not
        keep out what has something to do."""
        for target in self.targets.values():
            stream = target.pool.evict()
            if stream is not None:
                self.close(stream)
                return True
        return False

    def checkin(self, target: Target, stream: Stream) -> None:
        """End a lease: the connection is at the start of a message and may serve again."""
        if not target.takes_traffic:
            self.discard(target, stream)
            return
        target.load -= 1
        stream.on_idle = target.on_idle
        surplus = target.pool.checkin(stream, self._reactor.now)
        if surplus is not None:
            self.close(surplus)

    def discard(self, target: Target, stream: Stream) -> None:
        """End a lease: the connection is of no more use."""
        target.load -= 1
        target.pool.discard()
        self.close(stream)

    def succeeded(self, target: Target) -> None:
        """The endpoint answered below 500, or took a TCP connection."""
        target.series.success.value += 1
        health = target.health
        if health.failures_5xx:
            health.succeeded()

    def failed(self, target: Target, error: ProxyError | None, status: int = 0) -> None:
        """The endpoint answered ``status`` >= 500, or not at all (``error``)."""
        if error is None:
            why = f"answered {status}"
        else:
            why, status = f"{error.reason}: {error}", error.status
        target.series.failure.value += 1
        if isinstance(error, ConnectFailed):
            target.series.connect_failures.value += 1
        if target.health.failed(status, why, self.policy.outlier):
            self._eject(target)

    def answered(self, target: Target, status: int) -> None:
        """The endpoint gave an answer."""
        if status < 500:
            self.succeeded(target)
        else:
            self.failed(target, None, status)

    def _eject(self, target: Target) -> None:
        now = self._reactor.now
        usable = [t for t in self.targets.values() if t.standing in _IN_ROTATION]
        ejected = sum(t.health.ejected for t in usable)
        if target.health.ejected or not ejection_allowed(len(usable), ejected, self.policy.outlier):
            return
        until = target.health.eject(now, self.policy.outlier)
        target.series.eject()
        self._log(
            "endpoint ejected",
            service=self.service.name,
            endpoint=target.name,
            seconds=round(until - now, 1),
            why=target.health.last_failure,
        )
        self._choose()

    # -- what changes --------------------------------------------------------------------

    def update(self, service: Service, port: Port) -> None:
        """The registry says so now. Endpoints that stay keep their connections and health."""
        self.service, self.port = service, port
        before = self.targets
        self.targets = {}
        for endpoint in service.endpoints_of(port):
            target = before.pop(endpoint.key, None)
            if target is None:
                target = Target(self, endpoint, self._endpoint_series(endpoint))
            target.endpoint = endpoint
            target.weight = endpoint.weight
            self.targets[endpoint.key] = target
        self._retire(before.values())
        self._choose()

    def withdraw(self) -> None:
        """The service has left the catalog: nothing is picked any more."""
        gone, self.targets = self.targets, {}
        self._retire(gone.values())
        self._choose()

    def maintain(self, now: float) -> None:
        """Called about once a second: close what has idled too long, readmit the ejected."""
        readmitted = False
        for target in self.targets.values():
            if target.pool.idle:
                for stream in target.pool.expire(now - self.policy.idle_timeout):
                    self.close(stream)
            if target.health.readmitted(now):
                readmitted = True
                target.series.restore()
        if readmitted:
            self._choose()

    def _choose(self) -> None:
        """Resolve who takes traffic."""
        ejected = {key for key, t in self.targets.items() if t.health.ejected}
        found = standings((t.endpoint for t in self.targets.values()), ejected, self._own)
        for key, target in self.targets.items():
            target.standing = found[key]
            target.takes_traffic = found[key].takes_traffic
            if not target.takes_traffic:
                self._close_idle(target)
        self.candidates = [t for t in self.targets.values() if t.takes_traffic]
        self.picker = picker(self.policy.balance, self.candidates) if self.candidates else None

    def _retire(self, targets: Collection[Target]) -> None:
        """Endpoints that are gone: idle connections are closed, leased ones run to their end."""
        for target in targets:
            target.standing = Standing.NOT_READY
            target.takes_traffic = False
            self._close_idle(target)

    def _close_idle(self, target: Target) -> None:
        for stream in target.pool.expire(self._reactor.now):
            self.close(stream)

    def tally(self) -> dict[Standing, int]:
        """How many endpoints are in each standing."""
        counts: dict[Standing, int] = {}
        for target in self.targets.values():
            counts[target.standing] = counts.get(target.standing, 0) + 1
        return counts

    def close(self, stream: Stream) -> None:
        """Close a connection that no pool accounts for any more."""
        self.connections -= 1
        stream.close()


_IN_ROTATION = frozenset({Standing.READY, Standing.FALLBACK, Standing.EJECTED, Standing.PANIC})
