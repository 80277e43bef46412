"""The compiled routes: what the data plane asks. Immutable; swapped by assignment.

Matching looks only at rules that can match: exact paths by one look-up, prefixes by one look-up
for each element of the path at which a prefix ends, and where many matches share a path, the one
header, parameter or method that most of them name. What is left of a match's conditions is then
tested in the order of precedence, by the same objects that :mod:`nodeproxy.core.routing.explain`
walks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from nodeproxy.core.http1 import RequestHead
from nodeproxy.core.routing.conditions import View
from nodeproxy.core.routing.groups import Candidate, Group, by_order
from nodeproxy.core.routing.paths import strip_port
from nodeproxy.core.routing.patterns import LONGEST, Pattern
from nodeproxy.core.routing.policies import NO_POLICY, EffectivePolicy
from nodeproxy.core.routing.rules import Backends, Decision

__all__ = [
    "NO_ROUTES",
    "HostRules",
    "HttpRules",
    "ListenerRules",
    "PortRules",
    "RouteTable",
    "ServiceRules",
    "SniRules",
    "TcpRule",
]


class HttpRules:
    """All rules of HTTPRoutes for one place: a service's port, or one hostname of a listener."""

    __slots__ = ("_exact", "_lengths", "_longest", "_patterns", "_prefixes", "candidates")

    def __init__(
        self,
        exact: dict[bytes, Decision | Group],
        patterns: tuple[tuple[Pattern, Decision | Group], ...],
        prefixes: dict[bytes, Decision | Group],
        lengths: frozenset[int],
        candidates: Sequence[Candidate],
    ) -> None:
        """``lengths``: of the prefixes. What is given belongs to the rules from now on."""
        self._exact: Final = exact
        self._patterns: Final = patterns
        self._prefixes: Final = prefixes
        self._lengths: Final = lengths
        self._longest: Final = max(self._lengths, default=-1)
        self.candidates: Final = candidates
        """All of them, in no order."""

    def match(self, head: RequestHead) -> Decision | None:
        """The rule that a request takes. None: no rule matches, the answer is 404."""
        path = head.path
        view: View | None = None
        found = self._exact.get(path)
        if found is not None:
            if found.__class__ is Decision:
                return found
            view = View(head)
            picked = found.pick(view)  # type: ignore[union-attr]
            if picked is not None:
                return picked
        if self._patterns and len(path) <= LONGEST:
            for pattern, found in self._patterns:
                if pattern.fullmatch(path) is not None:
                    if found.__class__ is Decision:
                        return found
                    view = view or View(head)
                    picked = found.pick(view)  # type: ignore[union-attr]
                    if picked is not None:
                        return picked
        longest = self._longest
        end = len(path)
        if end > longest:
            end = path.rfind(b"/", 0, longest + 1)
        lengths = self._lengths
        prefixes = self._prefixes
        while end >= 0:
            if end in lengths:
                found = prefixes.get(path[:end])
                if found is not None:
                    if found.__class__ is Decision:
                        return found
                    view = view or View(head)
                    picked = found.pick(view)  # type: ignore[union-attr]
                    if picked is not None:
                        return picked
            end = path.rfind(b"/", 0, end)
        return None

    def ordered(self) -> list[Candidate]:
        """Every match by precedence, for people."""
        return sorted(self.candidates, key=by_order)


NO_RULES: Final = HttpRules({}, (), {}, frozenset(), ())


class HostRules:
    """Rules of a listener by the hostnames of their routes: the longest hostname without
    wildcard goes first, then the longest with one, then routes without hostnames. A request
    that matches no rule of one goes on to the next."""

    __slots__ = ("exact", "other", "wildcards")

    def __init__(
        self, exact: dict[bytes, HttpRules], wildcards: dict[bytes, HttpRules], other: HttpRules
    ) -> None:
        self.exact: Final = exact
        self.wildcards: Final = wildcards
        """``.example.com`` -> rules of ``*.example.com``."""
        self.other: Final = other

    def match(self, head: RequestHead) -> Decision | None:
        for rules in self.of(strip_port(head.host)):
            decision = rules.match(head)
            if decision is not None:
                return decision
        return None

    def of(self, host: bytes) -> list[HttpRules]:
        """The rules for a host without port, in the order in which they are asked."""
        found: list[HttpRules] = []
        if host in self.exact:
            found.append(self.exact[host])
        if self.wildcards:
            found += [self.wildcards[s] for s in suffixes(host) if s in self.wildcards]
        found.append(self.other)
        return found


