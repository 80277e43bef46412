"""All kinds of objects that route files may hold, and one object with where it stands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeVar

import msgspec

from nodeproxy.core.routing.gateway import Gateway, ReferenceGrant
from nodeproxy.core.routing.httproute import HTTPRoute
from nodeproxy.core.routing.otherroutes import GRPCRoute, TCPRoute, TLSRoute
from nodeproxy.core.routing.policyobjects import TrafficPolicy, XBackendTrafficPolicy
from nodeproxy.core.routing.schema import GATEWAY_GROUP, OUR_GROUP, X_GROUP
from registry.base import Problem

__all__ = [
    "GROUPS",
    "KINDS",
    "NOTHING",
    "Key",
    "Loaded",
    "Object",
    "Objects",
    "Route",
    "add",
    "make",
]

Route = HTTPRoute | TCPRoute | TLSRoute | GRPCRoute
Object = Route | Gateway | ReferenceGrant | XBackendTrafficPolicy | TrafficPolicy
T = TypeVar("T", bound=Object)

KINDS: Final[dict[str, type[Object]]] = {
    "GRPCRoute": GRPCRoute,
    "Gateway": Gateway,
    "HTTPRoute": HTTPRoute,
    "ReferenceGrant": ReferenceGrant,
    "TCPRoute": TCPRoute,
    "TLSRoute": TLSRoute,
    "TrafficPolicy": TrafficPolicy,
    "XBackendTrafficPolicy": XBackendTrafficPolicy,
}
GROUPS: Final = frozenset((GATEWAY_GROUP, X_GROUP, OUR_GROUP))


class Key(NamedTuple):
    """What one object is called."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Loaded(msgspec.Struct, frozen=True, gc=False):
    """An object, and on which line of which file its parts stand."""

    object: Object
    source: str = ""
    line: int = 0
    rule_lines: tuple[int, ...] = ()
    base_dir: str = ""
    """Absolute folder of the file: paths in the object are relative to it."""

    @property
    def key(self) -> Key:
        meta = self.object.metadata
        return Key(type(self.object).__name__, meta.namespace, meta.name)

    @property
    def origin(self) -> str:
        """``routes.yaml:12``"""
        return f"{self.source}:{self.line}" if self.line else self.source

    def rule_origin(self, index: int) -> str:
        if index < len(self.rule_lines):
            return f"{self.source}:{self.rule_lines[index]}"
        return self.origin

    def problem(self, message: str, field: str = "", rule: int = -1) -> Problem:
        """A problem with this object, or with one of its rules."""
        line = self.rule_lines[rule] if 0 <= rule < len(self.rule_lines) else self.line
        return Problem(f"{self.key}: {message}", self.source, line, field)


class Objects:
    """All objects of one generation, by kind. Immutable."""

    __slots__ = ("all", "by_key")

    def __init__(self, by_key: dict[Key, Loaded]) -> None:
        """See :func:`make`. The map is not changed any more."""
        self.by_key: Final = by_key
        self.all: Final = tuple(by_key.values())

    def of(self, kind: type[T]) -> list[tuple[Loaded, T]]:
        """The objects of one kind, in the order of their files."""
        name = kind.__name__
        found = [one for key, one in self.by_key.items() if key.kind == name]
        return [(one, one.object) for one in found if isinstance(one.object, kind)]

    def __len__(self) -> int:
        return len(self.all)


NOTHING: Final = Objects({})


def make(loaded: Iterable[Loaded]) -> tuple[Objects, list[Problem]]:
    """All objects, and a problem for each that stands twice."""
    by_key: dict[Key, Loaded] = {}
    problems = [p for one in loaded if (p := add(by_key, one)) is not None]
    return Objects(by_key), problems


def add(by_key: dict[Key, Loaded], one: Loaded) -> Problem | None:
    """Put one object to the others; of two with one name the first counts."""
    first = by_key.setdefault(one.key, one)
    if first is one:
        return None
    return one.problem(f"stands twice; the one at {first.origin} counts", "metadata.name")
