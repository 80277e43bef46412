"""Traefik's key-value provider, versions 2 and 3: the servers of load balancers.

``traefik/http/services/<svc>/loadbalancer/servers/<n>/url`` -> ``http://10.0.0.1:8080/`` and
``.../<n>/weight``; ``traefik/tcp/services/<svc>/loadbalancer/servers/<n>/address``. Keys are
case-insensitive. Routers, middlewares and the other kinds of services are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from registry.layouts.entry import (
    Entry,
    Layout,
    Parts,
    Unusable,
    address_of,
    excerpt,
    name_of,
    port_of,
    weighed,
    weight_of,
)
from registry.layouts.grpc import endpoint_of
from registry.model import Endpoint, Protocol

__all__ = ["Traefik"]

_SCHEMES: Final[dict[str, tuple[int, Protocol]]] = {
    "http": (80, "http"),
    "https": (443, "tls"),
    "h2c": (80, "http2"),
}
_LEAVES: Final = {"http": ("url", "weight"), "tcp": ("address", "weight")}


class Traefik(Layout):
    """See the module's text."""

    kind = "traefik"
    prefix = "traefik"

    def service(self, parts: Parts) -> str | None:
        return name_of([parts[2].lower()]) if _leaf(parts) else None

    def decode(self, parts: Parts, value: bytes) -> Entry | None:
        leaf = _leaf(parts)
        server = f"{parts[0].lower()}/{parts[5]}" if leaf else ""
        if len(value) > 2000:
            raise Unusable(f"the value is too long: {excerpt(value)}")
        text = value.decode("utf-8", "replace").strip()
        if leaf == "url":
            endpoint, protocol = _url(text)
            return Entry((endpoint,), protocol=protocol, more=server)
        if leaf == "address":
            return Entry((endpoint_of(text),), protocol="tcp", more=server)
        if leaf == "weight":
            if not text.isascii() or not text.isdecimal() or len(text) > 9:
                raise Unusable(f"{text[:40]!r} is not a weight")
            return Entry(weight=weight_of(int(text)), more=server)
        return None

    def join(self, entries: Mapping[str, Entry]) -> list[tuple[Endpoint, Protocol]]:
        weights = {e.more: e.weight for e in entries.values() if not e.endpoints}
        servers = (e for e in entries.values() if e.endpoints)
        return weighed([msgspec.structs.replace(e, weight=weights.get(e.more)) for e in servers], 1)


def _leaf(parts: Parts) -> str:
    """``url``, ``address`` or ``weight`` where the key is about a server; else empty."""
    if len(parts) != 7:
        return ""
    kind, services, _, balancer, servers, _, leaf = (part.lower() for part in parts)
    if (services, balancer, servers) != ("services", "loadbalancer", "servers"):
        return ""
    return leaf if leaf in _LEAVES.get(kind, ()) else ""


def _url(text: str) -> tuple[Endpoint, Protocol]:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Unusable(f"{text[:100]!r} is not a URL") from None
    if parts.scheme not in _SCHEMES:
        raise Unusable(f"{text[:100]!r} is not an http, https or h2c URL")
    default, protocol = _SCHEMES[parts.scheme]
    return Endpoint(address_of(host), port_of(default if port is None else port)), protocol
