"""What an operator says of a service whose registry knows its endpoints and nothing else.

Most registries have no virtual addresses, and no port that clients dial: only the addresses and
ports of instances. The options of their back ends take a :class:`ServiceSettings` for a service by
its name; :func:`dressed` makes the service of both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

from registry.address import canonical, is_proxyable
from registry.model import Endpoint, Port, Protocol, Service

__all__ = [
    "DialledPort",
    "ServiceName",
    "ServiceSettings",
    "dressed",
    "endpoint_address",
    "endpoint_port",
    "sorted_labels",
]

ServiceName = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
"""``namespace/name``, or ``name`` in the registry's namespace."""


class DialledPort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A port of a service, as clients dial it."""

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    """Its number at the virtual addresses."""
    name: str = ""
    """Its name; with more than one port each needs one of its own."""
    protocol: Protocol = ""
    """``http``, ``tcp``, ``tls``, ``grpc`` or ``http2``; detected if left out."""


class ServiceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is configured for one service beside its endpoints."""

    vips: tuple[str, ...] = ()
    """Addresses that clients dial; without any the service is reached through an explicit
    listener only."""
    ports: tuple[DialledPort, ...] = ()
    """Ports that clients dial, each served by every endpoint; by default the ports of the
    endpoints."""
    protocol: Protocol = ""
    """The protocol of ports that name none."""

    def __post_init__(self) -> None:
        """Raises ValueError."""
        for vip in self.vips:
            canonical(vip)
        numbers = {port.port for port in self.ports}
        names = {port.name for port in self.ports}
        if len(numbers) < len(self.ports):
            raise ValueError("a port stands twice")
        if len(self.ports) > 1 and (len(names) < len(self.ports) or "" in names):
            raise ValueError("with more than one port each needs a name of its own")


PLAIN = ServiceSettings()


def dressed(
    name: str,
    endpoints: tuple[Endpoint, ...],
    settings: ServiceSettings | None = None,
    *,
    labels: tuple[tuple[str, str], ...] = (),
    origin: str = "",
) -> Service:
    """The service ``namespace/name`` of its endpoints and of what is configured for it."""
    settings = settings or PLAIN
    if settings.ports:
        ports = tuple(
            Port(port.port, port.name, port.protocol or settings.protocol)
            for port in settings.ports
        )
    else:
        numbers = sorted({endpoint.port for endpoint in endpoints})
        single = len(numbers) == 1
        ports = tuple(Port(n, "" if single else f"p{n}", settings.protocol) for n in numbers)
    vips = tuple(canonical(vip) for vip in settings.vips)
    return Service(name, vips, ports, endpoints, labels, origin)


def endpoint_address(text: str, *, loopback: bool = False) -> str:
    """The canonical address of an endpoint that another machine registered.

    Raises ValueError for a name, and for an address that means something else on this node than
    where it was registered (see :func:`registry.address.is_proxyable`). ``loopback``: let
    loopback addresses pass.
    """
    try:
        address = canonical(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address (names are not resolved here)") from None
    if not is_proxyable(address):
        is_loopback = address == "::1" or address.startswith("127.")
        if not is_loopback:
            raise ValueError(f"{text!r} is link-local, unspecified or multicast")
        if not loopback:
            raise ValueError(f"{text!r} is a loopback address: this node's own (allow_loopback)")
    return address


def endpoint_port(value: object) -> int:
    """A port that may be written as a text. Raises ValueError."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 5:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise ValueError(f"{value!r} is not a port")
    return value


def sorted_labels(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """As the model wants them; of two with one name the last stays."""
    return tuple(sorted(dict(pairs).items()))
