"""What a layout is, and what one key says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from registry.address import canonical
from registry.base import Problem
from registry.model import Endpoint, Protocol

__all__ = [
    "MAIN",
    "Entry",
    "Layout",
    "Parts",
    "Unusable",
    "address_of",
    "excerpt",
    "json_value",
    "labels_of",
    "name_of",
    "port_of",
    "weighed",
    "weight_of",
]

MAIN: Final = "main"
"""The port name of the endpoint that an instance is for, in layouts where an instance may have
further, named ones. A service none of whose instances has any does not use it."""
MAX_WEIGHT: Final = 65535
_PART: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
"""As in the file registry."""

T = TypeVar("T")
Parts = Sequence[str]
"""A key's path below the prefix, split at the slashes."""


class Unusable(ValueError):
    """A key or its value says nothing that can be used. The message says why, for people."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What one key says of its service."""

    endpoints: tuple[Endpoint, ...] = ()
    """A port of 0 stands for each port of the service. Weights are in ``weight``."""
    weight: float | None = None
    """None: not said."""
    priority: int = 0
    """Endpoints of a higher number are used only while there are none of a lower one."""
    protocol: Protocol = ""
    """How the main port speaks, as far as the key tells."""
    more: Any = None
    """What only the layout itself understands, for :meth:`Layout.join`."""


class Layout:
    """One convention. Subclasses are stateless; all methods are pure."""

    kind: ClassVar[str]
    prefix: ClassVar[str] = ""
    """Where the convention's writers put it by default."""
    unset_weight: ClassVar[float] = 1
    """The weight of an entry that names none beside others that do."""

    def service(self, parts: Parts) -> str | None:
        """``name`` or ``namespace/name`` of the service that the key is about; None for keys that
        are in order but not about endpoints. Raises Unusable."""
        raise NotImplementedError

    def decode(self, parts: Parts, value: bytes) -> Entry | None:
        """What the key says; None where it is in order but has no endpoint. Raises Unusable."""
        raise NotImplementedError

    def join(self, entries: Mapping[str, Entry]) -> list[tuple[Endpoint, Protocol]]:
        """The endpoints of a service and how they speak, from its entries by key, which are in
        the order of the keys."""
        return weighed(entries.values(), self.unset_weight)

    def read(self, source: str, parts: Parts, value: bytes) -> Entry | Problem | None:
        """:meth:`decode`, with what is wrong as a value."""
        try:
            return self.decode(parts, value)
        except Unusable as error:
            return Problem(str(error), source)


def weighed(entries: Iterable[Entry], unset: float) -> list[tuple[Endpoint, Protocol]]:
    """Only the endpoints of the lowest priority number, with weights."""
    entries = [entry for entry in entries if entry.endpoints]
    if not entries:
        return []
    best = min(entry.priority for entry in entries)
    entries = [entry for entry in entries if entry.priority == best]
    if all(entry.weight is None for entry in entries):
        return [(e, entry.protocol) for entry in entries for e in entry.endpoints]
    weights = integers([unset if entry.weight is None else entry.weight for entry in entries])
    return [
        (e if weight == 1 else msgspec.structs.replace(e, weight=weight), entry.protocol)
        for entry, weight in zip(entries, weights, strict=True)
        for e in entry.endpoints
    ]


def integers(weights: Sequence[float]) -> list[int]:
    """Shares as the model has them. Whole numbers in range stay as they are; fractions are scaled
    to hundredths; what is too large is scaled down. A weight above 0 stays above 0."""
    top = max(weights)
    scale = 1.0 if all(w == int(w) for w in weights) else 100.0
    if top * scale > MAX_WEIGHT:
        scale = MAX_WEIGHT / top
    return [max(1, round(w * scale)) if w > 0 else 0 for w in weights]


def json_value(value: bytes, type_: type[T]) -> T:
    """``value`` as JSON; texts that are numbers count as numbers. Raises Unusable."""
    try:
        return msgspec.json.decode(value, type=type_, strict=False)
    except msgspec.ValidationError as error:
        raise Unusable(f"its JSON is not of this layout: {error}") from None
    except (msgspec.DecodeError, ValueError):
        raise Unusable(f"the value is not JSON: {excerpt(value)}") from None
    except RecursionError:
        raise Unusable("the value is JSON of too many levels") from None


def excerpt(value: bytes) -> str:
    """The beginning of a value, for messages."""
    text = value[:40].decode("utf-8", "replace")
    return repr(text) + ("..." if len(value) > 40 else "")


def address_of(host: str) -> str:
    """Canonical. Raises Unusable for a name."""
    try:
        return canonical(host)
    except ValueError:
        if not host:
            raise Unusable("it has no address") from None
        raise Unusable(f"{host[:253]!r} is not an IP address (names are not resolved)") from None


def port_of(port: int) -> int:
    """Raises Unusable."""
    if not 1 <= port <= 65535:
        raise Unusable(f"{port} is not a port")
    return port


def weight_of(weight: float | None) -> float | None:
    """Raises Unusable for what is no share."""
    if weight is not None and not 0 <= weight <= 1e9:
        raise Unusable(f"{weight} is not a weight")
    return weight


def name_of(parts: Parts) -> str:
    """``["web"]`` -> ``web``, ``["prod", "eu", "web"]`` -> ``prod.eu/web``. Raises Unusable."""
    for part in parts:
        if not _PART.fullmatch(part):
            raise Unusable(f"{part[:253]!r} cannot be part of a service's name")
    if not parts:
        raise Unusable("the key names no service: the prefix is too long")
    name = parts[-1]
    return f"{'.'.join(parts[:-1])}/{name}" if len(parts) > 1 else name


def labels_of(values: object) -> tuple[tuple[str, str], ...]:
    """The scalars of a JSON object, as labels."""
    if not isinstance(values, dict):
        return ()
    found = {}
    for key, value in values.items():
        if isinstance(value, bool):
            found[str(key)] = "true" if value else "false"
        elif isinstance(value, str | int | float):
            found[str(key)] = str(value)
    return tuple(sorted(found.items()))
