"""What many objects together show: conditions of each route, and warnings.

:func:`statuses` gives for each parent of each route the Gateway API's conditions ``Accepted`` and
``ResolvedRefs``; :func:`warnings` what an operator should look at though nothing is invalid: rules
that can never match, backends that nobody knows, weights that sum to 0, policies without effect.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from nodeproxy.core.routing.attach import (
    Attached,
    AttachmentIndex,
    Outcome,
    attach_gateway,
    attach_service,
    listener_conflicts,
)
from nodeproxy.core.routing.backends import unresolved
from nodeproxy.core.routing.compile import Compiler, run
from nodeproxy.core.routing.gateway import Gateway
from nodeproxy.core.routing.httproute import HTTPRoute
from nodeproxy.core.routing.objects import Key, Loaded, Objects
from nodeproxy.core.routing.otherroutes import GRPCRoute, TCPRoute, TLSRoute
from nodeproxy.core.routing.policies import PolicyIndex
from nodeproxy.core.routing.rules import Backend
from nodeproxy.core.routing.schema import BackendObjectRef, ParentRef
from nodeproxy.core.routing.shadows import shadows
from nodeproxy.core.routing.table import RouteTable
from registry.base import Problem
from registry.catalog import Catalog
from registry.strict import near

__all__ = ["Condition", "ParentStatus", "RouteStatus", "statuses", "warnings"]


class Condition(msgspec.Struct, frozen=True):
    """As in an object's ``status``."""

    type: str
    status: bool
    reason: str
    message: str = ""


class ParentStatus(msgspec.Struct, frozen=True):
    """What one parent makes of a route."""

    parent: str
    """``Service shop/web:80``"""
    conditions: tuple[Condition, ...]


class RouteStatus(msgspec.Struct, frozen=True):
    """One route with all its parents."""

    route: Key
    origin: str
    parents: tuple[ParentStatus, ...]

    @property
    def accepted(self) -> bool:
        """By at least one parent."""
        return any(c.status for p in self.parents for c in p.conditions if c.type == "Accepted")


def statuses(objects: Objects, catalog: Catalog) -> tuple[RouteStatus, ...]:
    """For every route, in the order of the files."""
    outcomes = _outcomes(objects, catalog)
    resolver = Compiler(objects)
    resolver.prepare()
    found = []
    for loaded in objects.all:
        route = loaded.object
        if not isinstance(route, HTTPRoute | TCPRoute | TLSRoute | GRPCRoute):
            continue
        parents = []
        for number, ref in enumerate(route.spec.parent_refs):
            attached = Attached(loaded, number, ref)
            outcome = outcomes.get((loaded.key, number), Outcome(False, "NoMatchingParent"))
            condition = Condition("Accepted", outcome.accepted, outcome.reason, outcome.message)
            parents.append(
                ParentStatus(
                    parent_text(attached),
                    (condition, _resolved(loaded, resolver, catalog, ref.is_service)),
                )
            )
        found.append(RouteStatus(loaded.key, loaded.origin, tuple(parents)))
    return tuple(found)


def _outcomes(objects: Objects, catalog: Catalog) -> dict[tuple[Key, int], Outcome]:
    index = AttachmentIndex.of(objects)
    gateways = {g.metadata.full_name: g for _, g in objects.of(Gateway)}
    found: dict[tuple[Key, int], Outcome] = {}
    for name, attached in index.services.items():
        for each, outcome in attach_service(name, catalog.get(name), attached).outcomes:
            found[each.loaded.key, each.number] = outcome
    for name, attached in index.gateways.items():
        for each, outcome in attach_gateway(name, gateways.get(name), attached).outcomes:
            found[each.loaded.key, each.number] = outcome
    for each in index.others:
        message = f"a {each.ref.kind} of the group {each.ref.group!r} has no routes here"
        found[each.loaded.key, each.number] = Outcome(False, "InvalidKind", message)
    return found


def parent_text(attached: Attached) -> str:
    ref = attached.ref
    text = f"{ref.kind} {ref.full_name(attached.namespace)}"
    if ref.port is not None:
        text += f":{ref.port}"
    return f"{text}/{ref.section_name}" if ref.section_name else text


