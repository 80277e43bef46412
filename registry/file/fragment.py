"""What one file says about one service, and how the fragments of several files are joined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from registry.base import Problem
from registry.model import Endpoint, Port, Service

__all__ = ["ANY_PORT", "Content", "Fragment", "join", "unite"]

ANY_PORT = 0
"""Port of an endpoint, inside fragments only, that serves each port of its service under the
service's own number (an EndpointSlice port without a number)."""


class Fragment(msgspec.Struct, frozen=True, gc=False):
    """A service as far as one file knows it."""

    service: Service
    declared: bool = True
    """The file has the service itself, not only endpoints for it."""


class Content(msgspec.Struct, frozen=True):
    """All that was read in one file."""

    fragments: tuple[Fragment, ...] = ()
    problems: tuple[Problem, ...] = ()
    unreadable: tuple[str, ...] = ()
    """Services whose entry could not be used; what was known of them stays."""
    partial: bool = False
    """Something could not be read that does not even have a name, so a service that is not
    here need not be gone."""


def unite(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """One endpoint a key. Of two, the one fitter for traffic wins, then the first: while a pod
    moves from one slice to another, the old slice may still say that it is not ready."""
    found: dict[tuple[str, int, str], Endpoint] = {}
    for endpoint in endpoints:
        other = found.setdefault(endpoint.key, endpoint)
        if other is not endpoint and _fitness(endpoint) > _fitness(other):
            found[endpoint.key] = endpoint
    return tuple(found.values())


def _fitness(endpoint: Endpoint) -> tuple[bool, bool, bool]:
    return (endpoint.ready, endpoint.serving, not endpoint.terminating)


def join(fragments: Sequence[Fragment]) -> Service:
    """One service of its fragments, in file order. Never empty."""
    first = next((f for f in fragments if f.declared), fragments[0]).service
    endpoints = unite(e for f in fragments for e in f.service.endpoints)
    if any(e.port == ANY_PORT for e in endpoints):
        endpoints = unite(x for e in endpoints for x in _numbered(e, first.ports))
    if len(endpoints) == len(first.endpoints) and endpoints == first.endpoints:
        return first
    return msgspec.structs.replace(first, endpoints=endpoints)


def _numbered(endpoint: Endpoint, ports: Sequence[Port]) -> Iterable[Endpoint]:
    if endpoint.port != ANY_PORT:
        return (endpoint,)
    return (
        msgspec.structs.replace(endpoint, port=port.port, port_name=port.name)
        for port in ports
        if endpoint.port_name in ("", port.name)
    )
