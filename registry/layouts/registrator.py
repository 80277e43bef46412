"""registrator.

In etcd ``<prefix>/<service>/<host:container:port>`` -> ``host:port``; in ZooKeeper
``<path>/<service>/<ip>:<port>`` -> ``{"Name","IP","PublicPort","Tags","Attrs",...}``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from registry.layouts.entry import (
    Entry,
    Layout,
    Parts,
    Unusable,
    address_of,
    excerpt,
    json_value,
    labels_of,
    name_of,
    port_of,
)
from registry.layouts.grpc import endpoint_of
from registry.model import Endpoint

__all__ = ["Registrator", "ZkRegistrator"]


class Registrator(Layout):
    """Key-value stores; Consul's and etcd's are the same."""

    kind = "registrator"
    prefix = "/services"

    def service(self, parts: Parts) -> str | None:
        if len(parts) != 2:
            raise Unusable("the key is not PREFIX/SERVICE/INSTANCE")
        return name_of(parts[:1])

    def decode(self, parts: Parts, value: bytes) -> Entry | None:
        if len(value) > 300:
            raise Unusable(f"the value is not ADDRESS:PORT: {excerpt(value)}")
        return Entry((endpoint_of(value.decode("utf-8", "replace").strip()),))


class _Instance(msgspec.Struct):
    IP: str
    PublicPort: int
    Tags: list[str] | None = None
    Attrs: Any = None


class ZkRegistrator(Registrator):
    """ZooKeeper."""

    def decode(self, parts: Parts, value: bytes) -> Entry | None:
        instance = json_value(value, _Instance)
        labels = dict(labels_of(instance.Attrs))
        labels |= {f"tag.{tag}": "true" for tag in instance.Tags or () if tag}
        endpoint = Endpoint(
            address_of(instance.IP),
            port_of(instance.PublicPort),
            labels=tuple(sorted(labels.items())),
        )
        return Entry((endpoint,))
