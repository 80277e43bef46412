"""The back end ``dns``.

A task for each name asks, publishes, and sleeps until the TTL is over. That a name does not exist
or has no such records is an answer: there is no such service. That nobody answers is none: the
service stays as it was, and only when no name at all is answered has the registry failed.
"""

from __future__ import annotations

from typing import ClassVar, Final

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver
import trio

from registry.base import Context, Problem, RegistryError, Sink
from registry.board import Board, Part, together
from registry.dns.exchange import Exchange, Failure
from registry.dns.options import DnsService, Options, nameserver
from registry.dns.records import Addresses, Srv, addresses, by_priority, shares, srvs
from registry.model import Endpoint, qualified_name
from registry.naming import ServiceSettings, endpoint_address

__all__ = ["DnsBackend", "Options"]

RETRY: Final = 5.0
"""Seconds after which a name that nobody answered is asked again."""
RESOLV_CONF: Final = "/etc/resolv.conf"
_KINDS: Final = {"ipv4": dns.rdatatype.A, "ipv6": dns.rdatatype.AAAA}
_FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "ipv4": ("ipv4",),
    "ipv6": ("ipv6",),
    "prefer-ipv4": ("ipv4", "ipv6"),
    "prefer-ipv6": ("ipv6", "ipv4"),
    "both": ("ipv4", "ipv6"),
}
Key = tuple[str, str]
"""Service and DNS name."""


class DnsBackend:
    """See the module's text."""

    kind: ClassVar[str] = "dns"
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options, context: Context) -> None:
        """Raises ValueError."""
        if not 0.1 <= options.min_ttl <= options.max_ttl:
            raise ValueError("min_ttl must be 100ms or more, and not above max_ttl")
        if not 0.05 <= options.timeout <= 30:
            raise ValueError("timeout must be 50ms to 30s")
        self._options = options
        self._mark = context.mark
        self.resolv_conf = RESOLV_CONF
        self._services: dict[Key, DnsService] = {}
        self._settings: dict[str, ServiceSettings] = {}
        self._candidates: dict[Key, list[dns.name.Name]] = {}
        for name, service in options.services.items():
            full = qualified_name(name, options.namespace)
            self._settings[full] = ServiceSettings(service.vips, service.ports, service.protocol)
            for text in service.names:
                self._services[full, text] = service
                self._candidates[full, text] = _complete(text, options.search)

    async def run(self, sink: Sink) -> None:
        """See :class:`registry.base.Backend`."""
        servers = [nameserver(text) for text in self._options.nameservers]
        if not servers:
            servers = await trio.to_thread.run_sync(_system_servers, self.resolv_conf)
        options = self._options
        exchange = Exchange(
            servers,
            mark=self._mark,
            timeout=options.timeout,
            tries=options.tries,
            tcp=options.tcp,
        )
        board = Board(sink, self._settings)
        board.follow({key: key[0] for key in self._services})
        names = _Names(self, exchange, board)
        async with together() as nursery:
            nursery.start_soon(board.run)
            for key in self._services:
                nursery.start_soon(names.follow, key)