def references(loaded: Loaded) -> Iterator[tuple[int, str, BackendObjectRef]]:
    """Every backend that a route names: rule, field, reference. Mirrors, too."""
    route = loaded.object
    if isinstance(route, HTTPRoute):
        for i, rule in enumerate(route.spec.rules):
            filters = [(f"spec.rules[{i}].filters", rule.filters)]
            for j, ref in enumerate(rule.backend_refs):
                yield i, f"spec.rules[{i}].backendRefs[{j}]", ref
                filters.append((f"spec.rules[{i}].backendRefs[{j}].filters", ref.filters))
            for field, each in filters:
                for k, one in enumerate(each):
                    if one.request_mirror is not None:
                        yield i, f"{field}[{k}].requestMirror", one.request_mirror.backend_ref
    elif isinstance(route, TCPRoute | TLSRoute):
        for i, rule_ in enumerate(route.spec.rules):
            for j, plain in enumerate(rule_.backend_refs):
                yield i, f"spec.rules[{i}].backendRefs[{j}]", plain


def missing(backend: Backend, catalog: Catalog, http: bool) -> tuple[str, str]:
    """The reason of ResolvedRefs and why, with a suggestion; or two empty texts."""
    reason, message = unresolved(catalog, backend, http=http)
    if reason == "BackendNotFound" and catalog.get(backend.service) is None:
        # Looking for what was meant takes a while.
        close = near(backend.service, (s.name for s in catalog)) if len(catalog) < 1000 else ""
        return reason, message + close
    return reason, message


def _resolved(loaded: Loaded, resolver: Compiler, catalog: Catalog, mesh: bool) -> Condition:
    kind, namespace, _ = loaded.key
    for _, field, ref in references(loaded):
        backend = resolver.backend(kind, namespace, ref, 0, mesh)
        reason, message = missing(backend, catalog, kind == "HTTPRoute")
        if reason:
            return Condition("ResolvedRefs", False, reason, f"{field}: {message}")
    return Condition("ResolvedRefs", True, "ResolvedRefs")


def warnings(
    objects: Objects, catalog: Catalog | None, table: RouteTable | None = None
) -> list[Problem]:
    """What is doubtful, in the order of the files. Without a catalog nothing is said of services
    that may not exist. ``table``: compiled from the same, if it is at hand."""
    found: list[Problem] = []
    if catalog is not None:
        compiler = Compiler(objects)
        table = table or run(compiler.build(catalog))
        outcomes = _outcomes(objects, catalog)
        compiler.prepare()
        for loaded in objects.all:
            found += _of_route(loaded, outcomes, compiler, catalog)
        found += shadows(objects, table)
        found += _policies(objects, catalog)
    for loaded in objects.all:
        found += _alone(loaded)
    found.sort(key=lambda p: (p.source, p.line))
    return found


def _of_route(
    loaded: Loaded,
    outcomes: dict[tuple[Key, int], Outcome],
    compiler: Compiler,
    catalog: Catalog,
) -> Iterator[Problem]:
    route = loaded.object
    if not isinstance(route, HTTPRoute | TCPRoute | TLSRoute | GRPCRoute):
        return
    for number in range(len(route.spec.parent_refs)):
        outcome = outcomes[loaded.key, number]
        if outcome.reason != "Accepted":
            verdict = "is not accepted" if not outcome.accepted else "is accepted in part"
            message = f"{verdict} ({outcome.reason}): {outcome.message}"
            yield loaded.problem(message, f"spec.parentRefs[{number}]")
        elif isinstance(route, HTTPRoute):
            yield from _unseen(loaded, number, route.spec.parent_refs[number], catalog)
    mesh = any(ref.is_service for ref in route.spec.parent_refs)
    gateway = any(ref.is_gateway for ref in route.spec.parent_refs)
    kind, namespace, _ = loaded.key
    for index, field, ref in references(loaded):
        backend = compiler.backend(kind, namespace, ref, 0, mesh and not gateway)
        reason, message = missing(backend, catalog, kind == "HTTPRoute")
        if reason:
            message = f"{message} ({reason}): its share of the traffic gets 500"
            yield loaded.problem(message, field, index)


