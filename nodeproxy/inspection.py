"""What the daemon shows: the admin API's view of the parts, and the metrics that are pulled.

It reads the live objects that carry traffic and changes none of them. Endpoints of services
that are not in use have no state of their own here; for them the registry's word is all.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

import msgspec

from iptables.errors import InterceptionError
from nodeproxy import __version__
from nodeproxy.admin.messages import Unable
from nodeproxy.admin.views import (
    EndpointView,
    ExplainQuery,
    ExplainView,
    HostView,
    InterceptionView,
    ListenerView,
    LogLevel,
    LoopView,
    PortView,
    ProbeView,
    RegistrationView,
    RegistryView,
    RouteView,
    RulesView,
    ServiceDetail,
    ServiceView,
    StatusView,
    VerifyView,
)
from nodeproxy.core.destination import host_port
from nodeproxy.core.standing import Standing
from nodeproxy.explanation import STATES, explain
from nodeproxy.parts import Parts
from nodeproxy.registering import publish as publish_registrations
from nodeproxy.registering import registration_views
from nodeproxy.registryviews import host_views, problem_views, registry_views, vips_view
from nodeproxy.registryviews import publish as publish_registries
from nodeproxy.routeviews import all_routes, routes_view, service_routes
from nodeproxy.rulestext import drift_views, rules_text
from nodeproxy.telemetry import log as logging
from nodeproxy.telemetry.families import Families
from nodeproxy.telemetry.process import open_descriptors, resident_bytes
from registry.model import Endpoint, Port, Service

if TYPE_CHECKING:
    from nodeproxy.dataplane.upstream import Target

__all__ = ["Inspection"]

KERNEL_PATHS: Final = {True: "nodeproxy", False: "none"}
NO_RULES: Final = "interception.mode is none: there are no rules"
TAKEN_OUT: Final = "interception was taken out; `nodeproxy rules repair` brings it back"


class Inspection:
    """Implements :class:`nodeproxy.admin.views.View` for one daemon."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # -- the whole ------------------------------------------------------------------------

    def status(self) -> StatusView:
        parts = self._parts
        config, catalog = parts.config, parts.registries.catalog
        ready = self.ready()
        registries = self.registries()
        return StatusView(
            version=__version__,
            pid=os.getpid(),
            node=parts.name,
            ready=ready.ok,
            reasons=ready.reasons,
            zone=config.node.zone,
            started=_moment(parts.started),
            uptime_seconds=round(time.time() - parts.started, 3),
            config=config.path and os.path.abspath(config.path),
            warnings=tuple(str(w) for w in config.warnings),
            log_level=self.log_level(),
            generation=catalog.generation,
            services=len(catalog),
            endpoints=sum(r.endpoints for r in registries),
            endpoints_ejected=sum(
                count
                for upstream in parts.node.upstreams.values()
                for standing, count in upstream.tally().items()
                if STATES[standing] == "ejected"
            ),
            connections=parts.node.connections(),
            requests=parts.node.ended,
            errors=parts.node.failed,
            listeners=tuple(self._listeners()),
            interception=self.interception(),
            registries=registries,
            conflicts=problem_views(catalog.conflicts),
            vips=vips_view(parts.registries),
            routes=None if parts.routing is None else routes_view(parts.routing),
            loop=LoopView(
                lanes=len(parts.node.lanes),
                last_stall_seconds=round(parts.last_stall, 6),
                worst_stall_seconds=round(parts.worst_stall, 6),
                open_files=open_descriptors(),
                open_files_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                memory_bytes=resident_bytes(),
            ),
        )

    def ready(self) -> ProbeView:
        parts = self._parts
        reasons = []
        if not parts.synced:
            waiting = [s.name for s in parts.registries.statuses() if s.state == "starting"]
            reasons.append(f"registries have not answered yet: {', '.join(waiting) or 'starting'}")
        leaving = parts.registrations is not None and parts.registrations.stopping
        if parts.node.draining or leaving:
            reasons.append("the daemon is stopping")
        elif parts.synced and not parts.complete:
            reasons.append("interception is being installed")
        taking = parts.intercepting
        if taking is not None and parts.complete and not parts.node.draining:
            if not taking.on:
                reasons.append(TAKEN_OUT)
            elif not taking.kernel.status().live:
                reasons.append("the dead-man's switch is not live")
        return ProbeView(not reasons, tuple(reasons))

    def live(self) -> ProbeView:
        return ProbeView(True)

    def interception(self) -> InterceptionView:
        """Of the interception, in brief."""
        taking = self._parts.intercepting
        if taking is None:
            return InterceptionView(mode="none")
        kernel = taking.kernel
        status = kernel.status()
        path = KERNEL_PATHS[status.kernel_path]
        if not status.kernel_path and "kube-proxy" in status.kernel_path_reason:
            path = "kube-proxy"
        return InterceptionView(
            mode="iptables",
            installed=status.installed,
            live=status.live,
            backend=status.backend,
            families=tuple(f"ipv{family}" for family in status.families),
            kernel_path=path,
            fail=status.fail,
            last_beat_age_seconds=status.last_beat_age,
            expiry_seconds=kernel.settings.expiry,
            frontends=status.frontends,
            drift=len(status.drift),
            repairs=status.repairs,
            last_error=f"heartbeat: {os.strerror(status.beat_error)}" if status.beat_error else "",
        )

    def _listeners(self) -> Iterator[ListenerView]:
        for listener in self._parts.node.listeners:
            yield ListenerView(
                address=host_port(listener.address),
                kind="explicit" if listener.service else "outbound",
                service=listener.service,
                connections=listener.open,
                accepted=listener.accepted,
            )

    # -- the registry's side --------------------------------------------------------------

    def registries(self) -> tuple[RegistryView, ...]:
        origins = {r.name: r.origin for r in self._parts.config.registries}
        return registry_views(self._parts.registries, origins)

    def registrations(self) -> tuple[RegistrationView, ...]:
        made = self._parts.registrations
        return () if made is None else registration_views(made.statuses())

    def services(self) -> Iterable[ServiceView]:
        return (self._service(service) for service in self._parts.registries.catalog)

    def hosts(self, suffix: str = "") -> Iterable[HostView]:
        catalog = self._parts.registries.catalog
        return host_views(catalog, suffix or self._parts.config.dns.suffix)

    def service(self, name: str) -> ServiceDetail | None:
        parts = self._parts
        service = parts.registries.catalog.get(name)
        if service is None:
            return None
        return ServiceDetail(
            service=self._service(service),
            endpoints=tuple(self._endpoints(service)),
            labels=dict(service.labels),
            origin=service.origin,
            balance=parts.node.settings.policy.balance,
            intercepted=parts.intercepting is not None and bool(service.vips),
            conflicts=problem_views(
                p for p in parts.registries.catalog.conflicts if name in str(p)
            ),
        )

    def _service(self, service: Service) -> ServiceView:
        eligible = {
            endpoint.key
            for port in service.ports
            for endpoint, standing, _ in self._parts.targets(service, port)
            if standing.takes_traffic
        }
        return ServiceView(
            name=service.name,
            vips=service.vips,
            ports=tuple(PortView(p.port, p.name, p.protocol) for p in service.ports),
            endpoints=len(service.endpoints),
            endpoints_eligible=len(eligible),
            registries=self._parts.registries.registries_of(service.name),
        )

    def endpoints(self, service: str = "") -> Iterable[EndpointView] | None:
        catalog = self._parts.registries.catalog
        if not service:
            return (view for found in catalog for view in self._endpoints(found))
        found = catalog.get(service)
        return None if found is None else self._endpoints(found)

    def _endpoints(self, service: Service) -> Iterator[EndpointView]:
        now = self._parts.reactor.now
        seen: set[tuple[str, int, str]] = set()
        for port in service.ports:
            for endpoint, standing, target in self._parts.targets(service, port):
                if endpoint.key in seen and target is None:
                    continue  # it serves several ports, and this one is not in use
                seen.add(endpoint.key)
                yield _endpoint(service, port, endpoint, standing, target, now)

    def routes(self, service: str = "") -> Iterable[RouteView] | None:
        catalog = self._parts.registries.catalog
        if not service:
            return all_routes(self._parts)
        found = catalog.get(service)
        return None if found is None else service_routes(self._parts, found)

    async def explain(self, query: ExplainQuery) -> ExplainView:
        return await explain(query, self._parts)

    # -- telemetry and control ------------------------------------------------------------

    def metrics(self) -> Iterator[bytes]:
        return self._parts.metrics.render()

    def log_level(self) -> LogLevel:
        return cast(LogLevel, logging.current_level())

    def set_log_level(self, level: LogLevel) -> None:
        logging.set_level(level)

    async def rules(self) -> RulesView:
        taking = self._parts.intercepting
        if taking is None:
            return RulesView(self.interception())
        with _told():
            return RulesView(self.interception(), await rules_text(taking.kernel.settings))

    async def rules_verify(self) -> VerifyView:
        taking = self._parts.intercepting
        if taking is None:
            return VerifyView(True, note=NO_RULES)
        if not taking.on:
            return VerifyView(True, note=TAKEN_OUT)
        with _told():
            found = await taking.kernel.verify()
        return VerifyView(not found, drift_views(found))

    async def rules_repair(self) -> VerifyView:
        taking = self._parts.intercepting
        if taking is None:
            return VerifyView(True, note=NO_RULES)
        with _told():
            repaired = await taking.resume()
            left = await taking.kernel.verify()
        return VerifyView(not left, drift_views(left), repaired=max(0, repaired - len(left)))

    async def rules_remove(self) -> RulesView:
        taking = self._parts.intercepting
        if taking is not None:
            with _told():
                await taking.stop()
        return RulesView(self.interception())

    def publish(self, families: Families) -> None:
        """Have the metrics of registries, catalog, endpoints and interception read at each
        scrape."""
        parts = self._parts
        publish_registries(parts.registries, families)
        if parts.registrations is not None:
            publish_registrations(parts.registrations, families)
        if parts.routing is not None:
            parts.routing.publish_metrics(families)
        families.endpoints.callback(
            lambda: [
                ((u.service.name, str(u.port.port), state.name.lower()), count)
                for u in parts.node.upstreams.values()
                for state, count in u.tally().items()
            ]
        )
        taking = parts.intercepting
        if taking is not None:
            kernel = taking.kernel
            families.rules_ok.callback(lambda: [((), float(not kernel.status().drift))])
            families.rules_repairs.callback(lambda: [((), kernel.status().repairs)])
            families.switch_beats.callback(lambda: [((), taking.beats)])
            families.failopen_active.callback(lambda: [((), float(not kernel.status().live))])


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the kernel refuses is told to whoever asked."""
    try:
        yield
    except InterceptionError as error:
        raise Unable(str(error.args[0]), error.hint) from error


def _endpoint(
    service: Service,
    port: Port,
    endpoint: Endpoint,
    standing: Standing,
    target: Target | None,
    now: float,
) -> EndpointView:
    reason = "" if standing is Standing.READY else standing.value
    view = EndpointView(
        service=service.name,
        address=host_port((endpoint.address, endpoint.port)),
        state=STATES[standing],
        eligible=standing.takes_traffic,
        reason=reason,
        port_name=endpoint.port_name or port.name,
        weight=endpoint.weight,
        zone=endpoint.locality.zone,
        node=endpoint.locality.node,
        labels=dict(endpoint.labels),
    )
    if target is None:
        return view
    health = target.health
    left = max(0.0, health.ejected_until - now)
    return msgspec.structs.replace(
        view,
        active_requests=target.load,
        idle_connections=len(target.pool.idle),
        requests=int(target.series.success.value + target.series.failure.value),
        failures=int(target.series.failure.value),
        consecutive_failures=health.failures_5xx,
        ejections=health.ejections,
        ejected_until=_moment(time.time() + left) if left else "",
        ejected_seconds=round(left, 1),
        last_failure=health.last_failure,
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
