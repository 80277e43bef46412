"""Which routes are attached where.

To a Service: by ``parentRefs`` with the explicit group ``""``, for one port (``port``,
``sectionName``) or all. A route of the Service's own namespace is a producer's and counts for all
clients; one of another namespace is a consumer's, counts for clients of its own namespace only,
and there replaces the producer's routes altogether. In each of these groups one kind of route
applies to a port: GRPCRoute before HTTPRoute before TLSRoute before TCPRoute.

To a Gateway: by listener (``sectionName``, ``port``), if the listener allows the route's namespace
and kind and their hostnames have something in common.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Final, NamedTuple

import msgspec

from nodeproxy.core.routing.gateway import Gateway, Listener, Selector
from nodeproxy.core.routing.httproute import HTTPRoute
from nodeproxy.core.routing.objects import Loaded, Objects, Route
from nodeproxy.core.routing.otherroutes import GRPCRoute, TCPRoute, TLSRoute
from nodeproxy.core.routing.schema import GATEWAY_GROUP, ParentRef
from registry.model import Service

__all__ = [
    "PRECEDENCE",
    "Attached",
    "AttachmentIndex",
    "GatewayResolution",
    "Outcome",
    "ServiceResolution",
    "attach_gateway",
    "attach_service",
    "attach_service_steps",
    "hostnames_meet",
]

PRECEDENCE: Final = ("GRPCRoute", "HTTPRoute", "TLSRoute", "TCPRoute")
"""Of several kinds at one service port, the first applies."""
ROUTES: Final = (HTTPRoute, TCPRoute, TLSRoute, GRPCRoute)

BITE: Final = 500
"""Routes that are looked at between two yields."""

_CARRIES: Final = {
    "HTTP": ("HTTPRoute",),
    "HTTPS": ("HTTPRoute",),
    "TLS": ("TLSRoute", "TCPRoute"),
    "TCP": ("TCPRoute",),
    "UDP": (),
}


class Attached(NamedTuple):
    """One parentRef of one route."""

    loaded: Loaded
    number: int
    """Place among the route's parentRefs."""
    ref: ParentRef

    @property
    def route(self) -> Route:
        route = self.loaded.object
        assert isinstance(route, ROUTES)
        return route

    @property
    def kind(self) -> str:
        return type(self.loaded.object).__name__

    @property
    def namespace(self) -> str:
        return self.loaded.object.metadata.namespace


class Outcome(msgspec.Struct, frozen=True):
    """Whether a parent takes a route: the condition ``Accepted``."""

    accepted: bool
    reason: str = "Accepted"
    message: str = ""


ACCEPTED: Final = Outcome(True)


class AttachmentIndex:
    """All parentRefs by what they name. Costs one step a route."""

    __slots__ = ("gateways", "others", "services")

    def __init__(self) -> None:
        self.services: dict[str, list[Attached]] = {}
        self.gateways: dict[str, list[Attached]] = {}
        self.others: list[Attached] = []
        """Parents of kinds that are not known here."""

    def add(self, loaded: Loaded) -> None:
        route = loaded.object
        if not isinstance(route, ROUTES):
            return
        for number, ref in enumerate(route.spec.parent_refs):
            attached = Attached(loaded, number, ref)
            name = ref.full_name(route.metadata.namespace)
            if ref.is_service:
                self.services.setdefault(name, []).append(attached)
            elif ref.is_gateway:
                self.gateways.setdefault(name, []).append(attached)
            else:
                self.others.append(attached)

    @classmethod
    def of(cls, objects: Objects) -> AttachmentIndex:
        index = cls()
        for loaded in objects.all:
            index.add(loaded)
        return index


class ServiceResolution(NamedTuple):
    """What is attached to a service."""

    ports: dict[int, dict[str, tuple[str, list[Attached]]]]
    """Port -> clients' namespace (empty: all clients) -> the kind that applies, its routes."""
    outcomes: list[tuple[Attached, Outcome]]


def attach_service(
    name: str, service: Service | None, found: Iterable[Attached]
) -> ServiceResolution:
    """``found``: the parentRefs that name this service."""
    steps = attach_service_steps(name, service, found)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            resolution: ServiceResolution = stop.value
            return resolution


def attach_service_steps(
    name: str, service: Service | None, found: Iterable[Attached]
) -> Generator[None, None, ServiceResolution]:
    """The same, in slices."""
    namespace = name.partition("/")[0]
    groups: dict[int, dict[str, dict[str, list[Attached]]]] = {}
    outcomes: list[tuple[Attached, Outcome]] = []
    taken: list[tuple[Attached, str, list[int]]] = []
    for i, attached in enumerate(found):
        if i % BITE == BITE - 1:
            yield
        ref = attached.ref
        if service is None:
            message = f"no registry knows the service {name}"
            outcomes.append((attached, Outcome(False, "NoMatchingParent", message)))
            continue
        ports = [
            port.port
            for port in service.ports
            if ref.port in (None, port.port) and ref.section_name in (None, port.name)
        ]
        if not ports:
            wanted = " and ".join(
                part
                for part in (
                    f"number {ref.port}" if ref.port else "",
                    f"name {ref.section_name}" if ref.section_name else "",
                )
                if part
            )
            known = ", ".join(f"{p.name or '-'} {p.port}" for p in service.ports) or "none"
            message = f"{name} has no port with {wanted or 'any number'} (its ports: {known})"
            outcomes.append((attached, Outcome(False, "NoMatchingParent", message)))
            continue
        client = "" if attached.namespace == namespace else attached.namespace
        for number in ports:
            kinds = groups.setdefault(number, {}).setdefault(client, {})
            kinds.setdefault(attached.kind, []).append(attached)
        taken.append((attached, client, ports))
    winners: dict[int, dict[str, tuple[str, list[Attached]]]] = {
        number: {
            client: next((kind, kinds[kind]) for kind in PRECEDENCE if kind in kinds)
            for client, kinds in clients.items()
        }
        for number, clients in groups.items()
    }
    for i, (attached, client, ports) in enumerate(taken):
        if i % BITE == BITE - 1:
            yield
        lost = [n for n in ports if winners[n][client][0] != attached.kind]
        if not lost:
            outcomes.append((attached, ACCEPTED))
            continue
        first = winners[lost[0]][client][1][0]
        message = f"{first.loaded.key} goes before it at port {', '.join(map(str, lost))}"
        outcomes.append((attached, Outcome(len(lost) < len(ports), "Conflicted", message)))
    return ServiceResolution(winners, outcomes)


