"""What an operator makes of a registry's services before they are merged with the others.

The keys of :class:`Composition` may stand in the entry of any registry. Services go through them
one by one, in this order: label filters, port, locality, name. Only services that changed go
through, so the cost is that of the change. What a registry itself has said is kept under its own
names (:attr:`Transform.raw`): that is what a whole answer is compared with, and what is saved on
disk, so that other settings do not make a saved state useless.
"""

from __future__ import annotations

import bisect
import re
import string
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Literal, Self

import msgspec

from registry.address import split_host_port
from registry.base import Problem
from registry.model import Endpoint, Locality, Service, qualified_name
from registry.naming import ServiceName, dressed

__all__ = ["Composition", "LabelFilter", "Rename", "Transform", "Zone", "defaults"]

_NAME: Final = re.compile(r"[^/\s]+/[^/\s]+")


class Rename(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule for names. The first rule that matches a service names it."""

    to: Annotated[str, msgspec.Meta(min_length=3)]
    """The new name, ``namespace/name``. ``{namespace}`` and ``{name}`` stand for the parts of the
    old one, ``{1}`` for the first wildcard or group, ``{word}`` for a group with a name."""
    match: str = ""
    """Pattern for the whole old name, ``namespace/name``: ``*`` is any text without ``/``, ``?``
    any one character but ``/``."""
    regex: str = ""
    """In place of ``match``: a regular expression for the whole old name."""

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if bool(self.match) == bool(self.regex):
            raise ValueError("a rule has either match or regex")
        pattern = self.pattern()
        literal = ""
        for text, field, spec, conversion in self._template():
            literal += text
            if field is None:
                continue
            if spec or conversion or not _known(field, pattern):
                raise ValueError(f"to: {{{field}}} is not a part of the name, nor a group")
            literal += "x"
        if not _NAME.fullmatch(literal):
            raise ValueError(f"to: {self.to!r} does not make namespace/name")

    def pattern(self) -> re.Pattern[str]:
        """Raises ValueError."""
        text = self.regex or _glob(self.match)
        try:
            return re.compile(text)
        except re.error as error:
            raise ValueError(f"regex: {error}") from None

    def made(self, name: str, found: re.Match[str]) -> str:
        """The new name of ``name``, which ``found`` matches; it may be unusable."""
        namespace, _, rest = name.partition("/")
        out = ""
        for text, field, _, _ in self._template():
            out += text
            if field == "namespace":
                out += namespace
            elif field == "name":
                out += rest
            elif field is not None:
                out += found.group(int(field) if field.isdecimal() else field) or ""
        return out

    def _template(self) -> Iterable[tuple[str, str | None, str | None, str | None]]:
        return string.Formatter().parse(self.to)


def _known(field: str, pattern: re.Pattern[str]) -> bool:
    if field in ("namespace", "name") or field in pattern.groupindex:
        return True
    return field.isascii() and field.isdecimal() and 1 <= int(field) <= pattern.groups


def _glob(text: str) -> str:
    parts = re.split(r"([*?])", text)
    return "".join({"*": "([^/]*)", "?": "([^/])"}.get(part, re.escape(part)) for part in parts)


class LabelFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"not_": "not"}):
    """One condition; what does not meet all of them is left out."""

    label: Annotated[str, msgspec.Meta(min_length=1)]
    """Name of the label. An endpoint that has none of this name has that of its service."""
    value: str | None = None
    """The label has this value. Without ``value`` and ``values``: the label is there."""
    values: tuple[str, ...] = ()
    """The label has one of these values."""
    not_: bool = False
    """The other way round: pass what does not meet the condition, and what has no such label."""
    on: Literal["endpoint", "service"] = "endpoint"
    """What is left out: an endpoint, or the service as a whole by its own labels."""

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if self.value is not None and self.values:
            raise ValueError("a condition has either value or values")

    def passes(self, labels: dict[str, str]) -> bool:
        found = labels.get(self.label)
        wanted = self.values if self.value is None else (self.value,)
        met = found is not None and (not wanted or found in wanted)
        return met != self.not_


class Zone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where endpoints are whose registry does not say it."""

    region: str = ""
    """For endpoints without a region."""
    zone: str = ""
    """For endpoints without a zone, unless they are in another region."""


class _Socket(str):
    """``10.0.0.9:80`` or ``[2001:db8::9]:80``, canonical."""

    __slots__ = ()

    @classmethod
    def convert(cls, value: object) -> Self:
        """Raises ValueError."""
        if not isinstance(value, str):
            raise ValueError("expected ADDRESS:PORT, such as 10.0.0.9:80")
        address, port = split_host_port(value)
        return cls(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")


class Composition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys of a registry's entry that say how it goes together with the others."""

    priority: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    """The lower, the more trusted. Endpoints of a service are taken from registries of one
    priority only: the lowest with an endpoint of that service that may take traffic."""
    only: tuple[LabelFilter, ...] = ()
    """Conditions on labels; what does not meet all of them is left out."""
    port_override: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    """The port of every endpoint, whatever the registry says."""
    locality: Zone = Zone()
    """Region and zone of endpoints that have none."""
    rename: tuple[Rename, ...] = ()
    """Rules for the names of services; the first that matches counts."""
    default_endpoints: dict[ServiceName, tuple[_Socket, ...]] = {}
    """Endpoints of services, by the name that a service has in the end; in use while no registry
    has one that may take traffic."""
    allocate_vips: bool = True
    """Services without a virtual address get one of ``vips``, where that is configured."""


def shaped(service: Service, options: Composition) -> Service | None:
    """``service`` after all but its name; None if it is left out."""
    own = dict(service.labels)
    if not all(f.passes(own) for f in options.only if f.on == "service"):
        return None
    endpoints = service.endpoints
    filters = [f for f in options.only if f.on == "endpoint"]
    if filters:
        endpoints = tuple(
            e for e in endpoints if _passes(filters, {**own, **dict(e.labels)} if e.labels else own)
        )
    port, place = options.port_override, options.locality
    if port is not None or place.region or place.zone:
        endpoints = tuple(_placed(e, port or e.port, place) for e in endpoints)
    if len(endpoints) == len(service.endpoints) and all(map(_same, endpoints, service.endpoints)):
        return service
    return msgspec.structs.replace(service, endpoints=endpoints)


def _same(one: object, other: object) -> bool:
    return one is other


def _passes(filters: list[LabelFilter], labels: dict[str, str]) -> bool:
    return all(f.passes(labels) for f in filters)


def _placed(endpoint: Endpoint, port: int, place: Zone) -> Endpoint:
    known = endpoint.locality
    region = known.region or place.region
    near = not place.region or region == place.region
    zone = known.zone or (place.zone if near else "")
    locality = known
    if (region, zone) != (known.region, known.zone):
        locality = Locality(region, zone, known.node)
    if locality is known and port == endpoint.port:
        return endpoint
    return msgspec.structs.replace(endpoint, port=port, locality=locality)


class Transform:
    """One registry's services: what it says, and what becomes of that."""

    def __init__(self, options: Composition) -> None:
        self.options = options
        self.raw: dict[str, Service] = {}
        """What the registry has said, under its own names."""
        self._idle = not (
            options.only
            or options.rename
            or options.port_override
            or options.locality.region
            or options.locality.zone
        )
        self._rules: list[tuple[re.Pattern[str], Rename]] = [
            (rule.pattern(), rule) for rule in options.rename
        ]
        self._claims: dict[str, list[str]] = {}
        """For each new name the old ones that lead to it, sorted: the first has it."""
        self._lost: dict[str, Problem] = {}
        """By old name: why it has no new one."""
        self._contested: dict[str, None] = {}
        self._displaced = 0

    @property
    def troubles(self) -> int:
        """How many problems there are."""
        return len(self._lost) + self._displaced

    def apply(
        self, upserts: Iterable[Service], removals: Iterable[str]
    ) -> tuple[list[Service], list[str]]:
        """What the registry's changes (removals first) mean for the merged names."""
        upserts = list(upserts)
        removals = list(removals)
        before = {name: self.raw.pop(name, None) for name in removals}
        for service in upserts:
            self.raw[service.name] = service
        if self._idle:
            return upserts, removals
        dirty: dict[str, None] = {}
        made: dict[str, Service | None] = {}
        for name in (*before, *(service.name for service in upserts)):
            self._lost.pop(name, None)
            target = self.renamed(name)
            if target is None:
                if name in self.raw:
                    message = "the rules of rename make no usable name of this one"
                    self._lost[name] = Problem(message, self.raw[name].origin, 0, name)
                continue
            there = self.raw.get(name)
            made[name] = shaped(there, self.options) if there is not None else None
            self._claim(target, name, made[name] is not None)
            dirty[target] = None
        out: list[Service] = []
        gone: list[str] = []
        for target in dirty:
            names = self._claims.get(target)
            if not names:
                gone.append(target)
                continue
            name = names[0]
            winner = made[name] if name in made else shaped(self.raw[name], self.options)
            if winner is None:
                raise AssertionError("only what is not left out claims a name")
            out.append(_named(winner, target))
        return out, gone

    def renamed(self, name: str) -> str | None:
        """The merged name of a service; None if the rules make no usable one."""
        for pattern, rule in self._rules:
            found = pattern.fullmatch(name)
            if found is not None:
                target = rule.made(name, found)
                return target if _NAME.fullmatch(target) else None
        return name

    def problems(self) -> Iterator[Problem]:
        """Services that are left out because of their names."""
        yield from self._lost.values()
        for target in self._contested:
            first, *others = self._claims[target]
            for name in others:
                yield Problem(
                    f"by the rules of rename it would be {target}, which {first} is already",
                    self.raw[name].origin,
                    0,
                    name,
                )

    def _claim(self, target: str, name: str, wanted: bool) -> None:
        names = self._claims.setdefault(target, [])
        self._displaced -= max(0, len(names) - 1)
        at = bisect.bisect_left(names, name)
        there = at < len(names) and names[at] == name
        if wanted and not there:
            names.insert(at, name)
        elif there and not wanted:
            del names[at]
        self._displaced += max(0, len(names) - 1)
        if not names:
            del self._claims[target]
        if len(names) > 1:
            self._contested[target] = None
        else:
            self._contested.pop(target, None)


def _named(service: Service, name: str) -> Service:
    return service if service.name == name else msgspec.structs.replace(service, name=name)


def defaults(entries: Iterable[Composition]) -> list[Service]:
    """The services of all ``default_endpoints``."""
    found: dict[str, dict[Any, Endpoint]] = {}
    for entry in entries:
        for name, sockets in entry.default_endpoints.items():
            endpoints = found.setdefault(qualified_name(name), {})
            for socket in sockets:
                endpoint = Endpoint(*split_host_port(socket))
                endpoints.setdefault(endpoint.key, endpoint)
    return [
        dressed(name, tuple(endpoints.values()), origin="default_endpoints")
        for name, endpoints in found.items()
    ]
