"""What the configuration adds to services whose layout tells endpoints only: virtual addresses,
ports, a namespace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final

import msgspec

from registry.address import canonical
from registry.layouts.entry import MAIN
from registry.model import Endpoint, Port, Protocol, Service, qualified_name

__all__ = ["Name", "Number", "PortOption", "ServiceName", "ServiceOption", "Shape"]

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$")]
ServiceName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?/)?"
        r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$"
    ),
]
Number = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class PortOption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A port of a service, as clients dial it."""

    port: Number
    name: str = ""
    protocol: Protocol = ""


class ServiceOption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the registry does not say about a service."""

    vips: tuple[str, ...] = ()
    ports: tuple[PortOption, ...] = ()


class Shape:
    """Makes a Service of endpoints."""

    def __init__(
        self,
        *,
        namespace: str,
        port: int | None,
        protocol: Protocol,
        services: Mapping[str, ServiceOption],
    ) -> None:
        """Raises ValueError."""
        self.namespace = namespace
        self._port = port
        self._protocol: Final[Protocol] = protocol
        self._known: dict[str, tuple[tuple[str, ...], tuple[Port, ...]]] = {}
        for name, option in services.items():
            vips = []
            for vip in option.vips:
                try:
                    vips.append(canonical(vip))
                except ValueError:
                    raise ValueError(f"services.{name}: {vip!r} is not an IP address") from None
            ports = tuple(Port(p.port, p.name, p.protocol) for p in option.ports)
            if len({p.port for p in ports}) < len(ports) or len({p.name for p in ports}) < len(
                ports
            ):
                raise ValueError(f"services.{name}: each port needs a number and a name of its own")
            self._known[self.qualified(name)] = (tuple(vips), ports)

    def qualified(self, name: str) -> str:
        """With the namespace where the layout tells none."""
        return qualified_name(name, self.namespace)

    def service(
        self, name: str, found: Sequence[tuple[Endpoint, Protocol]], origin: str
    ) -> tuple[Service, str]:
        """The service ``name`` (qualified) and what is wrong with it, if anything. Of several
        endpoints with one address and port the first stays."""
        vips, ports = self._known.get(name, ((), ()))
        wrong = ""
        named = any(e.port_name not in ("", MAIN) for e, _ in found)
        if not ports:
            ports = self._ports(found, named)
        elif named:
            # A port without a name is the one that the instances are for.
            ports = tuple(p if p.name else msgspec.structs.replace(p, name=MAIN) for p in ports)
        endpoints: dict[tuple[str, int, str], Endpoint] = {}
        for endpoint, _ in found:
            if endpoint.port == 0:
                for port in ports:
                    put(endpoints, endpoint, port.port, port.name)
                if not ports:
                    wrong = (
                        "its endpoints have no port: give `port`, or the service's `ports` in"
                        " `services`"
                    )
            elif endpoint.port_name == MAIN and not named:
                put(endpoints, endpoint, endpoint.port, "")
            else:
                endpoints.setdefault(
                    (endpoint.address, endpoint.port, endpoint.port_name), endpoint
                )
        return Service(name, vips, ports, tuple(endpoints.values()), origin=origin), wrong

    def _ports(self, found: Iterable[tuple[Endpoint, Protocol]], named: bool) -> tuple[Port, ...]:
        """One port by the option ``port``; else the endpoints' own. Named ones always the latter:
        which number they would have otherwise nobody knows."""
        spoken: dict[str, set[Protocol]] = {}
        numbers: dict[int, str] = {}
        for endpoint, protocol in found:
            name = endpoint.port_name if named else ""
            spoken.setdefault(name, set()).add(protocol)
            if self._port is not None and name in ("", MAIN):
                numbers[self._port] = name
            elif endpoint.port:
                numbers.setdefault(endpoint.port, name)
        return tuple(
            Port(number, name, self._speaks(name, spoken[name]))
            for number, name in sorted(numbers.items())
        )

    def _speaks(self, name: str, spoken: set[Protocol]) -> Protocol:
        if name in ("", MAIN):
            if self._protocol:
                return self._protocol
            return next(iter(spoken)) if len(spoken) == 1 else ""
        return "tls" if name in ("ssl", "https") else ""


def put(
    endpoints: dict[tuple[str, int, str], Endpoint], endpoint: Endpoint, port: int, name: str
) -> None:
    """Add ``endpoint`` with this port and name, if there is none."""
    key = (endpoint.address, port, name)
    if key not in endpoints:
        endpoints[key] = msgspec.structs.replace(endpoint, port=port, port_name=name)
