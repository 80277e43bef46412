"""Consul's answers, decoded. Pure.

Shapes: developer.hashicorp.com/consul/api-docs/health, /catalog, /kv and /features/blocking.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from registry.consul.options import Status
from registry.model import Endpoint, Locality
from registry.naming import endpoint_address, endpoint_port, sorted_labels

__all__ = ["KvEntry", "Rules", "catalog_services", "index_of", "kv_entry", "read_entry", "worst"]

MAX_WEIGHT: Final = 65535


class _Locality(msgspec.Struct, gc=False):
    Region: str = ""
    Zone: str = ""


class _Node(msgspec.Struct, gc=False):
    Node: str = ""
    Address: str = ""
    Datacenter: str = ""
    Meta: dict[str, str] | None = None
    Locality: _Locality | None = None


class _Weights(msgspec.Struct, gc=False):
    Passing: int = 1
    Warning: int = 1


class _Service(msgspec.Struct, gc=False):
    ID: str = ""
    Address: str = ""
    Port: int = 0
    Tags: list[str] | None = None
    Meta: dict[str, str] | None = None
    Weights: _Weights | None = None
    Locality: _Locality | None = None


class _Check(msgspec.Struct, gc=False):
    CheckID: str = ""
    Status: str = ""


class _Entry(msgspec.Struct, gc=False):
    Service: _Service
    Node: _Node | None = None
    Checks: list[_Check] | None = None


class _Named(msgspec.Struct, gc=False):
    ID: str = ""


class _Naming(msgspec.Struct, gc=False):
    Service: _Named | None = None


class Rules(NamedTuple):
    """What of the options an entry is read by."""

    statuses: frozenset[Status]
    zone_meta: str = "zone"
    allow_loopback: bool = False


_ENTRY: Final = msgspec.json.Decoder(_Entry)
_NAMING: Final = msgspec.json.Decoder(_Naming)


def read_entry(raw: bytes, rules: Rules) -> Endpoint | None:
    """One element of ``/v1/health/service/NAME``; None for an instance in another state than the
    rules want. Raises ValueError with what an operator should look at."""
    try:
        entry = _ENTRY.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"{_name(raw)}it is not an entry of Consul: {error}") from None
    status = worst(entry.Checks or ())
    if status not in rules.statuses:
        return None
    service, node = entry.Service, entry.Node or _Node()
    try:
        address = endpoint_address(service.Address or node.Address, loopback=rules.allow_loopback)
        if service.Port == 0:
            raise ValueError("it has no port")
        port = endpoint_port(service.Port)
    except ValueError as error:
        raise ValueError(f"instance {service.ID}: {error}") from None
    weights = service.Weights or _Weights()
    weight = weights.Passing if status == "passing" else weights.Warning
    labels = dict(service.Meta or {})
    labels |= {f"tag.{tag}": "true" for tag in service.Tags or () if tag}
    return Endpoint(
        address,
        port,
        weight=min(max(weight, 0), MAX_WEIGHT),
        locality=_place(service, node, rules.zone_meta),
        labels=sorted_labels(labels.items()),
    )


def worst(checks: list[_Check] | tuple[()]) -> Status:
    """maintenance > critical > warning > passing. Without any check an instance passes; a state
    that is none of Consul's counts as critical."""
    found: Status = "passing"
    for check in checks:
        if check.CheckID == "_node_maintenance" or check.CheckID.startswith(
            "_service_maintenance:"
        ):
            return "maintenance"
        if check.Status == "passing" or found == "critical":
            continue
        found = "warning" if check.Status == "warning" else "critical"
    return found


def _place(service: _Service, node: _Node, zone_meta: str) -> Locality:
    place = service.Locality or node.Locality or _Locality()
    zone = place.Zone or (service.Meta or {}).get(zone_meta) or (node.Meta or {}).get(zone_meta)
    return Locality(place.Region or node.Datacenter, zone or "", node.Node)


def _name(raw: bytes) -> str:
    """Which instance it is, if that can be read."""
    try:
        named = _NAMING.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return ""
    return f"instance {named.Service.ID}: " if named.Service and named.Service.ID else ""


def catalog_services(body: bytes) -> tuple[dict[str, frozenset[str]], list[tuple[str, str]]]:
    """``/v1/catalog/services``: tags by name; and (name, what is wrong) for those whose tags
    cannot be read. Raises ValueError if it is no such answer."""
    raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    found: dict[str, frozenset[str]] = {}
    wrong = []
    for name, value in raw.items():
        try:
            found[name] = frozenset(msgspec.json.decode(value, type=list[str] | None) or ())
        except msgspec.MsgspecError as error:
            wrong.append((name, f"its tags cannot be read: {error}"))
    return found, wrong


def index_of(headers: Mapping[str, str]) -> int | None:
    """X-Consul-Index; 0 counts as 1, as a query with the index 0 does not wait. None: there is
    no such header, or no number in it."""
    text = headers.get("x-consul-index", "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        return None
    return max(1, int(text))


class KvEntry(NamedTuple):
    """One key below the prefix."""

    parts: tuple[str, ...]
    """The key below the prefix, split at the slashes."""
    value: bytes


class _Kv(msgspec.Struct, gc=False):
    Key: str
    Value: str | None = None


_KV: Final = msgspec.json.Decoder(_Kv)


def kv_entry(raw: bytes, prefix: str) -> KvEntry | None:
    """One element of ``/v1/kv/PREFIX?recurse``; None for a folder. Raises ValueError."""
    try:
        item = _KV.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"it is not a key of Consul: {error}") from None
    if item.Key.endswith("/"):
        return None
    if not item.Key.startswith(f"{prefix}/"):
        raise ValueError(f"{item.Key}: it is not below {prefix}/")
    try:
        value = base64.b64decode(item.Value or "", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{item.Key}: its value is not base64") from None
    return KvEntry(tuple(item.Key[len(prefix) + 1 :].split("/")), value)
