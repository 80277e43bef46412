"""All services of all registries: one immutable snapshot, and the merger that makes the next.

A :class:`Catalog` never changes, so the data plane takes it by assignment and keeps using it
for as long as it likes. The maps inside are hash tries (``immutables.Map``): the next catalog
shares everything with the last one but what changed, so a change costs in proportion to itself
and not to the ten thousand services around it.

Merging. The endpoints of one name are united by their key, the first registry (in configured
order) wins per key. Virtual addresses, ports and labels come from the first registry that has
the service. Where two services claim one address and port, the one from the earlier registry
wins, then the one whose name sorts first; :attr:`Catalog.conflicts` tells who lost.
"""

from __future__ import annotations

import bisect
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
from immutables import Map

from registry.address import canonical, normalised
from registry.base import Problem
from registry.model import Endpoint, Port, Service

__all__ = ["EMPTY", "Catalog", "Change", "Merger"]

Socket = tuple[str, int]
"""A canonical address and a port."""


class Change(NamedTuple):
    """What became of one service. ``old`` is ``new`` where the service is the same as before
    but has won or lost an address and port that another service claims too."""

    name: str
    old: Service | None
    new: Service | None


class Catalog:
    """One immutable state of the world. Equal to nothing but itself."""

    __slots__ = ("_claims", "_owners", "_services", "_vip_use", "_vips", "generation")

    def __init__(
        self,
        generation: int = 0,
        services: Map[str, Service] | None = None,
        vips: Map[Socket, tuple[Service, Port]] | None = None,
        vip_use: Map[str, int] | None = None,
        owners: Map[Socket, tuple[str, ...]] | None = None,
        claims: Map[Socket, tuple[tuple[int, str], ...]] | None = None,
    ) -> None:
        self.generation: Final = generation
        """Grows by one with every change."""
        self._services = Map() if services is None else services
        self._vips = Map() if vips is None else vips
        self._vip_use = Map() if vip_use is None else vip_use
        self._owners = Map() if owners is None else owners
        self._claims = Map() if claims is None else claims

    def get(self, name: str) -> Service | None:
        """The service called ``namespace/name``."""
        return self._services.get(name)

    def at(self, address: str, port: int) -> tuple[Service, Port] | None:
        """The service and its port behind a virtual address."""
        found = self._vips.get((address, port))
        if found is None and ":" in address and (plain := _plain(address)) != address:
            return self._vips.get((plain, port))
        return found

    def is_vip(self, address: str) -> bool:
        """Whether any service claims this address, on whichever port."""
        if address in self._vip_use:
            return True
        return ":" in address and _plain(address) in self._vip_use

    def owners(self, address: str, port: int) -> tuple[str, ...]:
        """Names of the services that have an endpoint with this address and port, sorted."""
        found = self._owners.get((address, port))
        if found is None and ":" in address:
            found = self._owners.get((_plain(address), port))
        return found or ()

    @property
    def conflicts(self) -> tuple[Problem, ...]:
        """One problem for each service that does not get an address and port it claims."""
        return tuple(
            Problem(
                f"{_socket_text(socket)} belongs to {claims[0][1]}, which goes before it",
                source=self._services[name].origin,
                field=name,
            )
            for socket, claims in sorted(self._claims.items())
            for _, name in claims[1:]
        )

    def __len__(self) -> int:
        return len(self._services)

    def __contains__(self, name: object) -> bool:
        return name in self._services

    def __iter__(self) -> Iterator[Service]:
        """Services sorted by name."""
        services = self._services
        return (services[name] for name in sorted(services))

    def __repr__(self) -> str:
        return f"<Catalog {self.generation}: {len(self)} services>"


EMPTY: Final = Catalog()


def _plain(address: str) -> str:
    try:
        return canonical(address)
    except ValueError:
        return address


def _socket_text(socket: Socket) -> str:
    address, port = socket
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


