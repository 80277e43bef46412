"""Eureka's JSON, decoded. Pure.

It is XML in JSON's clothes, so a list of one may be written as the object itself, numbers and
truth values as texts, and a number with an attribute as ``{"$": 8080, "@enabled": "true"}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from registry.eureka.options import Options
from registry.layouts.entry import labels_of
from registry.model import Endpoint, Locality
from registry.naming import endpoint_address, endpoint_port

__all__ = ["Instance", "app_name", "hash_code", "hash_of", "read_instance"]

_HASH: Final = re.compile(rb'"apps__hashcode"\s*:\s*"([^"\\]*)"')
_EDGE: Final = 4096
"""Where in a large answer the hash code may stand: before or after the applications."""


class Instance(NamedTuple):
    """One instance, as far as it can be read."""

    key: str
    """What names it within its application."""
    status: str
    endpoint: Endpoint | None
    """None: not to be used, be it for its status or because something is wrong."""
    weight: float
    wrong: str
    """What is wrong with it; empty if nothing is."""
    deleted: bool
    """In a delta: it is gone."""


class _Name(msgspec.Struct, gc=False):
    name: str


class _Instance(msgspec.Struct, gc=False, rename="camel"):
    instance_id: Any = None
    host_name: Any = None
    ip_addr: Any = None
    status: Any = None
    port: Any = None
    secure_port: Any = None
    metadata: Any = None
    data_center_info: Any = None
    action_type: Any = None


_NAME: Final = msgspec.json.Decoder(_Name)
_INSTANCE: Final = msgspec.json.Decoder(_Instance)


def app_name(raw: bytes) -> str:
    """Of an application. Raises ValueError."""
    name = _NAME.decode(raw).name
    if not name or "/" in name:
        raise ValueError(f"{name!r} is not the name of an application")
    return name.upper()


def read_instance(raw: bytes, options: Options) -> Instance:
    """An instance of an application. Raises ValueError for what is none, or cannot be told from
    others."""
    try:
        said = _INSTANCE.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"it is not an instance: {error}") from None
    key = said.instance_id or said.host_name
    if not isinstance(key, str):
        raise ValueError("an instance has neither instanceId nor hostName")
    if not said.instance_id:
        key = f"{key}:{_number(said.port)}"
    status = said.status if isinstance(said.status, str) else "UNKNOWN"
    deleted = said.action_type == "DELETED"
    if deleted or status not in options.statuses:
        return Instance(key, status, None, 1.0, "", deleted)
    labels = tuple(pair for pair in labels_of(said.metadata) if not pair[0].startswith("@"))
    try:
        endpoint = Endpoint(
            endpoint_address(str(said.ip_addr or ""), loopback=options.allow_loopback),
            _port(said, options.port),
            locality=Locality(zone=_zone(said, dict(labels), options.zone_meta)),
            labels=labels,
        )
        weight = _weight(dict(labels).get(options.weight_meta))
    except ValueError as error:
        return Instance(key, status, None, 1.0, str(error), deleted)
    return Instance(key, status, endpoint, weight, "", deleted)


def _port(said: _Instance, wanted: str) -> int:
    """Raises ValueError."""
    if wanted in ("plain", "any") and _enabled(said.port):
        return endpoint_port(_number(said.port))
    if wanted in ("secure", "any") and _enabled(said.secure_port):
        return endpoint_port(_number(said.secure_port))
    raise ValueError("it has no port" if wanted == "any" else f"it has no {wanted} port")


def _number(value: Any) -> Any:
    return value.get("$") if isinstance(value, dict) else value


def _enabled(value: Any) -> bool:
    """A port without the attribute, as old servers write it, is enabled."""
    if isinstance(value, dict):
        said = value.get("@enabled", True)
        return said is True or (isinstance(said, str) and said.lower() == "true")
    return value is not None


def _zone(said: _Instance, labels: dict[str, str], key: str) -> str:
    if key in labels:
        return labels[key]
    info = said.data_center_info
    meta = info.get("metadata") if isinstance(info, dict) else None
    zone = meta.get("availability-zone") if isinstance(meta, dict) else None
    return zone if isinstance(zone, str) else ""


def _weight(text: str | None) -> float:
    """Raises ValueError."""
    if text is None:
        return 1.0
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= 1e9:
        raise ValueError(f"{text!r} is not a weight")
    return weight


def hash_code(body: bytes) -> str | None:
    """``apps__hashcode`` of an answer; None if there is none."""
    found = _HASH.search(body[:_EDGE]) or _HASH.search(body[-_EDGE:])
    return found[1].decode("utf-8", "replace") if found else None


def hash_of(counts: Mapping[str, int]) -> str:
    """Of the number of instances by status: ``DOWN_1_UP_2_``."""
    return "".join(f"{status}_{count}_" for status, count in sorted(counts.items()))
