"""All services of all registries: the merger that makes one catalog of them.

A :class:`Catalog` never changes, so the data plane takes it by assignment and keeps using it
for as long as it likes, and a change costs in proportion to itself and not to the ten thousand
services around it (:mod:`registry.snapshot`).

Merging. Registries are ordered by their priority, then as they are configured. Virtual addresses,
ports and labels come from the first registry that has the service. Endpoints come from the
registries of one priority: the first with an endpoint that may take traffic; theirs are united by
key, the first registry wins per key. Where two services claim one address and port, the one from
the earlier registry wins, then the one whose name sorts first; :attr:`Catalog.conflicts` tells who
lost. A service without a virtual address is given one, if there is an allocator.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from registry.address import normalised
from registry.base import Problem
from registry.model import Endpoint, Service
from registry.snapshot import EMPTY, STEP, Catalog, Change, Draft, Socket
from registry.vips import Allocator

__all__ = ["DEFAULTS", "EMPTY", "STEP", "Catalog", "Change", "Merger", "usable"]

DEFAULTS: Final = "(default endpoints)"
"""Takes the place of a registry's name; no configuration can use it."""
RETRIES: Final = 16
"""Services without an address that are looked at again with each change."""

Steps = Generator[int, None, tuple[Catalog, tuple[Change, ...]]]


def usable(endpoint: Endpoint) -> bool:
    """It may take new traffic, if need be, says its registry."""
    if not endpoint.weight:
        return False
    return endpoint.ready or (endpoint.serving and endpoint.terminating)


class Merger:
    """Makes catalogs of what the registries say. Mutable; one user at a time."""

    def __init__(
        self,
        registries: Sequence[str],
        *,
        priorities: Sequence[float] | None = None,
        allocator: Allocator | None = None,
        unallocated: Iterable[str] = (),
    ) -> None:
        """``registries``: their names, the most trusted first. ``priorities``: theirs, by default
        all the same. ``unallocated``: registries whose services are given no address."""
        levels = [0.0] * len(registries) if priorities is None else list(priorities)
        ranked = sorted(range(len(registries)), key=lambda i: levels[i])
        self.catalog = EMPTY
        self._names = [registries[i] for i in ranked]
        self._order: dict[str, int] = {name: i for i, name in enumerate(self._names)}
        self._level = [levels[i] for i in ranked]
        self._one_level = len(set(levels)) < 2
        self._said: list[dict[str, Service]] = [{} for _ in registries]
        self._rejected: list[dict[str, tuple[Problem, ...]]] = [{} for _ in registries]
        self._rank: dict[str, int] = {}
        """For each service the first registry that has it."""
        self._claims: dict[Socket, list[tuple[int, str]]] = {}
        """Who wants an address and port, best claim first."""
        self._allocator = allocator
        self._gets_vips = [name not in set(unallocated) for name in self._names]
        self._known: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        """For each service the registries that have it, and those whose endpoints are in use."""
        self._alone = [0] * len(registries)
        self._used = [0] * len(registries)

    def services_of(self, registry: str) -> dict[str, Service]:
        """What this registry has said, by name. Read only; changes with the next apply."""
        return self._said[self._order[registry]]

    def problems_of(self, registry: str) -> Iterator[Problem]:
        """Parts of this registry's services that can never work and were left out."""
        for problems in self._rejected[self._order[registry]].values():
            yield from problems

    def registries_of(self, name: str) -> tuple[str, ...]:
        """The registries that have this service, the first one names its addresses and ports."""
        return tuple(self._names[i] for i in self._known.get(name, ((), ()))[0])

    def alone(self, registry: str) -> int:
        """Services that no other registry has."""
        return self._alone[self._order[registry]]

    def used(self, registry: str) -> int:
        """Services whose endpoints of this registry are in use."""
        return self._used[self._order[registry]]

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
        if self._allocator is not None:
            self._settle(touched, self._allocator)
        if work:
            yield work
        return (yield from self._merge(touched))

    def _merge(self, touched: Iterable[str]) -> Steps:
        draft = Draft(self.catalog)
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
        chosen = found if self._one_level or len(found) < 2 else self._chosen(found)
        self._account(name, tuple(i for i, _ in found), tuple(i for i, _ in chosen))
        if not found:
            return None, -1
        rank, service = found[0]
        if len(chosen) > 1:
            endpoints: dict[tuple[str, int, str], Endpoint] = {}
            for _, one in chosen:
                for endpoint in one.endpoints:
                    endpoints.setdefault(endpoint.key, endpoint)
            service = msgspec.structs.replace(service, endpoints=tuple(endpoints.values()))
        elif chosen[0][0] != rank:
            service = msgspec.structs.replace(service, endpoints=chosen[0][1].endpoints)
        if self._allocator is not None and self._needs_vips(service, rank):
            service = msgspec.structs.replace(service, vips=self._allocator.assign(name))
        return service, rank

    def _chosen(self, found: list[tuple[int, Service]]) -> list[tuple[int, Service]]:
        """The registries of one priority whose endpoints are in use. While none has an endpoint
        that may take traffic, the first that has any at all."""
        levels = [
            list(group) for _, group in itertools.groupby(found, lambda one: self._level[one[0]])
        ]
        for level in levels:
            if any(usable(endpoint) for _, service in level for endpoint in service.endpoints):
                return level
        return next((level for level in levels if any(s.endpoints for _, s in level)), levels[0])

    def _account(self, name: str, known: tuple[int, ...], used: tuple[int, ...]) -> None:
        before = self._known.get(name, ((), ()))
        if (known, used) == before:
            return
        for (has, serves), sign in ((before, -1), ((known, used), 1)):
            real = [i for i in has if self._names[i] != DEFAULTS]
            if len(real) == 1:
                self._alone[real[0]] += sign
            for i in serves:
                self._used[i] += sign
        if known:
            self._known[name] = (known, used)
        else:
            del self._known[name]

    # --- given addresses ---

    def _needs_vips(self, service: Service, rank: int) -> bool:
        return not service.vips and bool(service.ports) and self._gets_vips[rank]

    def _settle(self, touched: dict[str, None], allocator: Allocator) -> None:
        """Tell the allocator which addresses the registries have for the services in ``touched``,
        and add those that have lost theirs by that, or may get one now."""
        for name in tuple(touched):
            found = next(
                ((i, said[name]) for i, said in enumerate(self._said) if name in said), None
            )
            own = found[1].vips if found is not None else ()
            touched.update(dict.fromkeys(allocator.claim(name, own)))
            if found is None or not self._needs_vips(found[1], found[0]):
                allocator.release(name)
        if allocator.waiting and allocator.room:
            touched.update(dict.fromkeys(itertools.islice(allocator.waiting, RETRIES)))

    # --- claims ---

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