STEP: Final = 256
"""Units of work (about one endpoint each) between two yields of :meth:`Merger.steps`."""

Steps = Generator[int, None, tuple[Catalog, tuple[Change, ...]]]


class Merger:
    """Makes catalogs of what the registries say. Mutable; one user at a time."""

    def __init__(self, registries: Sequence[str]) -> None:
        """``registries``: their names, the most trusted first."""
        self.catalog = EMPTY
        self._order: dict[str, int] = {name: i for i, name in enumerate(registries)}
        self._said: list[dict[str, Service]] = [{} for _ in registries]
        self._rejected: list[dict[str, tuple[Problem, ...]]] = [{} for _ in registries]
        self._rank: dict[str, int] = {}
        """For each service the first registry that has it."""
        self._claims: dict[Socket, list[tuple[int, str]]] = {}
        """Who wants an address and port, best claim first."""

    def services_of(self, registry: str) -> dict[str, Service]:
        """What this registry has said, by name. Read only; changes with the next apply."""
        return self._said[self._order[registry]]

    def problems_of(self, registry: str) -> Iterator[Problem]:
        """Parts of this registry's services that can never work and were left out."""
        for problems in self._rejected[self._order[registry]].values():
            yield from problems

    def apply(
        self, registry: str, upserts: Iterable[Service], removals: Iterable[str]
    ) -> tuple[Catalog, tuple[Change, ...]]:
        """Registry ``registry`` now has ``upserts`` and no longer has ``removals`` (done
        first). The new catalog, or the old one if nothing changed, and what changed."""
        steps = self.steps(registry, upserts, removals)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                result: tuple[Catalog, tuple[Change, ...]] = done.value
                return result

    def steps(self, registry: str, upserts: Iterable[Service], removals: Iterable[str]) -> Steps:
        """:meth:`apply` in steps: yields the units of work done since the last yield, at most
        about STEP. It must be run to its end before the next change is begun; the catalog
        changes at the end only."""
        index = self._order[registry]
        said, rejected = self._said[index], self._rejected[index]
        touched: dict[str, None] = {}
        work = 0
        for name in removals:
            work += 1
            rejected.pop(name, None)
            if said.pop(name, None) is not None:
                touched[name] = None
            if work >= STEP:
                yield work
                work = 0
        for service in upserts:
            work += 1 + len(service.endpoints)
            service, problems = normalised(service)
            if problems:
                rejected[service.name] = tuple(problems)
            else:
                rejected.pop(service.name, None)
            said[service.name] = service
            touched[service.name] = None
            if work >= STEP:
                yield work
                work = 0
        if work:
            yield work
        return (yield from self._merge(touched))

    def _merge(self, touched: Iterable[str]) -> Steps:
        draft = _Draft(self.catalog)
        changes: dict[str, Change] = {}
        contested: dict[Socket, None] = {}
        work = 0
        for name in touched:
            old = self.catalog.get(name)
            new, rank = self._merged(name)
            work += 1 + (len(new.endpoints) if new else 0)
            same_rank = self._rank.get(name) == rank
            if old == new and same_rank:
                continue
            if old != new:
                changes[name] = Change(name, old, new)
                # The largest part, so a huge service is indexed in steps of its own.
                for done in draft.reindex(name, old, new):
                    yield done + work
                    work = 0
            contested.update(dict.fromkeys(self._claim(name, old, new, rank)))
            if work >= STEP:
                yield work
                work = 0
        for socket in contested:
            work += 1
            for name in draft.award(socket, self._claims.get(socket, ())):
                service = draft.services.get(name)
                if name not in changes and service is not None:
                    changes[name] = Change(name, service, service)
        if work:
            yield work
        if changes or draft.touched:
            self.catalog = draft.finish(self.catalog.generation + 1)
        return self.catalog, tuple(changes.values())

    def _merged(self, name: str) -> tuple[Service | None, int]:
        found = [(i, said[name]) for i, said in enumerate(self._said) if name in said]
        if not found:
            return None, -1
        rank, first = found[0]
        if len(found) == 1:
            return first, rank
        endpoints: dict[tuple[str, int, str], Endpoint] = {}
        for _, service in found:
            for endpoint in service.endpoints:
                endpoints.setdefault(endpoint.key, endpoint)
        return msgspec.structs.replace(first, endpoints=tuple(endpoints.values())), rank

    def _claim(
        self, name: str, old: Service | None, new: Service | None, rank: int
    ) -> Iterable[Socket]:
        """Bring the claims of one service up to date; the sockets whose owner may differ."""
        before, after = _sockets(old), _sockets(new)
        old_rank = self._rank.get(name)
        for socket in before:
            if socket in after and old_rank == rank:
                continue
            claims = self._claims[socket]
            claims.remove((old_rank if old_rank is not None else rank, name))
            if not claims:
                del self._claims[socket]
        for socket in after:
            if socket not in before or old_rank != rank:
                bisect.insort(self._claims.setdefault(socket, []), (rank, name))
        if new is None:
            self._rank.pop(name, None)
        else:
            self._rank[name] = rank
        return before.keys() | after.keys()


