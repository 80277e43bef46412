"""Finagle's and Aurora's server sets: ``<path>/member_0000000012``.

``{"serviceEndpoint":{"host":"10.0.0.1","port":31943},"additionalEndpoints":{"http":{...}},
"shard":0,"status":"ALIVE"}``. Only ALIVE members count. Nodes ``vector_*`` hold factors for the
weights of members: ``{"vector":[{"select":"member=member_0000000012","weight":0.5}]}``;
``select`` is ``member=NODE``, ``shard=N`` or ``inet=HOST:PORT``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from registry.layouts.entry import (
    MAIN,
    Entry,
    Layout,
    Parts,
    Unusable,
    address_of,
    json_value,
    name_of,
    port_of,
    weighed,
)
from registry.layouts.grpc import endpoint_of
from registry.model import Endpoint, Protocol

__all__ = ["Serverset"]


class _Address(msgspec.Struct):
    host: str
    port: int


class _Member(msgspec.Struct, rename="camel"):
    service_endpoint: _Address | None = None
    additional_endpoints: dict[str, _Address] | None = None
    shard: int | None = None
    status: str = ""


class _Descriptor(msgspec.Struct):
    select: str = ""
    weight: float = 1.0


class _Vector(msgspec.Struct):
    vector: list[_Descriptor] = []


class _Who(msgspec.Struct, frozen=True, gc=False):
    """What vectors select a member by."""

    member: str
    shard: int | None


class Serverset(Layout):
    """See the module's text."""

    kind = "serverset"
    prefix = "/aurora/*/*/*"

    def service(self, parts: Parts) -> str | None:
        if not parts[-1].startswith(("member_", "vector_")):
            return None
        return name_of(parts[:-1])

    def decode(self, parts: Parts, value: bytes) -> Entry | None:
        if parts[-1].startswith("vector_"):
            return Entry(more=_factors(json_value(value, _Vector)))
        member = json_value(value, _Member)
        endpoints = []
        if member.status == "ALIVE":
            if member.service_endpoint is not None:
                endpoints.append(_endpoint(member.service_endpoint, MAIN))
            for name, where in sorted((member.additional_endpoints or {}).items()):
                endpoints.append(_endpoint(where, name))
        return Entry(tuple(endpoints), more=_Who(parts[-1], member.shard))

    def join(self, entries: Mapping[str, Entry]) -> list[tuple[Endpoint, Protocol]]:
        factors: dict[str, float] = {}
        for entry in entries.values():
            if isinstance(entry.more, tuple):
                for select, factor in entry.more:
                    factors[select] = factors.get(select, 1.0) * factor
        members = [entry for entry in entries.values() if entry.endpoints]
        if not factors:
            return weighed(members, 1)
        return weighed([single for entry in members for single in _single(entry, factors)], 1)


def _factors(vector: _Vector) -> tuple[tuple[str, float], ...]:
    found = []
    for descriptor in vector.vector:
        kind, _, what = descriptor.select.partition("=")
        if kind not in ("member", "shard", "inet"):
            continue
        if not (math.isfinite(descriptor.weight) and 0 <= descriptor.weight <= 1e6):
            raise Unusable(f"{descriptor.weight} is not a weight")
        if kind == "inet":
            where = endpoint_of(what)
            what = f"{where.address} {where.port}"
        found.append((f"{kind}={what}", descriptor.weight))
    return tuple(found)


def _single(entry: Entry, factors: Mapping[str, float]) -> Iterable[Entry]:
    """One entry for each endpoint: ``inet`` selects them one by one."""
    who: _Who = entry.more
    for endpoint in entry.endpoints:
        weight = factors.get(f"member={who.member}", 1.0)
        weight *= factors.get(f"shard={who.shard}", 1.0)
        weight *= factors.get(f"inet={endpoint.address} {endpoint.port}", 1.0)
        # Many vectors multiply: keep it a share that integers() can scale.
        yield Entry((endpoint,), weight=min(weight, 1e9))


def _endpoint(where: _Address, name: str) -> Endpoint:
    if not name:
        raise Unusable("an additional endpoint has no name")
    return Endpoint(address_of(where.host), port_of(where.port), name)