class GatewayResolution(NamedTuple):
    """What is attached to a Gateway."""

    listeners: dict[str, list[Attached]]
    """Listener name -> its routes, of all kinds."""
    outcomes: list[tuple[Attached, Outcome]]
    conflicted: dict[str, str]
    """Listener name -> why it is not served."""


def attach_gateway(
    name: str, gateway: Gateway | None, found: Iterable[Attached]
) -> GatewayResolution:
    """``found``: the parentRefs that name this Gateway."""
    outcomes: list[tuple[Attached, Outcome]] = []
    if gateway is None:
        message = f"there is no Gateway {name}"
        outcomes = [(a, Outcome(False, "NoMatchingParent", message)) for a in found]
        return GatewayResolution({}, outcomes, {})
    conflicted = listener_conflicts(gateway)
    listeners: dict[str, list[Attached]] = {each.name: [] for each in gateway.spec.listeners}
    for attached in found:
        ref = attached.ref
        candidates = [
            each
            for each in gateway.spec.listeners
            if ref.section_name in (None, each.name) and ref.port in (None, each.port)
        ]
        if not candidates:
            known = ", ".join(f"{each.name} {each.port}" for each in gateway.spec.listeners)
            message = f"{name} has no such listener (its listeners: {known})"
            outcomes.append((attached, Outcome(False, "NoMatchingParent", message)))
            continue
        allowed = [
            each
            for each in candidates
            if _allows(each, gateway.metadata.namespace, attached) and each.name not in conflicted
        ]
        if not allowed:
            message = f"no listener of {name} allows a {attached.kind} of {attached.namespace}"
            outcomes.append((attached, Outcome(False, "NotAllowedByListeners", message)))
            continue
        meeting = [each for each in allowed if _meets(each, attached)]
        if not meeting:
            message = f"no listener of {name} has one of the route's hostnames"
            outcomes.append((attached, Outcome(False, "NoMatchingListenerHostname", message)))
            continue
        for each in meeting:
            listeners[each.name].append(attached)
        outcomes.append((attached, ACCEPTED))
    return GatewayResolution(listeners, outcomes, conflicted)


def listener_conflicts(gateway: Gateway) -> dict[str, str]:
    """Listeners that can't be told from another by port, protocol and hostname, or that name
    two protocols for one port."""
    found: dict[str, str] = {}
    seen: dict[tuple[int, str], Listener] = {}
    families: dict[int, Listener] = {}
    for each in gateway.spec.listeners:
        first = families.setdefault(each.port, each)
        tls = ("HTTPS", "TLS")
        same = first.protocol == each.protocol or {first.protocol, each.protocol} <= set(tls)
        if not same:
            found[each.name] = f"port {each.port} speaks {first.protocol} for {first.name}"
        other = seen.setdefault((each.port, each.hostname or ""), each)
        if other is not each:
            found[each.name] = f"{other.name} has the same port and hostname"
    return found


def _allows(listener: Listener, namespace: str, attached: Attached) -> bool:
    kinds = _CARRIES[listener.protocol]
    if listener.protocol == "TLS":
        terminates = listener.tls is None or listener.tls.mode == "Terminate"
        kinds = ("TCPRoute", "TLSRoute") if terminates else ("TLSRoute",)
    if attached.kind not in kinds:
        return False
    allowed = listener.allowed_routes
    if allowed.kinds and not any(
        k.kind == attached.kind and k.group == GATEWAY_GROUP for k in allowed.kinds
    ):
        return False
    wanted = allowed.namespaces.from_
    if wanted == "All":
        return True
    if wanted == "Same":
        return attached.namespace == namespace
    if wanted == "Selector" and allowed.namespaces.selector is not None:
        return _selects(allowed.namespaces.selector, attached.namespace)
    return False


def _selects(selector: Selector, namespace: str) -> bool:
    labels = {"kubernetes.io/metadata.name": namespace}
    if any(labels.get(k) != v for k, v in selector.match_labels.items()):
        return False
    for e in selector.match_expressions:
        value = labels.get(e.key)
        if (
            (e.operator == "In" and value not in e.values)
            or (e.operator == "NotIn" and value in e.values)
            or (e.operator == "Exists" and value is None)
            or (e.operator == "DoesNotExist" and value is not None)
        ):
            return False
    return True


def _meets(listener: Listener, attached: Attached) -> bool:
    route = attached.route
    if isinstance(route, TCPRoute) or not route.spec.hostnames or not listener.hostname:
        return True
    return any(hostnames_meet(listener.hostname, name) for name in route.spec.hostnames)


def hostnames_meet(one: str, other: str) -> bool:
    """Whether a host exists that both patterns match."""
    if one == other:
        return True
    if one.startswith("*.") and other.startswith("*."):
        return one.endswith(other[1:]) or other.endswith(one[1:])
    if one.startswith("*."):
        return other.endswith(one[1:]) and len(other) > len(one) - 1
    if other.startswith("*."):
        return hostnames_meet(other, one)
    return False
