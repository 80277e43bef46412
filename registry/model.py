"""What a registry knows: services, their ports and their endpoints.

The words are those of Kubernetes and the Gateway API. All values are frozen and may be
shared between the loop, worker threads and successive catalogs without copying.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["NOWHERE", "Endpoint", "Locality", "Port", "Protocol", "Service", "qualified_name"]

Protocol = Literal["http", "tcp", "tls", "grpc", "http2", ""]
"""How a port speaks. The empty string means: not declared, detect it."""


class Locality(msgspec.Struct, frozen=True, gc=False):
    """Where an endpoint or a node is, from wide to narrow. Empty parts are unknown."""

    region: str = ""
    zone: str = ""
    node: str = ""


NOWHERE = Locality()


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """One address and port that serves one port (or every port) of a service.

    A Kubernetes endpoint with several named ports becomes one Endpoint per port.
    """

    address: str
    """An IPv4 or IPv6 address in its canonical text form; never a name."""
    port: int
    """1 to 65535."""
    port_name: str = ""
    """The service port that it serves; empty: it serves every port of the service."""
    weight: int = 1
    """Share of traffic relative to its siblings, 0 to 65535; 0 takes no new traffic."""
    locality: Locality = NOWHERE
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted (name, value) pairs."""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    """The three conditions of discovery.k8s.io/v1 EndpointSlice, defaults resolved."""

    @property
    def key(self) -> tuple[str, int, str]:
        """Identity within a service: two Endpoints with one key are the same endpoint."""
        return (self.address, self.port, self.port_name)


class Port(msgspec.Struct, frozen=True, gc=False):
    """A port of a service, as clients dial it."""

    port: int
    name: str = ""
    protocol: Protocol = ""


class Service(msgspec.Struct, frozen=True, gc=False):
    """A name with virtual addresses, ports and the endpoints behind them."""

    name: str
    """``namespace/name``; see :func:`qualified_name`."""
    vips: tuple[str, ...] = ()
    """Addresses that clients dial, IPv4 and IPv6 in canonical text form. May be empty: the
    service is then reached through an explicit listener only."""
    ports: tuple[Port, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    origin: str = ""
    """Where it was read, for people: ``services.yaml:12`` or ``etcd /services/web``."""

    def port(self, number: int) -> Port | None:
        """The declared port with this number, or None."""
        for port in self.ports:
            if port.port == number:
                return port
        return None

    def endpoints_of(self, port: Port) -> tuple[Endpoint, ...]:
        """The endpoints that serve ``port``, in registry order."""
        return tuple(e for e in self.endpoints if not e.port_name or e.port_name == port.name)


def qualified_name(name: str, namespace: str = "default") -> str:
    """``web`` -> ``default/web``; a name that has a namespace is returned as it is."""
    return name if "/" in name else f"{namespace}/{name}"