def _unseen(loaded: Loaded, number: int, ref: ParentRef, catalog: Catalog) -> Iterator[Problem]:
    """Ports at which no request is ever seen, as they are declared to speak something else."""
    service = catalog.get(ref.full_name(loaded.key.namespace)) if ref.is_service else None
    for port in service.ports if service is not None else ():
        named = ref.port in (None, port.port) and ref.section_name in (None, port.name)
        if named and port.protocol in ("tcp", "tls") and (ref.port or ref.section_name):
            message = (
                f"port {port.port} is declared as {port.protocol}: no HTTP request is seen there"
            )
            yield loaded.problem(message, f"spec.parentRefs[{number}]")


def _alone(loaded: Loaded) -> Iterator[Problem]:
    route = loaded.object
    if isinstance(route, HTTPRoute | TCPRoute | TLSRoute | GRPCRoute):
        if not route.spec.parent_refs:
            yield loaded.problem("has no parentRefs: it is attached to nothing", "spec.parentRefs")
        mesh = [ref for ref in route.spec.parent_refs if ref.is_service]
        if mesh and isinstance(route, HTTPRoute) and route.spec.hostnames:
            message = "hostnames mean nothing at a Service: write a header match on Host"
            yield loaded.problem(message, "spec.hostnames")
    if isinstance(route, GRPCRoute):
        yield loaded.problem("GRPCRoute is not carried yet: its port has no routes", "kind")
    if isinstance(route, TCPRoute | TLSRoute) and len(route.spec.rules) > 1:
        message = "never matches: the first rule takes every connection"
        yield loaded.problem(message, "spec.rules[1]", 1)
    if isinstance(route, HTTPRoute):
        for i, rule in enumerate(route.spec.rules):
            weights = [ref.weight for ref in rule.backend_refs]
            types = {f.type for f in rule.filters}
            field = f"spec.rules[{i}].backendRefs"
            if weights and not sum(weights):
                yield loaded.problem("the weights sum to 0: every request gets 500", field, i)
            elif not weights and "RequestRedirect" not in types:
                yield loaded.problem("no backendRefs: every request gets 500", field, i)
            for kind in types & {"ExtensionRef", "ExternalAuth"}:
                message = f"{kind} is not known here: every request gets 500"
                yield loaded.problem(message, f"spec.rules[{i}].filters", i)
    if isinstance(route, Gateway):
        yield from _of_gateway(loaded, route)


def _of_gateway(loaded: Loaded, gateway: Gateway) -> Iterator[Problem]:
    for name, why in listener_conflicts(gateway).items():
        yield loaded.problem(f"the listener {name} is not served (Conflicted): {why}")
    for i, listener in enumerate(gateway.spec.listeners):
        for ref in listener.tls.certificate_refs if listener.tls is not None else ():
            if ref.kind == "Secret":
                message = (
                    f"the Secret {ref.name} can't be read from files (InvalidCertificateRef): "
                    "write group: nodeproxy.dev, kind: File, name: PATH"
                )
                yield loaded.problem(message, f"spec.listeners[{i}].tls.certificateRefs")


def _policies(objects: Objects, catalog: Catalog) -> Iterator[Problem]:
    for (kind, name, section), loaded in PolicyIndex(objects).targets():
        route = objects.by_key.get(Key("HTTPRoute", *name.split("/", 1)))
        for each in loaded:
            if kind == "Service":
                service = catalog.get(name)
                if service is None:
                    yield each.problem(f"no registry knows the service {name}", "spec.targetRefs")
                elif section and section not in [port.name for port in service.ports]:
                    yield each.problem(f"{name} has no port called {section}", "spec.targetRefs")
            elif kind == "HTTPRoute" and route is None:
                yield each.problem(f"there is no HTTPRoute {name}", "spec.targetRefs")
            elif kind == "HTTPRoute" and section and route is not None:
                assert isinstance(route.object, HTTPRoute)
                if section not in [rule.name for rule in route.object.spec.rules]:
                    yield each.problem(f"{name} has no rule called {section}", "spec.targetRefs")
