"""What is shown of routes: each rule with where it applies, and what is not carried of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from nodeproxy.admin.views import RoutesView, RouteView
from nodeproxy.core.destination import host_port
from nodeproxy.core.routing.attach import attach_service
from nodeproxy.core.routing.backends import unresolved
from nodeproxy.core.routing.rules import Backends, Rule
from nodeproxy.core.routing.table import HttpRules, PortRules, TcpRule
from nodeproxy.parts import Parts
from nodeproxy.registryviews import problem_views
from nodeproxy.routing import Routing
from registry.model import Port, Service

__all__ = ["all_routes", "routes_view", "service_routes"]

SHOWN: Final = 100
"""Problems; there may be thousands."""

Place = tuple[Literal["vip", "listener", "none"], str]


def routes_view(routing: Routing) -> RoutesView:
    routes = routing.routes
    return RoutesView(
        path=routing.path,
        files=routes.files,
        objects=len(routes.objects),
        generation=routes.generation,
        in_force=routing.settled,
        services=len(routing.table.services),
        problems=problem_views(routes.problems[:SHOWN]),
        problems_total=len(routes.problems),
    )


def all_routes(parts: Parts) -> Iterator[RouteView]:
    """By service; what names services that nobody knows comes last."""
    catalog = parts.registries.catalog
    for service in catalog:
        yield from service_routes(parts, service)
    if parts.routing is not None:
        for name in sorted(parts.routing.named()):
            if catalog.get(name) is None:
                yield from _refused(parts.routing, name, None)


def service_routes(parts: Parts, service: Service) -> Iterator[RouteView]:
    """A row for each rule and destination; one where a port has no rules."""
    listeners = [(r.service, host_port(r.address)) for r in parts.node.listeners if r.service]
    for port in service.ports:
        places: list[Place] = [("vip", host_port((vip, port.port))) for vip in service.vips]
        places += [
            ("listener", bind) for name, bind in listeners if name == f"{service.name}:{port.port}"
        ]
        found = parts.node.routes.services.get(service.name)
        groups = found.ports.get(port.port, {}) if found is not None else {}
        for client, rules in groups.items():
            for place in places or [("none", "")]:
                yield from _rules(parts, service, port, place, client, rules)
        if "" not in groups:
            backend = f"{service.name}:{port.port}"
            for kind, destination in places:
                yield RouteView(
                    destination=destination,
                    kind=kind,
                    service=service.name,
                    port=port.port,
                    protocol=port.protocol,
                    backends=(backend,),
                    endpoints_eligible=_eligible(parts, service, port),
                    origin=service.origin,
                )
    if parts.routing is not None:
        yield from _refused(parts.routing, service.name, service)


def _rules(
    parts: Parts, service: Service, port: Port, place: Place, client: str, rules: PortRules
) -> Iterator[RouteView]:
    if rules.http is not None:
        for rule, texts in _in_order(rules.http):
            yield _row(
                parts,
                service,
                port,
                place,
                rule.backends,
                http=True,
                rule=" or ".join(texts),
                origin=rule.origin,
                route=f"{rule.route} rules[{rule.index}]",
                route_rule=rule.label,
                clients=client,
                failure=rule.filters.failure,
            )
    elif rules.tcp is not None:
        yield _layer4(parts, service, port, place, rules.tcp, client, "")
    elif rules.tls is not None:
        sni = rules.tls
        names = [
            *((f"server name is {k.decode()}", r) for k, r in sni.exact.items()),
            *((f"server name is *{k.decode()}", r) for k, r in sni.wildcards.items()),
            *((("", sni.other),) if sni.other is not None else ()),
        ]
        for text, one in names:
            yield _layer4(parts, service, port, place, one, client, text)


def _layer4(
    parts: Parts,
    service: Service,
    port: Port,
    place: Place,
    rule: TcpRule,
    client: str,
    text: str,
) -> RouteView:
    return _row(
        parts,
        service,
        port,
        place,
        rule.backends,
        http=False,
        rule=text,
        origin=rule.origin,
        route=rule.route,
        route_rule=rule.label,
        clients=client,
        failure="",
    )


def _row(
    parts: Parts,
    service: Service,
    port: Port,
    place: Place,
    backends: Backends,
    *,
    http: bool,
    rule: str,
    origin: str,
    route: str,
    route_rule: str,
    clients: str,
    failure: str,
) -> RouteView:
    catalog = parts.registries.catalog
    problems = [failure] if failure else []
    eligible = 0
    many = len(backends.entries) > 1
    for backend in backends.entries:
        reason, message = unresolved(catalog, backend, http=http)
        if reason:
            problems.append(f"{reason}: {message}")
            continue
        known = catalog.get(backend.service)
        known_port = known.port(backend.port) if known is not None else None
        if known is not None and known_port is not None:
            eligible += _eligible(parts, known, known_port)
    return RouteView(
        destination=place[1],
        kind=place[0],
        service=service.name,
        port=port.port,
        protocol=port.protocol,
        rule=rule,
        backends=tuple(
            f"{b.label} {backends.share(b):.4g}" if many else b.label for b in backends.entries
        ),
        endpoints_eligible=eligible,
        origin=origin,
        route=route,
        route_rule=route_rule,
        clients=clients,
        problems=tuple(problems),
    )


def _in_order(rules: HttpRules) -> list[tuple[Rule, list[str]]]:
    """Rules with the texts of their matches; first the one whose best match goes first."""
    found: dict[int, tuple[Rule, list[str]]] = {}
    for candidate in rules.ordered():
        rule = candidate.decision.rule
        conditions = (candidate.path, *candidate.conditions)
        text = " and ".join(c.text for c in conditions)
        found.setdefault(id(rule), (rule, []))[1].append(text)
    return list(found.values())


def _refused(routing: Routing, name: str, service: Service | None) -> Iterator[RouteView]:
    """Routes that name a service and are not attached to it, or only to some of its ports."""
    for attached, outcome in attach_service(name, service, routing.attached(name)).outcomes:
        if outcome.reason != "Accepted":
            yield RouteView(
                destination="",
                kind="none",
                service=name,
                port=attached.ref.port or 0,
                origin=attached.loaded.origin,
                route=str(attached.loaded.key),
                problems=(f"{outcome.reason}: {outcome.message}",),
            )


def _eligible(parts: Parts, service: Service, port: Port) -> int:
    return sum(standing.takes_traffic for _, standing, _ in parts.targets(service, port))
