"""From the catalog to the kernel: which addresses are intercepted, and where the kernel path
would lead them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from iptables.settings import Backend, Frontend
from nodeproxy.core.standing import standings
from registry.catalog import Catalog, Change
from registry.model import Service

__all__ = ["Changed", "changed", "frontends"]

Key = tuple[str, int]
Changed = tuple[dict[Key, Frontend], set[Key]]
"""Frontends that are now so, and keys that are gone."""


def frontends(catalog: Catalog) -> Iterable[Frontend]:
    """All of a catalog's, one service after the other."""
    for service in catalog:
        yield from _of(service, catalog)


def changed(changes: Iterable[Change], catalog: Catalog) -> Changed:
    """What changes make of the frontends: those that are now so, and keys that are gone.

    Where a service gives up an address that another one claims too, that one has it now.
    """
    upserts: dict[Key, Frontend] = {}
    removals: set[Key] = set()
    for change in changes:
        if change.new is not None:
            upserts |= {f.key: f for f in _of(change.new, catalog)}
        for key in _keys(change.old) - upserts.keys():
            heir = catalog.at(*key)
            if heir is None:
                removals.add(key)
            else:
                upserts |= {f.key: f for f in _of(heir[0], catalog) if f.key == key}
    return upserts, removals - upserts.keys()


def _keys(service: Service | None) -> set[Key]:
    if service is None:
        return set()
    return {(vip, port.port) for vip in service.vips for port in service.ports}


def _of(service: Service, catalog: Catalog) -> list[Frontend]:
    """The frontends that this service really has: it may have lost an address to another."""
    result = []
    for port in service.ports:
        endpoints = service.endpoints_of(port)
        found = standings(endpoints, ())
        usable = [e for e in endpoints if found[e.key].takes_traffic]
        for vip in service.vips:
            owner = catalog.at(vip, port.port)
            if owner is None or owner[0].name != service.name:
                continue
            six = ":" in vip
            backends = tuple(
                Backend(e.address, e.port, e.weight) for e in usable if (":" in e.address) == six
            )
            result.append(Frontend(vip, port.port, backends, service.name))
    return result
