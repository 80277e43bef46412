"""Curator's x-discovery, which Spring Cloud ZooKeeper uses: ``<base>/<service>/<instance>``.

``{"name","id","address":"10.0.0.1","port":8080,"sslPort":null,"payload":{...},"enabled":true}``;
older versions write no ``enabled``. An ``sslPort`` is the service's port named ``ssl``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from registry.layouts.entry import (
    MAIN,
    Entry,
    Layout,
    Parts,
    Unusable,
    address_of,
    json_value,
    labels_of,
    name_of,
    port_of,
)
from registry.model import Endpoint

__all__ = ["Curator"]


class _Instance(msgspec.Struct, rename="camel"):
    address: str
    port: int | None = None
    ssl_port: int | None = None
    enabled: bool | None = None
    payload: Any = None


class Curator(Layout):
    """See the module's text."""

    kind = "curator"
    prefix = "/services"

    def service(self, parts: Parts) -> str | None:
        return name_of(parts[:-1])

    def decode(self, parts: Parts, value: bytes) -> Entry | None:
        instance = json_value(value, _Instance)
        if instance.enabled is False:
            return Entry()
        labels: tuple[tuple[str, str], ...] = ()
        if isinstance(instance.payload, dict):
            labels = labels_of(instance.payload.get("metadata"))
        address = address_of(instance.address)
        endpoints = []
        if instance.port:
            endpoints.append(Endpoint(address, port_of(instance.port), MAIN, labels=labels))
        if instance.ssl_port:
            endpoints.append(Endpoint(address, port_of(instance.ssl_port), "ssl", labels=labels))
        if not endpoints:
            raise Unusable("it has no port")
        return Entry(tuple(endpoints))
