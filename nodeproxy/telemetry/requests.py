"""Records become series: one RequestSeries per service port, one EndpointSeries per endpoint.

Everything that is known before a request comes is looked up then: what remains per request
is one dictionary look-up (by status, flags and route, which find a cell of bound series) and
a handful of additions. Series exist for what this node uses, not for what the registry knows;
they leave with their service, port or endpoint. Those who still hold them then count into
nothing.

The time to an endpoint's first byte has no histogram per service: it is the request's
duration without the added latency, and per endpoint there is its sum, whose quotient with the
number of requests shows the slow one among its siblings.
"""

from __future__ import annotations

from typing import Final

from nodeproxy.core.record import Record
from nodeproxy.telemetry.families import NONE, Families
from nodeproxy.telemetry.metrics import Counter, Family, Gauge, Histogram, S
from registry.model import Service

__all__ = ["PASSTHROUGH", "EndpointSeries", "RequestSeries", "Requests"]

PASSTHROUGH: Final = "passthrough"
"""The service label of traffic to destinations that no registry knows."""


class _Bound:
    """Series that were bound and shall be released together."""

    __slots__ = ("_bound", "_released")

    def __init__(self) -> None:
        self._bound: list[tuple[Family[Counter] | Family[Gauge] | Family[Histogram], list[str]]]
        self._bound = []
        self._released = False

    def _bind(self, family: Family[S], *values: str) -> S:
        if self._released:
            return family.detached()
        self._bound.append((family, list(values)))
        return family.bind(*values)

    def release(self) -> None:
        """Show these series no more; what is counted from now on is lost."""
        self._released = True
        for family, values in self._bound:
            family.unbind(*values)
        self._bound.clear()


class _Route:
    """The series that a service port has per route."""

    __slots__ = ("added", "duration", "received", "sent")

    def __init__(
        self, duration: Histogram, added: Histogram, received: Counter, sent: Counter
    ) -> None:
        self.duration = duration
        self.added = added
        self.received = received
        self.sent = sent


class RequestSeries(_Bound):
    """What clients of one service port did. Made by :meth:`Requests.port`."""

    __slots__ = (
        "_cells",
        "_closed",
        "_families",
        "_retries",
        "_routes",
        "_tcp",
        "active",
        "port",
        "service",
    )

    def __init__(self, families: Families, service: str, port: str) -> None:
        super().__init__()
        self.service: Final = service
        self.port: Final = port
        self.active: Final = self._bind(families.connections_active, service, port)
        """Open client connections: add 1 when the service is known, take 1 at the end."""
        self._families = families
        self._cells: dict[tuple[int, str, str], tuple[Counter, _Route]] = {}
        self._routes: dict[str, _Route] = {}
        self._retries: dict[str, Counter] = {}
        self._tcp: tuple[Counter, Counter, Counter] | None = None
        self._closed: dict[str, Counter] = {}

    def observe(self, record: Record) -> None:
        """Count a request, or a relayed connection, that has ended (``record.ended`` is set)."""
        if record.protocol == "TCP":
            self._observe_tcp(record)
            return
        try:
            count, route = self._cells[record.status, record.flags, record.route]
        except KeyError:
            count, route = self._cell(record)
        count.value += 1
        started = record.started
        route.duration.observe(record.ended - started)
        if record.sent > 0.0:
            route.added.observe(record.sent - started)
        route.received.value += record.bytes_received
        route.sent.value += record.bytes_sent

    def tcp_opened(self) -> None:
        """A connection begins to be relayed as TCP; :meth:`observe` counts its end."""
        self._tcp_series()[0].value += 1

    def retry(self, reason: str) -> None:
        """Another try begins; ``reason`` is that of the error that ended the one before."""
        try:
            self._retries[reason].value += 1
        except KeyError:
            counter = self._bind(self._families.retries, self.service, self.port, reason)
            self._retries[reason] = counter
            counter.value += 1

    def _cell(self, record: Record) -> tuple[Counter, _Route]:
        families, name = self._families, record.route or NONE
        route = self._routes.get(record.route)
        if route is None:
            labels = (self.service, self.port, name)
            route = _Route(
                self._bind(families.request_duration, *labels),
                self._bind(families.added_latency, *labels),
                self._bind(families.request_bytes, *labels),
                self._bind(families.response_bytes, *labels),
            )
            self._routes[record.route] = route
        code, flags = str(record.status), record.flags or NONE
        count = self._bind(families.requests, self.service, self.port, name, code, flags)
        self._cells[record.status, record.flags, record.route] = cell = (count, route)
        return cell

    def _tcp_series(self) -> tuple[Counter, Counter, Counter]:
        if self._tcp is None:
            families = self._families
            self._tcp = (
                self._bind(families.tcp_opened, self.service, self.port),
                self._bind(families.tcp_received, self.service, self.port),
                self._bind(families.tcp_sent, self.service, self.port),
            )
        return self._tcp

    def _observe_tcp(self, record: Record) -> None:
        _, received, sent = self._tcp_series()
        received.value += record.bytes_received
        sent.value += record.bytes_sent
        flags = record.flags
        try:
            self._closed[flags].value += 1
        except KeyError:
            counter = self._bind(self._families.tcp_closed, self.service, self.port, flags or NONE)
            self._closed[flags] = counter
            counter.value += 1


