"""Nacos' answers, decoded. Pure.

Shapes: nacos.io/docs/v2/guide/user/open-api. Version 2 of the API wraps what version 1 says in
``{"code":0,"message":"success","data":...}`` and calls ``doms`` ``services``.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import msgspec

from registry.layouts.entry import labels_of
from registry.model import Endpoint, Locality
from registry.nacos.options import Options
from registry.naming import endpoint_address, endpoint_port

__all__ = ["Login", "Page", "Refused", "login", "page", "read_host", "settings_of", "unwrapped"]

MAX_WEIGHT: Final = 1e9


class Refused(ValueError):
    """Version 2: the answer says that it is none."""


class Page(NamedTuple):
    """A part of the list of services."""

    total: int
    """Of all services, not of this page."""
    names: tuple[str, ...]


class Login(NamedTuple):
    """What a login brings."""

    token: str
    ttl: float
    """Seconds."""


class _Page(msgspec.Struct, gc=False):
    count: int = 0
    doms: list[str] | None = None
    services: list[str] | None = None


class _Wrapped(msgspec.Struct, gc=False):
    code: int = -1
    message: str | None = None


class _Login(msgspec.Struct, gc=False, rename="camel"):
    access_token: str
    token_ttl: float = 18000


class _Host(msgspec.Struct, gc=False, rename="camel"):
    ip: str
    port: Any
    weight: float = 1.0
    healthy: bool = True
    enabled: bool = True
    cluster_name: str | None = None
    metadata: Any = None


_HOST: Final = msgspec.json.Decoder(_Host, strict=False)
_CACHE: Final = re.compile(rb'"cacheMillis"\s*:\s*([0-9]{1,12})\s*[,}]')
_REACHED: Final = re.compile(rb'"reachProtectionThreshold"\s*:\s*true')


def unwrapped(body: bytes, api: str) -> None:
    """Raises Refused where version 2 says in an answer of status 200 that it is none."""
    if api == "v1":
        return
    edge = body if len(body) < 65536 else b"{}"
    try:
        said = msgspec.json.decode(edge, type=_Wrapped)
    except msgspec.MsgspecError as error:
        raise Refused(f"the answer is not Nacos': {error}") from None
    if edge is body and said.code != 0:
        raise Refused(f"{said.code}: {said.message}")


def page(body: bytes, api: str) -> Page:
    """Of ``/ns/service/list``. Raises ValueError."""
    if api == "v2":
        body = bytes(msgspec.json.decode(body, type=dict[str, msgspec.Raw]).get("data", b"{}"))
    said = msgspec.json.decode(body, type=_Page | None) or _Page()
    return Page(said.count, tuple(said.doms or said.services or ()))


def login(body: bytes) -> Login:
    """Of ``/v1/auth/login``. Raises ValueError."""
    said = msgspec.json.decode(body, type=_Login, strict=False)
    return Login(said.access_token, max(1.0, said.token_ttl))


def settings_of(body: bytes) -> tuple[float | None, bool]:
    """Of ``/ns/instance/list``: ``cacheMillis`` in seconds, and whether the protection threshold
    is reached, so that instances are said to be healthy that are not. They stand before or after
    the instances."""
    for part in (body[:4096], body[-4096:]):
        found = _CACHE.search(part)
        if found:
            break
    reached = any(_REACHED.search(part) for part in (body[:4096], body[-4096:]))
    return (int(found[1]) / 1000 if found else None), reached


def read_host(raw: bytes, options: Options) -> tuple[Endpoint, float] | None:
    """One of ``hosts``, and its weight; None for one that is not to be used. Raises ValueError."""
    try:
        host = _HOST.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"it is not an instance: {error}") from None
    if not host.enabled or not host.healthy:
        return None
    if not 0 <= host.weight <= MAX_WEIGHT:
        raise ValueError(f"instance {host.ip}: {host.weight} is not a weight")
    labels = dict(labels_of(host.metadata))
    zone = labels.get(options.zone_meta, "")
    if host.cluster_name:
        labels.setdefault("cluster", host.cluster_name)
    try:
        address = endpoint_address(host.ip, loopback=options.allow_loopback)
        port = endpoint_port(host.port)
    except ValueError as error:
        raise ValueError(f"instance {host.ip}: {error}") from None
    pairs = tuple(sorted(labels.items()))
    return Endpoint(address, port, locality=Locality(zone=zone), labels=pairs), host.weight