def suffixes(host: bytes) -> list[bytes]:
    """``a.b.c`` -> ``.b.c``, ``.c``: what a wildcard may stand before."""
    found: list[bytes] = []
    at = host.find(b".", 1)
    while at >= 0 and len(found) < 128:
        found.append(host[at:])
        at = host.find(b".", at + 1)
    return found


class TcpRule(msgspec.Struct, frozen=True, gc=False):
    """A rule of a TCPRoute or TLSRoute."""

    route: str
    """``TCPRoute shop/db``"""
    backends: Backends
    name: str = ""
    origin: str = ""

    @property
    def label(self) -> str:
        return self.name or self.route.partition(" ")[2]


class SniRules:
    """Rules of TLSRoutes by server name."""

    __slots__ = ("exact", "other", "wildcards")

    def __init__(
        self, exact: dict[bytes, TcpRule], wildcards: dict[bytes, TcpRule], other: TcpRule | None
    ) -> None:
        self.exact: Final = exact
        self.wildcards: Final = wildcards
        self.other: Final = other

    def match(self, server_name: bytes) -> TcpRule | None:
        """``server_name`` may be empty: the client sent none. None: the connection is reset."""
        name = server_name.lower()
        found = self.exact.get(name)
        if found is None and self.wildcards:
            for suffix in suffixes(name):
                if suffix in self.wildcards:
                    return self.wildcards[suffix]
        return found or self.other


class PortRules(msgspec.Struct, frozen=True, gc=False):
    """What applies to a service's port for one group of clients: one kind of route."""

    kind: str
    http: HttpRules | None = None
    tls: SniRules | None = None
    tcp: TcpRule | None = None


class ServiceRules(msgspec.Struct, frozen=True, gc=False):
    """All that is attached to one service."""

    ports: dict[int, dict[str, PortRules]]
    """Port -> clients' namespace (empty: all others) -> rules."""

    def find(self, port: int, client: str) -> PortRules | None:
        groups = self.ports.get(port)
        if groups is None:
            return None
        return (groups.get(client) if client else None) or groups.get("")


class ListenerRules(msgspec.Struct, frozen=True, gc=False):
    """A listener of a Gateway."""

    name: str
    port: int
    protocol: str
    hostname: str = ""
    http: HostRules | None = None
    tls: SniRules | None = None
    tcp: TcpRule | None = None
    certificates: tuple[str, ...] = ()
    """Absolute paths."""


class GatewayRules(msgspec.Struct, frozen=True, gc=False):
    """The listeners of a Gateway by port, the most specific hostname first."""

    name: str
    ports: dict[int, tuple[ListenerRules, ...]]

    def listener(self, port: int, host: bytes) -> ListenerRules | None:
        """The one listener that a request or handshake belongs to (listener isolation): that
        with the most specific hostname. ``host``: in lower case, with or without port."""
        name = strip_port(host)
        for each in self.ports.get(port, ()):
            if not each.hostname:
                return each
            pattern = each.hostname.encode()
            if pattern[:2] == b"*.":
                if name.endswith(pattern[1:]) and len(name) >= len(pattern):
                    return each
            elif name == pattern:
                return each
        return None


class RouteTable:
    """All routes of one generation, compiled."""

    __slots__ = ("gateways", "generation", "policies", "services")

    def __init__(
        self,
        services: dict[str, ServiceRules],
        gateways: dict[str, GatewayRules],
        policies: dict[str, dict[str, EffectivePolicy]],
        generation: int = 0,
    ) -> None:
        self.services: Final = services
        self.gateways: Final = gateways
        self.policies: Final = policies
        """Service -> port name or empty -> what policies for it say."""
        self.generation: Final = generation

    def find(self, service: str, port: int, client: str = "") -> PortRules | None:
        """The rules for a service's port as a client of the namespace ``client`` sees them
        (empty: not known, so consumer routes do not apply). None: no routes, the service's own
        endpoints take all."""
        found = self.services.get(service)
        return None if found is None else found.find(port, client)

    def policy(self, service: str, port_name: str = "") -> EffectivePolicy:
        """What policies for a service's port say."""
        found = self.policies.get(service)
        if found is None:
            return NO_POLICY
        return found.get(port_name) or found.get("", NO_POLICY)


NO_ROUTES: Final = RouteTable({}, {}, {})
