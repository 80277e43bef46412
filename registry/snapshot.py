"""One immutable state of all services, and the draft of the next one.

The maps inside are hash tries (``immutables.Map``): the next catalog shares everything with the
last one but what changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from immutables import Map

from registry.address import canonical
from registry.base import Problem
from registry.model import Port, Service

__all__ = ["EMPTY", "STEP", "Catalog", "Change", "Draft", "Socket"]

Socket = tuple[str, int]
"""A canonical address and a port."""

STEP: Final = 256
"""Units of work (about one endpoint each) between two yields of a step generator."""


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


class Draft:
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