class EndpointSeries(_Bound):
    """How one endpoint fares as a target of one service port: ``success.value += 1`` ..."""

    __slots__ = ("_ejections", "_families", "_labels", "connect_failures", "failure", "success",
                 "waited")  # fmt: skip

    def __init__(self, families: Families, service: str, port: str, endpoint: str) -> None:
        super().__init__()
        self._families = families
        self._labels = labels = (service, port, endpoint)
        self.success: Final = self._bind(families.endpoint_requests, *labels, "success")
        self.failure: Final = self._bind(families.endpoint_requests, *labels, "failure")
        self.connect_failures: Final = self._bind(families.endpoint_connect_failures, *labels)
        self.waited: Final = self._bind(families.endpoint_response, *labels)
        """Seconds to the first byte of each answer: add ``responded - sent``."""
        self._ejections: tuple[Gauge, Counter] | None = None

    def eject(self) -> None:
        """The endpoint is left out from now on."""
        if self._ejections is None:
            self._ejections = (
                self._bind(self._families.endpoint_ejected, *self._labels),
                self._bind(self._families.endpoint_ejections, *self._labels),
            )
        state, count = self._ejections
        state.value = 1
        count.value += 1

    def restore(self) -> None:
        """The endpoint may be picked again."""
        if self._ejections is not None:
            self._ejections[0].value = 0


class Requests:
    """Makes the series when a service is first used, and drops them when it is gone."""

    def __init__(self, families: Families) -> None:
        self._families = families
        self._ports: dict[str, dict[int, RequestSeries]] = {}
        self._endpoints: dict[str, dict[tuple[int, str, int], EndpointSeries]] = {}
        self._passthrough: RequestSeries | None = None

    @property
    def passthrough(self) -> RequestSeries:
        """For all destinations that no registry knows: their ports are the clients' choice."""
        if self._passthrough is None:
            self._passthrough = RequestSeries(self._families, PASSTHROUGH, NONE)
        return self._passthrough

    def port(self, service: str, port: int) -> RequestSeries:
        """The series of one service port, the same object every time."""
        ports = self._ports.setdefault(service, {})
        series = ports.get(port)
        if series is None:
            series = ports[port] = RequestSeries(self._families, service, str(port))
        return series

    def endpoint(self, service: str, port: int, address: str, target: int) -> EndpointSeries:
        """The series of the endpoint ``address``, ``target`` behind one service port."""
        endpoints = self._endpoints.setdefault(service, {})
        series = endpoints.get((port, address, target))
        if series is None:
            text = f"[{address}]:{target}" if ":" in address else f"{address}:{target}"
            series = EndpointSeries(self._families, service, str(port), text)
            endpoints[port, address, target] = series
        return series

    def connections(self) -> int:
        """Open client connections, all ports together."""
        series = [s for ports in self._ports.values() for s in ports.values()]
        if self._passthrough is not None:
            series.append(self._passthrough)
        return int(sum(s.active.value for s in series))

    def update(self, name: str, service: Service | None) -> None:
        """The catalog has changed: drop what ``service`` (None: gone) no longer has."""
        ports = self._ports.get(name, {})
        endpoints = self._endpoints.get(name, {})
        numbers = {p.port for p in service.ports} if service else set()
        targets = {(e.address, e.port) for e in service.endpoints} if service else set()
        for number in [n for n in ports if n not in numbers]:
            ports.pop(number).release()
        for key in [k for k in endpoints if k[0] not in numbers or k[1:] not in targets]:
            endpoints.pop(key).release()
        if not ports:
            self._ports.pop(name, None)
        if not endpoints:
            self._endpoints.pop(name, None)
