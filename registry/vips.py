"""Virtual addresses for services whose registry has none.

A service's place in a network follows from a hash of its name, so that nodes which never talk to
each other mostly give it the same address, and a node without its state gives it the same one
again. Where that place is taken, the next one of a sequence that the hash gives is tried. An
address once given stays with its name: what comes and goes besides it never moves it, and a name
that goes keeps its place for a while (HOLD) in case it comes back. It is moved for one reason
only: a registry says that the address belongs to another service.

Pure book-keeping; :mod:`registry.vipfile` keeps it on disk.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

__all__ = ["GRACE", "HOLD", "Allocator", "Given"]

HOLD: Final = 7 * 86400.0
"""Seconds that the place of a service that is gone is kept, if nobody else needs it."""
GRACE: Final = 600.0
"""Seconds after a restart in which nobody is given the place of a service that was there before."""


class Given(msgspec.Struct, frozen=True):
    """What is worth keeping over a restart."""

    addresses: dict[str, tuple[str, ...]]
    """By the service's name."""
    gone: dict[str, float] = {}
    """Since when (seconds since the epoch) a service is not there any more."""


class _Pool:
    """The addresses of one network."""

    def __init__(self, network: str) -> None:
        parsed = ipaddress.ip_network(network)
        self.network = str(parsed)
        self.version = parsed.version
        self.base = int(parsed.network_address)
        self.size = parsed.num_addresses
        # The first address of an IPv6 network is the routers' anycast address; the first and the
        # last of an IPv4 network are not for hosts.
        self.last = self.size - (2 if self.version == 4 else 1)
        if self.last < 1:
            raise ValueError(f"{network} has no room for virtual addresses")
        self.held: dict[int, str] = {}
        """Place -> the service that it was given to."""
        self.addresses: dict[str, str] = {}
        """Service -> its address, in text form."""
        self.claims: dict[int, set[str]] = {}
        """Place -> services whose registries say that it is theirs."""

    @property
    def free(self) -> int:
        """No place is both held and claimed."""
        return self.last - len(self.held) - len(self.claims)

    def place(self, address: str) -> int | None:
        """Where an address stands; None if it is not of this network, or not for services."""
        if (":" in address) != (self.version == 6):
            return None
        place = int(ipaddress.ip_address(address)) - self.base
        return place if 0 < place <= self.last else None

    def text(self, place: int) -> str:
        number = self.base + place
        made = ipaddress.IPv4Address if self.version == 4 else ipaddress.IPv6Address
        return str(made(number))

    def take(self, name: str, place: int) -> None:
        self.held[place] = name
        self.addresses[name] = self.text(place)

    def drop(self, name: str) -> int | None:
        """The place that it had."""
        address = self.addresses.pop(name, None)
        if address is None:
            return None
        place = self.place(address)
        if place is not None:
            del self.held[place]
        return place

    def find(self, name: str) -> int | None:
        """The first free place in the sequence of ``name``; None if there is none."""
        if self.free <= 0:
            return None
        digest = hashlib.sha256(f"{self.network}\0{name}".encode()).digest()
        place = int.from_bytes(digest[:16]) % self.size
        # Odd, and the size a power of two: the sequence comes to every place once.
        step = int.from_bytes(digest[16:]) % self.size | 1
        for _ in range(self.size):
            if 0 < place <= self.last and place not in self.held and place not in self.claims:
                return place
            place = (place + step) % self.size
        return None