def _sockets(service: Service | None) -> dict[Socket, None]:
    if service is None:
        return {}
    return {(vip, port.port): None for vip in service.vips for port in service.ports}


class _Draft:
    """The next catalog in the making."""

    def __init__(self, catalog: Catalog) -> None:
        self.services = catalog._services.mutate()
        self.vips = catalog._vips.mutate()
        self.vip_use = catalog._vip_use.mutate()
        self.owners = catalog._owners.mutate()
        self.claims = catalog._claims.mutate()
        self.touched = False

    def reindex(self, name: str, old: Service | None, new: Service | None) -> Iterator[int]:
        """Everything but the virtual addresses' owners; yields the units of work done."""
        if new is None:
            del self.services[name]
        else:
            self.services[name] = new
        old_vips = set(old.vips) if old else set()
        new_vips = set(new.vips) if new else set()
        for vip in new_vips - old_vips:
            self.vip_use[vip] = self.vip_use.get(vip, 0) + 1
        for vip in old_vips - new_vips:
            left = self.vip_use[vip] - 1
            if left:
                self.vip_use[vip] = left
            else:
                del self.vip_use[vip]
        before = {(e.address, e.port) for e in old.endpoints} if old else set()
        after = {(e.address, e.port) for e in new.endpoints} if new else set()
        work = 0
        for socket in before - after:
            names = tuple(n for n in self.owners[socket] if n != name)
            if names:
                self.owners[socket] = names
            else:
                del self.owners[socket]
            work += 1
            if work >= STEP:
                yield work
                work = 0
        for socket in after - before:
            self.owners[socket] = tuple(sorted((*self.owners.get(socket, ()), name)))
            work += 1
            if work >= STEP:
                yield work
                work = 0
        yield work

    def award(self, socket: Socket, claims: Sequence[tuple[int, str]]) -> tuple[str, ...]:
        """Give ``socket`` to its best claim. The names that won or lost it by that."""
        held = self.vips.get(socket)
        if not claims:
            if held is not None:
                del self.vips[socket]
            self.claims.pop(socket, None)
            return (held[0].name,) if held else ()
        name = claims[0][1]
        service = self.services[name]
        port = service.port(socket[1])
        if port is None:
            raise AssertionError("a claim is made for declared ports only")
        self.vips[socket] = (service, port)
        self.touched = True
        if len(claims) > 1:
            self.claims[socket] = tuple(claims)
        else:
            self.claims.pop(socket, None)
        if held is None or held[0].name == name:
            return ()
        return (held[0].name, name)

    def finish(self, generation: int) -> Catalog:
        return Catalog(
            generation,
            self.services.finish(),
            self.vips.finish(),
            self.vip_use.finish(),
            self.owners.finish(),
            self.claims.finish(),
        )
