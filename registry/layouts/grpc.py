"""gRPC naming: the endpoints manager of etcd's client (``clientv3/naming/endpoints``).

``<target>/<any>`` -> ``{"Op":0,"Addr":"10.0.0.1:8080","Metadata":{...}}``. The target below the
prefix is the service: its last part the name, the parts before it the namespace.
"""

from __future__ import annotations

from typing import Any

import msgspec

from registry.address import split_host_port
from registry.layouts.entry import Entry, Layout, Parts, Unusable, json_value, labels_of, name_of
from registry.model import Endpoint

__all__ = ["Grpc", "endpoint_of"]


class _Update(msgspec.Struct):
    Addr: str
    Op: int = 0
    Metadata: Any = None


class Grpc(Layout):
    """See the module's text."""

    kind = "grpc"

    def service(self, parts: Parts) -> str | None:
        return name_of(parts[:-1])

    def decode(self, parts: Parts, value: bytes) -> Entry | None:
        update = json_value(value, _Update)
        if update.Op == 1:
            return None  # Delete
        if update.Op != 0:
            raise Unusable(f"{update.Op} is not an Op")
        endpoint = endpoint_of(update.Addr)
        labels = labels_of(update.Metadata)
        return Entry((msgspec.structs.replace(endpoint, labels=labels) if labels else endpoint,))


def endpoint_of(text: str) -> Endpoint:
    """``10.0.0.1:80``. Raises Unusable."""
    try:
        return Endpoint(*split_host_port(text))
    except ValueError as error:
        raise Unusable(str(error)[:300]) from None
