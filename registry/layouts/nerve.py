"""SmartStack's nerve in ZooKeeper: ``<path>/<instance>_0000000001`` with JSON, or with the JSON in
the node's very name: ``base64_<length>_<urlsafe base64>_0000000001``.

``{"host":"10.0.0.1","port":1234,"name":"i-1","weight":5,"haproxy_server_options":"backup",
"labels":{"az":"eu-1a"}}``. A backup is used while there is no other instance.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

import msgspec

from registry.layouts.entry import (
    Entry,
    Layout,
    Parts,
    Unusable,
    address_of,
    json_value,
    labels_of,
    name_of,
    port_of,
    weight_of,
)
from registry.model import Endpoint

__all__ = ["Nerve", "value_in_name"]

_IN_NAME: Final = re.compile(r"base64_([0-9]{1,7})_([A-Za-z0-9_=-]*)_[0-9]{1,12}")


class _Instance(msgspec.Struct):
    host: str
    port: int
    weight: float | None = None
    haproxy_server_options: str | None = None
    labels: Any = None


class Nerve(Layout):
    """See the module's text."""

    kind = "nerve"
    prefix = "/nerve/services/*/services"

    def service(self, parts: Parts) -> str | None:
        return name_of(parts[:-1])

    def decode(self, parts: Parts, value: bytes) -> Entry | None:
        inside = value_in_name(parts[-1])
        instance = json_value(value if inside is None else inside, _Instance)
        options = (instance.haproxy_server_options or "").split()
        endpoint = Endpoint(
            address_of(instance.host), port_of(instance.port), labels=labels_of(instance.labels)
        )
        return Entry(
            (endpoint,), weight=weight_of(instance.weight), priority=int("backup" in options)
        )


def value_in_name(name: str) -> bytes | None:
    """The value that a node's name holds; None for a plain name. Raises Unusable for a name that
    holds a damaged one."""
    if not name.startswith("base64_"):
        return None
    match = _IN_NAME.fullmatch(name)
    if match is None:
        raise Unusable("the node's name is not base64_LENGTH_VALUE_NUMBER")
    length, text = int(match[1]), match[2]
    if len(text) != length:
        raise Unusable(f"the node's name holds {len(text)} characters, not {length}")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Unusable("the node's name holds no base64") from None