class Allocator:
    """Gives addresses of some networks (at most one of each family) to names."""

    def __init__(self, networks: Sequence[str], *, clock: Callable[[], float]) -> None:
        """``clock``: seconds since the epoch. Raises ValueError."""
        self._pools = [_Pool(network) for network in networks]
        self._clock = clock
        self._own: dict[str, tuple[str, ...]] = {}
        self._gone: dict[str, float] = {}
        """Oldest first."""
        self._live: set[str] = set()
        self._expected: set[str] = set()
        """Services that were there before the restart and have not come back yet."""
        self._expected_until = 0.0
        self.waiting: dict[str, None] = {}
        """Services that lack an address because a network is full."""
        self.changes = 0
        """Grows whenever what has to be kept changes."""

    @property
    def networks(self) -> tuple[str, ...]:
        return tuple(pool.network for pool in self._pools)

    @property
    def given(self) -> int:
        """Services that have an address now."""
        return len(self._live)

    @property
    def capacity(self) -> int:
        """Services that can have an address of each network."""
        return min((pool.last for pool in self._pools), default=0)

    @property
    def kept(self) -> int:
        """Services that are gone and whose place is kept."""
        return len(self._gone)

    @property
    def room(self) -> bool:
        """Somebody who waits could be given an address now."""
        return bool(self._gone) or any(pool.free > 0 for pool in self._pools)

    def claim(self, name: str, addresses: Iterable[str]) -> list[str]:
        """Registries say that these addresses (all of them) belong to ``name``. The services that
        have lost theirs by that and need another one."""
        addresses = tuple(addresses)
        before = self._own.get(name, ())
        if addresses == before:
            return []
        if addresses:
            self._own[name] = addresses
        else:
            del self._own[name]
        moved: dict[str, None] = {}
        for pool in self._pools:
            for address in before:
                place = pool.place(address)
                if place is not None and address not in addresses and place in pool.claims:
                    pool.claims[place].discard(name)
                    if not pool.claims[place]:
                        del pool.claims[place]
            for address in addresses:
                place = pool.place(address)
                if place is None:
                    continue
                pool.claims.setdefault(place, set()).add(name)
                holder = pool.held.get(place)
                if holder is not None:
                    pool.drop(holder)
                    self.changes += 1
                    if holder not in self._gone:
                        moved[holder] = None
        moved.pop(name, None)
        return list(moved)

    def assign(self, name: str) -> tuple[str, ...]:
        """The addresses of ``name``: those that it has, else new ones. Fewer than there are
        networks where one is full; then ``name`` is among those who wait."""
        self._expire()
        self._expected.discard(name)
        if self._gone.pop(name, None) is not None:
            self.changes += 1
        found = []
        for pool in self._pools:
            address = pool.addresses.get(name)
            if address is None:
                place = pool.find(name)
                if place is None:
                    place = self._evict(pool)
                if place is None:
                    continue
                pool.take(name, place)
                address = pool.addresses[name]
                self.changes += 1
            found.append(address)
        if found:
            self._live.add(name)
        else:
            self._live.discard(name)
        if len(found) < len(self._pools):
            self.waiting[name] = None
        else:
            self.waiting.pop(name, None)
        return tuple(found)

    def release(self, name: str) -> None:
        """``name`` is gone or needs no address. Its place is kept for a while."""
        self.waiting.pop(name, None)
        self._live.discard(name)
        self._expected.discard(name)
        if name not in self._gone and any(name in pool.addresses for pool in self._pools):
            self._gone[name] = self._clock()
            self.changes += 1

    def keep(self) -> Callable[[], Given]:
        """What to save, as of now. The work on the copies is left to whoever calls the result,
        in another thread if need be."""
        pools, gone = [pool.addresses.copy() for pool in self._pools], self._gone.copy()

        def joined() -> Given:
            addresses: dict[str, tuple[str, ...]] = {}
            for pool in pools:
                for name, address in pool.items():
                    addresses[name] = (*addresses.get(name, ()), address)
            return Given(addresses, gone)

        return joined

    def restore(self, given: Given, now: float) -> None:
        """Take over what was saved, as far as it is of our networks. Before anything else."""
        # Whoever was there will most likely be back in a moment, and is gone until then.
        self._expected = given.addresses.keys() - given.gone.keys()
        self._expected_until = now + GRACE
        since = {name: min(now, given.gone.get(name, now)) for name in given.addresses}
        for name in sorted(since, key=lambda name: (since[name], name)):
            for pool in self._pools:
                for address in given.addresses[name]:
                    place = _place(pool, address)
                    if place is None or place in pool.held or name in pool.addresses:
                        continue
                    pool.take(name, place)
                    self._gone[name] = since[name]

    def _expire(self) -> None:
        until = self._clock() - HOLD
        while self._gone:
            name = next(iter(self._gone))
            if self._gone[name] > until:
                return
            self._forget(name)

    def _evict(self, pool: _Pool) -> int | None:
        """The place of the service that is gone the longest."""
        if self._clock() > self._expected_until:
            self._expected.clear()
        for name in self._gone:
            if name in pool.addresses and name not in self._expected:
                place = pool.drop(name)
                self._forget(name)
                return place
        return None

    def _forget(self, name: str) -> None:
        self._gone.pop(name, None)
        for pool in self._pools:
            pool.drop(name)
        self.changes += 1


def _place(pool: _Pool, address: str) -> int | None:
    try:
        return pool.place(address)
    except ValueError:
        return None
