"""From objects and a catalog to a :class:`RouteTable`, in slices.

A :class:`Compiler` belongs to one generation of objects. :meth:`Compiler.build` makes the whole
table; when services come, go or change their ports, :meth:`Compiler.update` makes the next table
at the cost of those services. Both are generators that yield every few milliseconds at most, so
that the loop can go on with its traffic; the table is what they return. Endpoints are no matter
here: a change of endpoints needs no new table.
"""

from __future__ import annotations

import posixpath
from collections.abc import Generator, Iterable, Sequence
from typing import Final

import msgspec

from nodeproxy.core.routing import rules as r
from nodeproxy.core.routing.attach import (
    Attached,
    AttachmentIndex,
    attach_gateway,
    attach_service_steps,
)
from nodeproxy.core.routing.compile_http import (
    candidates_of,
    filtering,
    http_rules,
    retry_settings,
    timeout_settings,
)
from nodeproxy.core.routing.gateway import Gateway, Listener, ReferenceGrant
from nodeproxy.core.routing.groups import Candidate
from nodeproxy.core.routing.httproute import HTTPRoute
from nodeproxy.core.routing.objects import Loaded, Objects
from nodeproxy.core.routing.otherroutes import TCPRoute, TLSRoute
from nodeproxy.core.routing.policies import EffectivePolicy, PolicyIndex
from nodeproxy.core.routing.schema import GATEWAY_GROUP, OUR_GROUP, BackendObjectRef, BackendRef
from nodeproxy.core.routing.session import session
from nodeproxy.core.routing.table import (
    NO_RULES,
    GatewayRules,
    HostRules,
    HttpRules,
    ListenerRules,
    PortRules,
    RouteTable,
    ServiceRules,
    SniRules,
    TcpRule,
)
from registry.catalog import Catalog

__all__ = ["Compiler", "Grants", "run"]

Steps = Generator[None, None, RouteTable]
BITE: Final = 50
"""Matches that are worked on between two yields."""


