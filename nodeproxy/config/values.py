"""Values of the configuration that have rules of their own.

Each class reads itself from what YAML gives (:mod:`registry.strict` calls ``convert``), and says
in its error what to write instead.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Self

__all__ = ["Address", "Cidr", "DnsName", "MetricsAddress", "RegistryEntry", "ServiceName"]


class Address(str):
    """``address:port`` or ``[address]:port``; never a name, as names change and can't be bound."""

    __slots__ = ()

    @classmethod
    def convert(cls, value: object) -> Self:
        """Raises ValueError with what to write instead."""
        if not isinstance(value, str):
            raise ValueError("expected address:port, such as 127.0.0.1:8080")
        host, colon, port = value.rpartition(":")
        if not colon or not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
            raise ValueError(f"{value!r} is not address:port; write for example 127.0.0.1:8080")
        if host.startswith("[") and host.endswith("]"):
            version, host = 6, host[1:-1]
        else:
            version = 4
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            hint = {"localhost": "127.0.0.1", "*": "0.0.0.0", "": "127.0.0.1"}.get(host, "")
            tail = f"; write {hint}:{port}" if hint else ""
            raise ValueError(f"{host!r} is not an IP address{tail}") from None
        if address.version != version:
            raise ValueError(
                f"an IPv6 address goes in brackets: [{address}]:{port}"
                if version == 4
                else f"only IPv6 addresses go in brackets: write {address}:{port}"
            )
        return cls(f"{address}:{int(port)}" if version == 4 else f"[{address}]:{int(port)}")

    @property
    def host(self) -> str:
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.rpartition(":")[2])


class MetricsAddress(Address):
    """An address, or ``off``."""

    __slots__ = ()

    @classmethod
    def convert(cls, value: object) -> Self:
        return cls("off") if value == "off" else super().convert(value)

    @property
    def enabled(self) -> bool:
        return self != "off"


class Cidr(str):
    """A network, ``10.96.0.0/16`` or ``fd00:96::/112``."""

    __slots__ = ()

    @classmethod
    def convert(cls, value: object) -> Self:
        """Raises ValueError with what to write instead."""
        if not isinstance(value, str):
            raise ValueError("expected a network, such as 10.96.0.0/16")
        try:
            network = ipaddress.ip_network(value, strict=False)
        except ValueError:
            raise ValueError(
                f"{value!r} is not a network; write for example 10.96.0.0/16"
            ) from None
        if "/" in value and str(network.network_address) != str(
            ipaddress.ip_address(value.partition("/")[0])
        ):
            raise ValueError(f"{value} has bits set behind its prefix; the network is {network}")
        if network.prefixlen == 0:
            raise ValueError(f"{value} is everything: nodeproxy would route all traffic to itself")
        if network.overlaps(ipaddress.ip_network(_LOOPBACK[network.version])):
            raise ValueError(f"{value} overlaps the loopback network")
        return cls(network)


_LOOPBACK = {4: "127.0.0.0/8", 6: "::1/128"}


class ServiceName(str):
    """``namespace/name``; the namespace ``default`` may be left out where it is written."""

    __slots__ = ()

    @classmethod
    def convert(cls, value: object) -> Self:
        """Raises ValueError."""
        if not isinstance(value, str) or not re.fullmatch(r"[^/\s]+(/[^/\s]+)?", value):
            raise ValueError(f"{value!r} is not a service: write name or namespace/name")
        return cls(value if "/" in value else f"default/{value}")


class DnsName(str):
    """A DNS name in small letters, without a dot at its end."""

    __slots__ = ()

    @classmethod
    def convert(cls, value: object) -> Self:
        """Raises ValueError."""
        label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
        if not isinstance(value, str) or not re.fullmatch(rf"{label}(\.{label})*", value):
            raise ValueError(f"{value!r} is not a DNS name; write for example mesh or svc.internal")
        if len(value) > 100:
            raise ValueError(f"{value!r} leaves no room for names of services")
        return cls(value)


class RegistryEntry:
    """One registry: its ``kind`` and ``name`` are ours, all other keys are the back end's."""

    __slots__ = ("kind", "name", "options", "origin")

    def __init__(self, kind: str, name: str, options: dict[str, Any], origin: str = "") -> None:
        self.kind = kind
        """Name of a back end: an entry point of the group ``nodeproxy.registries``."""
        self.name = name
        """How status and metrics call it; by default its kind."""
        self.options = options
        """Still untyped: what is allowed here, the back end's options type says."""
        self.origin = origin
        """``nodeproxy.yaml:12``"""

    @classmethod
    def convert(cls, value: object) -> Self:
        """Raises ValueError."""
        if not isinstance(value, dict):
            raise ValueError("a registry is a mapping such as {kind: file, path: services.yaml}")
        options = dict(value)
        kind = options.pop("kind", None)
        if not isinstance(kind, str) or not kind:
            raise ValueError("'kind' is missing: which registry is it? For example kind: file")
        name = options.pop("name", kind)
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,63}", name):
            raise ValueError(f"the name {name!r} needs 1 to 63 letters, digits, '.', '_' or '-'")
        return cls(kind, name, options)

    def __repr__(self) -> str:
        return f"RegistryEntry({self.kind!r}, {self.name!r}, {self.options!r})"
