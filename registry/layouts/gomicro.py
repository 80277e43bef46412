"""go-micro, versions 2 to 5: ``/micro/registry/<service>/<node>`` -> the registry's Service in JSON
with that node. A slash in a service's name is a dash in the key."""

from __future__ import annotations

from typing import Any

import msgspec

from registry.layouts.entry import Entry, Layout, Parts, Unusable, json_value, labels_of, name_of
from registry.layouts.grpc import endpoint_of

__all__ = ["GoMicro"]


class _Node(msgspec.Struct):
    address: str
    metadata: Any = None


class _Service(msgspec.Struct):
    nodes: list[_Node] | None = None
    version: str | None = None


class GoMicro(Layout):
    """See the module's text."""

    kind = "go-micro"
    prefix = "/micro/registry"

    def service(self, parts: Parts) -> str | None:
        if len(parts) != 2:
            raise Unusable("the key is not PREFIX/SERVICE/NODE")
        return name_of(parts[:1])

    def decode(self, parts: Parts, value: bytes) -> Entry | None:
        service = json_value(value, _Service)
        endpoints = []
        for node in service.nodes or ():
            labels = dict(labels_of(node.metadata))
            if service.version:
                labels.setdefault("version", service.version)
            endpoints.append(
                msgspec.structs.replace(
                    endpoint_of(node.address), labels=tuple(sorted(labels.items()))
                )
            )
        return Entry(tuple(endpoints))