class _Names:
    """All names. One for each run."""

    def __init__(self, backend: DnsBackend, exchange: Exchange, board: Board) -> None:
        self._backend = backend
        self._options = backend._options
        self._exchange = exchange
        self._board = board
        self._limit = trio.CapacityLimiter(self._options.max_queries)
        self._failing: dict[Key, str] = {}
        """Names without an answer at their last turn, and why."""
        self._targets: dict[dns.name.Name, tuple[str, ...]] = {}
        """The last known addresses of SRV targets."""

    async def follow(self, key: Key) -> None:
        """Until cancelled. Raises RegistryError when no name is answered any more."""
        options = self._options
        while True:
            async with self._limit:
                try:
                    ttl, exists = await self._turn(key)
                except (Failure, dns.exception.DNSException) as error:
                    self._fail(key, str(error) or type(error).__name__)
                    wait = pause(options, RETRY, exists=False)
                else:
                    self._failing.pop(key, None)
                    wait = pause(options, ttl, exists=exists)
            await trio.sleep(wait)

    def _fail(self, key: Key, message: str) -> None:
        self._failing[key] = message
        if len(self._failing) == len(self._backend._services):
            raise RegistryError(f"no name is answered: {message}")
        self._board.unreadable(key, [Problem(message, f"dns {key[1]}")])

    async def _turn(self, key: Key) -> tuple[float, bool]:
        """Ask and tell; the TTL, and whether there is anything. Raises Failure, DNSException."""
        service = self._backend._services[key]
        ttl = float("inf")
        for name in self._backend._candidates[key]:
            problems: list[Problem] = []
            if service.is_srv(key[1]):
                endpoints, exists, life = await self._srv(key, name, problems)
            else:
                assert service.port is not None
                found = await self._addresses(name)
                exists, life = found.exists, float(found.ttl)
                endpoints = [
                    Endpoint(address, service.port)
                    for address in self._usable(key, name, found.found, problems)
                ]
            ttl = min(ttl, life)
            if exists:
                break
        if endpoints:
            part = Part(key[0], tuple(endpoints), origin=f"dns {key[1]}")
            self._board.answer(key, part, problems)
        elif problems:
            self._board.unreadable(key, problems)
        else:
            self._board.answer(key, None)
        return ttl, bool(endpoints)

    async def _srv(
        self, key: Key, name: dns.name.Name, problems: list[Problem]
    ) -> tuple[list[Endpoint], bool, float]:
        """Endpoints, whether the name exists, and the TTL. Raises Failure, DNSException."""
        said = srvs(await self._exchange.ask(name, dns.rdatatype.SRV))
        ttl = said.ttl
        for group in by_priority(said.found):
            endpoints = []
            weights = shares([srv.weight for srv in group])
            for srv, weight in zip(group, weights, strict=True):
                if srv.port == 0:
                    problems.append(Problem(f"{srv.target} has no port", f"dns {key[1]}"))
                    continue
                target = await self._target(key, srv, said.additional, problems)
                ttl = min(ttl, target.ttl)
                usable = self._usable(key, srv.target, target.found, problems)
                endpoints += [Endpoint(address, srv.port, weight=weight) for address in usable]
            if endpoints:
                return endpoints, True, ttl
        return [], said.exists, ttl

    async def _target(
        self,
        key: Key,
        srv: Srv,
        additional: dict[dns.name.Name, tuple[str, ...]],
        problems: list[Problem],
    ) -> Addresses:
        """The addresses of a target: those that came along, else those that are asked for; if
        nobody answers those of before."""
        along = _chosen(additional.get(srv.target, ()), self._options.families)
        if along:
            self._targets[srv.target] = along
            return Addresses(along, 1 << 31)
        try:
            found = await self._addresses(srv.target)
        except (Failure, dns.exception.DNSException) as error:
            problems.append(Problem(str(error), f"dns {key[1]}"))
            return Addresses(self._targets.get(srv.target, ()), int(RETRY))
        if not found.found:
            problems.append(Problem(f"the target {srv.target} has no address", f"dns {key[1]}"))
        self._targets[srv.target] = found.found
        return found

    async def _addresses(self, name: dns.name.Name) -> Addresses:
        """As the families say. Raises Failure, DNSException."""
        found: tuple[str, ...] = ()
        ttl, exists = 1 << 31, False
        for family in _FAMILIES[self._options.families]:
            said = addresses(await self._exchange.ask(name, _KINDS[family]))
            if said.found or not found:
                ttl = min(ttl, said.ttl)
            found += said.found
            exists |= said.exists
            if not said.exists or (found and self._options.families.startswith("prefer")):
                break
        return Addresses(found, ttl, exists)

    def _usable(
        self,
        key: Key,
        name: dns.name.Name,
        found: tuple[str, ...],
        problems: list[Problem],
    ) -> list[str]:
        usable = []
        for text in found:
            try:
                usable.append(endpoint_address(text, loopback=self._options.allow_loopback))
            except ValueError as error:
                problems.append(Problem(f"{name}: {error}", f"dns {key[1]}"))
        return usable


def pause(options: Options, ttl: float, *, exists: bool) -> float:
    """Seconds until a name is asked again whose answer holds for ``ttl`` seconds."""
    top = options.max_ttl if exists else options.max_negative_ttl
    return max(options.min_ttl, min(ttl, top))


def _chosen(found: tuple[str, ...], families: str) -> tuple[str, ...]:
    """Of addresses of both families those that are wanted."""
    of = {
        "ipv4": tuple(a for a in found if ":" not in a),
        "ipv6": tuple(a for a in found if ":" in a),
    }
    wanted = [of[family] for family in _FAMILIES[families]]
    if families.startswith("prefer"):
        return wanted[0] or wanted[1]
    return tuple(address for part in wanted for address in part)


def _complete(text: str, search: tuple[str, ...]) -> list[dns.name.Name]:
    """The names to try. Raises ValueError."""
    texts = [text]
    if search and not text.endswith("."):
        texts = [f"{text}.{domain.strip('.')}" for domain in search]
    try:
        return [dns.name.from_text(name) for name in texts]
    except dns.exception.DNSException as error:
        raise ValueError(f"{text!r} is not a DNS name: {error}") from None


def _system_servers(path: str) -> list[tuple[str, int]]:
    """Of resolv.conf. Reads a file: call it in a thread. Raises RegistryError."""
    resolver = dns.resolver.Resolver(configure=False)
    try:
        resolver.read_resolv_conf(path)
    except (OSError, dns.exception.DNSException) as error:
        raise RegistryError(f"{path} names no nameserver: {error}") from None
    found = []
    for server in resolver.nameservers:
        try:
            found.append(nameserver(str(server)))
        except ValueError:
            continue  # an address with a scope: it means nothing without its interface
    if not found:
        raise RegistryError(f"{path} names no nameserver")
    return found
