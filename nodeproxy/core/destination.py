"""Who is meant by the address and port that a client dialled: a pure look-up, for the data plane
and for ``explain`` alike."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from nodeproxy.core.errors import LoopRefused, NoEndpoints, UnknownDestination
from registry.catalog import Catalog
from registry.model import Port, Service

__all__ = ["Address", "Direct", "Found", "dialled", "host_port", "named"]

Address = tuple[str, int]
"""An IP address in text form, and a port."""


class Found(NamedTuple):
    """A service of the catalog, and which of its ports."""

    service: Service
    port: Port


class Direct(NamedTuple):
    """No service has the address: what was dialled is what is reached, byte for byte."""

    address: Address


def dialled(
    catalog: Catalog, destination: Address, own: Container[Address], *, registry_only: bool
) -> Found | Direct:
    """The service port with this virtual address, or the destination itself.

    ``own``: where the proxy listens. Raises LoopRefused when the destination is one of these,
    and UnknownDestination for destinations of no service when ``registry_only`` is set.
    """
    found = catalog.at(*destination)
    if found is not None:
        return Found(*found)
    if destination in own:
        raise LoopRefused(f"{host_port(destination)} is the proxy's own listener")
    if registry_only:
        raise UnknownDestination(
            f"no service has {host_port(destination)}, and `outbound: registry-only` is set"
        )
    return Direct(destination)


def named(catalog: Catalog, name: str, port: int) -> Found:
    """The service port that an explicit listener stands for. Raises NoEndpoints when the
    registry does not know it (now)."""
    service = catalog.get(name)
    found = service.port(port) if service is not None else None
    if service is None or found is None:
        raise NoEndpoints(
            f"the registry knows no service {name} with port {port}; see `nodeproxy registries`"
        )
    return Found(service, found)


def host_port(address: Address) -> str:
    """``10.0.0.1:80`` or ``[fd00::1]:80``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
