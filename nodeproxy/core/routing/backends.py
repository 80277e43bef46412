"""Where a backend is in the catalog, or why it is nowhere: for requests and for people alike."""

from __future__ import annotations

from typing import Final

from nodeproxy.core.destination import Found
from nodeproxy.core.errors import InvalidBackend
from nodeproxy.core.routing.rules import Backend
from registry.catalog import Catalog
from registry.model import Port, Service

__all__ = ["target", "unresolved"]

UNSPOKEN: Final = frozenset(("grpc", "http2", "tls"))
"""Protocols of a port that an HTTPRoute can't be carried to."""


def target(catalog: Catalog, backend: Backend, *, http: bool = True) -> Found:
    """The service port behind a backend. Raises InvalidBackend (500): that is the answer for its
    share of the traffic. That nothing is ready there (503) is for the balancer to say."""
    service = catalog.get(backend.service)
    port = service.port(backend.port) if service is not None else None
    reason, message = _why(backend, service, port, http)
    if reason:
        raise InvalidBackend(f"{reason}: {message}")
    assert service is not None
    assert port is not None
    return Found(service, port)


def unresolved(catalog: Catalog, backend: Backend, *, http: bool = True) -> tuple[str, str]:
    """The reason of the condition ResolvedRefs and why, or two empty texts."""
    service = catalog.get(backend.service)
    port = service.port(backend.port) if service is not None else None
    return _why(backend, service, port, http)


def _why(
    backend: Backend, service: Service | None, port: Port | None, http: bool
) -> tuple[str, str]:
    if backend.problem:
        return backend.reason, backend.problem
    if service is None:
        return "BackendNotFound", f"no registry knows the service {backend.service}"
    if port is None:
        known = ", ".join(str(each.port) for each in service.ports) or "none"
        return (
            "BackendNotFound",
            f"{backend.service} has no port {backend.port} (its ports: {known})",
        )
    if http and port.protocol in UNSPOKEN:
        what = f"port {backend.port} of {backend.service} speaks {port.protocol}"
        return "UnsupportedProtocol", f"{what}, and HTTP/1.1 is what is spoken to backends"
    return "", ""