def run(steps: Steps) -> RouteTable:
    """All slices at once, for tests and commands."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            table: RouteTable = stop.value
            return table


class Grants:
    """ReferenceGrants by namespace."""

    def __init__(self, objects: Objects) -> None:
        self._found: dict[str, list[ReferenceGrant]] = {}
        for _, grant in objects.of(ReferenceGrant):
            self._found.setdefault(grant.metadata.namespace, []).append(grant)

    def permit(self, kind: str, namespace: str, to: tuple[str, str, str], target: str) -> bool:
        """Whether a route of ``kind`` in ``namespace`` may refer to (group, kind, name) ``to``
        in the namespace ``target``."""
        if namespace == target:
            return True
        return any(
            grant.permits(GATEWAY_GROUP, kind, namespace, to)
            for grant in self._found.get(target, ())
        )


class Compiler:
    """See the module's text. ``generation`` is that of the objects."""

    def __init__(self, objects: Objects, generation: int = 0) -> None:
        self.objects = objects
        self.generation = generation
        self._index = AttachmentIndex()
        self._grants: Grants | None = None
        self._policies: PolicyIndex | None = None
        self._compiled: dict[tuple[int, bool], list[Candidate]] = {}
        self._ports: dict[str, object] = {}

    def build(self, catalog: Catalog) -> Steps:
        """The whole table."""
        self._index = AttachmentIndex()
        for i, loaded in enumerate(self.objects.all):
            self._index.add(loaded)
            if i % 250 == 249:
                yield
        yield
        self._grants = Grants(self.objects)
        yield
        self._policies = PolicyIndex(self.objects)
        yield
        services: dict[str, ServiceRules] = {}
        for name in self._index.services:
            yield from self._service(name, catalog, services)
        gateways = {}
        for loaded, gateway in self.objects.of(Gateway):
            name = gateway.metadata.full_name
            gateways[name] = yield from self._gateway(name, loaded, gateway)
        policies = self._service_policies(catalog)
        return RouteTable(services, gateways, policies, self.generation)

    def prepare(self) -> None:
        """Read the grants and policies: enough for :meth:`backend`."""
        self._grants = Grants(self.objects)
        self._policies = PolicyIndex(self.objects)

    def update(self, table: RouteTable, catalog: Catalog, names: Iterable[str]) -> Steps:
        """The next table after these services have changed in the catalog; the same one where
        that means nothing to a route. ``table`` must come from this compiler."""
        stale = [
            name
            for name in names
            if name in self._index.services and self._ports.get(name) != _ports(catalog, name)
        ]
        if not stale:
            return table
        services = dict(table.services)
        for name in stale:
            services.pop(name, None)
            yield from self._service(name, catalog, services)
        policies = self._service_policies(catalog)
        return RouteTable(services, table.gateways, policies, self.generation)

    def attached(self, service: str) -> Sequence[Attached]:
        """The parentRefs that name a service, whatever comes of them."""
        return self._index.services.get(service, ())

    def named(self) -> Iterable[str]:
        """The services that parentRefs name."""
        return self._index.services

    # --- services ---

    def _service(
        self, name: str, catalog: Catalog, services: dict[str, ServiceRules]
    ) -> Generator[None, None, None]:
        self._ports[name] = _ports(catalog, name)
        resolution = yield from attach_service_steps(
            name, catalog.get(name), self._index.services[name]
        )
        ports: dict[int, dict[str, PortRules]] = {}
        done: dict[tuple[str, tuple[int, ...]], PortRules] = {}
        for number, clients in resolution.ports.items():
            groups = ports[number] = {}
            for client, (kind, attached) in clients.items():
                # All ports that have the same routes share the rules.
                key = (kind, tuple(id(a.loaded) for a in attached))
                if key not in done:
                    done[key] = yield from self._port(kind, attached)
                groups[client] = done[key]
        if ports:
            services[name] = ServiceRules(ports)
        yield

    def _port(self, kind: str, attached: Sequence[Attached]) -> Generator[None, None, PortRules]:
        loaded = list({id(a.loaded): a.loaded for a in attached}.values())
        if kind == "HTTPRoute":
            found = yield from self._candidates(loaded, True)
            rules = yield from http_rules(found)
            return PortRules(kind, http=rules)
        if kind == "TLSRoute":
            return PortRules(kind, tls=self._sni(loaded, True))
        if kind == "TCPRoute":
            return PortRules(kind, tcp=self._tcp(loaded, True))
        return PortRules(kind)

    def _service_policies(self, catalog: Catalog) -> dict[str, dict[str, EffectivePolicy]]:
        policies = self._policies
        if policies is None:
            return {}
        found: dict[str, dict[str, EffectivePolicy]] = {}
        for (kind, name, section), _ in policies.targets():
            if kind == "Service":
                found.setdefault(name, {})[section] = policies.service(name, section)
        return found

    # --- gateways ---

    def _gateway(
        self, name: str, loaded: Loaded, gateway: Gateway
    ) -> Generator[None, None, GatewayRules]:
        resolution = attach_gateway(name, gateway, self._index.gateways.get(name, ()))
        ports: dict[int, list[ListenerRules]] = {}
        for listener in gateway.spec.listeners:
            if listener.name in resolution.conflicted:
                continue
            attached = resolution.listeners[listener.name]
            ports.setdefault(listener.port, []).append(
                (yield from self._listener(listener, attached, loaded))
            )
        for listeners in ports.values():
            listeners.sort(key=lambda each: _specific(each.hostname))
        return GatewayRules(name, {port: tuple(each) for port, each in ports.items()})

    def _listener(
        self, listener: Listener, attached: Sequence[Attached], gateway: Loaded
    ) -> Generator[None, None, ListenerRules]:
        by_kind: dict[str, list[Loaded]] = {}
        for each in {id(a.loaded): a for a in attached}.values():
            by_kind.setdefault(each.kind, []).append(each.loaded)
        http = None
        if listener.protocol in ("HTTP", "HTTPS"):
            by_host: dict[str, list[Loaded]] = {}
            for route in by_kind.get("HTTPRoute", ()):
                assert isinstance(route.object, HTTPRoute)
                for host in route.object.spec.hostnames or ("",):
                    by_host.setdefault(host, []).append(route)
            compiled: dict[str, HttpRules] = {}
            for host, routes in by_host.items():
                found = yield from self._candidates(routes, False)
                compiled[host] = yield from http_rules(found)
            http = HostRules(
                {h.encode(): c for h, c in compiled.items() if h and h[0] != "*"},
                {h[1:].encode(): c for h, c in compiled.items() if h[:1] == "*"},
                compiled.get("", NO_RULES),
            )
        tls = listener.tls
        folder = gateway.base_dir
        return ListenerRules(
            listener.name,
            listener.port,
            listener.protocol,
            listener.hostname or "",
            http,
            self._sni(by_kind["TLSRoute"], False) if "TLSRoute" in by_kind else None,
            self._tcp(by_kind["TCPRoute"], False) if "TCPRoute" in by_kind else None,
            tuple(
                posixpath.join(folder, ref.name)
                for ref in (tls.certificate_refs if tls is not None else ())
                if (ref.group, ref.kind) == (OUR_GROUP, "File")
            ),
        )

    # --- routes ---

    def _candidates(
        self, routes: Sequence[Loaded], mesh: bool
    ) -> Generator[None, None, list[Candidate]]:
        found: list[Candidate] = []
        left = BITE
        for loaded in routes:
            key = (id(loaded), mesh)
            if key not in self._compiled:
                compiled: list[Candidate] = []
                assert isinstance(loaded.object, HTTPRoute)
                for index in range(len(loaded.object.spec.rules)):
                    rule = self._rule(loaded, loaded.object, index, mesh)
                    compiled += candidates_of(loaded.object, index, rule)
                    left -= 1 + len(loaded.object.spec.rules[index].matches)
                    if left <= 0:
                        left = BITE
                        yield
                self._compiled[key] = compiled
            found += self._compiled[key]
        return found

    def _rule(self, loaded: Loaded, route: HTTPRoute, index: int, mesh: bool) -> r.Rule:
        spec = route.spec.rules[index]

        def reach(ref: BackendObjectRef, position: int) -> r.Backend:
            return self.backend("HTTPRoute", route.metadata.namespace, ref, position, mesh)

        filters = filtering(spec.filters, reach)
        entries = []
        for position, ref in enumerate(spec.backend_refs):
            backend = reach(ref, position)
            own = filtering(ref.filters, reach)
            if own is not r.NO_FILTERS:
                backend = msgspec.structs.replace(backend, filters=own)
            entries.append(backend)
        name = route.metadata.full_name
        assert self._policies is not None
        policy = self._policies.route(name, spec.name or "")
        return r.Rule(
            route=loaded.key,
            index=index,
            backends=r.backends(tuple(entries)),
            filters=filters,
            timeouts=timeout_settings(spec.timeouts, policy),
            retry=retry_settings(spec.retry, policy),
            session=session(
                spec.session_persistence or policy.get("session_persistence"),
                f"nodeproxy-{route.metadata.name}-{index}"[:128],
            ),
            policy=policy,
            name=spec.name or "",
            origin=loaded.rule_origin(index),
            plain=filters is r.NO_FILTERS
            and all(entry.filters is r.NO_FILTERS for entry in entries),
        )

    def backend(
        self, kind: str, namespace: str, ref: BackendObjectRef, index: int, mesh: bool
    ) -> r.Backend:
        """A reference, as far as it can be resolved without a catalog. Mesh routes may name
        services of other namespaces; those of Gateways need a ReferenceGrant."""
        target = ref.namespace or namespace
        name = f"{target}/{ref.name}"
        weight = ref.weight if isinstance(ref, BackendRef) else 1
        problem = reason = ""
        if ref.group or ref.kind != "Service":
            reason = "InvalidKind"
            problem = f"a {ref.kind} of the group {ref.group!r} can't be a backend"
        elif ref.port is None:
            reason = "UnsupportedValue"
            problem = f"the backend {name} needs a port"
        else:
            assert self._grants is not None
            to = ("", "Service", ref.name)
            if not mesh and not self._grants.permit(kind, namespace, to, target):
                reason = "RefNotPermitted"
                problem = f"no ReferenceGrant of {target} lets a {kind} of {namespace} use {name}"
        return r.Backend(name, ref.port or 0, weight, problem, index=index, reason=reason)

    def _l4(self, loaded: Loaded, mesh: bool) -> TcpRule:
        route = loaded.object
        assert isinstance(route, TCPRoute | TLSRoute)
        spec = route.spec.rules[0]
        entries = tuple(
            self.backend(type(route).__name__, route.metadata.namespace, ref, i, mesh)
            for i, ref in enumerate(spec.backend_refs)
        )
        return TcpRule(str(loaded.key), r.backends(entries), spec.name or "", loaded.rule_origin(0))

    def _tcp(self, routes: Sequence[Loaded], mesh: bool) -> TcpRule:
        return self._l4(min(routes, key=_age), mesh)

    def _sni(self, routes: Sequence[Loaded], mesh: bool) -> SniRules:
        exact: dict[bytes, TcpRule] = {}
        wildcards: dict[bytes, TcpRule] = {}
        other: TcpRule | None = None
        for loaded in sorted(routes, key=_age):
            assert isinstance(loaded.object, TLSRoute)
            rule = self._l4(loaded, mesh)
            for host in loaded.object.spec.hostnames:
                if host[0] == "*":
                    wildcards.setdefault(host[1:].encode(), rule)
                else:
                    exact.setdefault(host.encode(), rule)
            if not loaded.object.spec.hostnames:
                other = other or rule
        return SniRules(exact, wildcards, other)


def _age(loaded: Loaded) -> tuple[float, str]:
    return loaded.object.metadata.age


def _ports(catalog: Catalog, name: str) -> object:
    service = catalog.get(name)
    return None if service is None else service.ports


def _specific(hostname: str) -> tuple[int, int]:
    """Sorts exact hostnames first, then wildcards by length, then none."""
    if not hostname:
        return (2, 0)
    return (1, -len(hostname)) if hostname[0] == "*" else (0, 0)
