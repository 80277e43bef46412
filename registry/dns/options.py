"""The options of the back end ``dns``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from registry.address import split_host_port
from registry.duration import Duration
from registry.model import Protocol
from registry.naming import DialledPort, ServiceName, ServiceSettings

__all__ = ["DnsService", "Families", "Options"]

Text = Annotated[str, msgspec.Meta(min_length=1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
Families = Literal["ipv4", "ipv6", "prefer-ipv4", "prefer-ipv6", "both"]


class DnsService(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One service, and the names under which its endpoints are found."""

    names: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    """DNS names; the endpoints of several are united."""
    type: Literal["address", "srv"] | None = None
    """``address``: A and AAAA records. ``srv``: SRV records. By default ``srv`` for names like
    ``_http._tcp.web.example``, else ``address``."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    """The endpoints' port. Required for addresses; SRV records bring their own."""
    vips: tuple[str, ...] = ()
    """Addresses that clients dial."""
    ports: tuple[DialledPort, ...] = ()
    """Ports that clients dial; by default those of the endpoints."""
    protocol: Protocol = ""
    """The protocol of ports that name none."""

    def __post_init__(self) -> None:
        """Raises ValueError."""
        ServiceSettings(self.vips, self.ports, self.protocol)
        if self.port is None and not all(self.is_srv(name) for name in self.names):
            raise ValueError("names with addresses need `port`, the endpoints' port")

    def is_srv(self, name: str) -> bool:
        """Whether SRV records are asked for."""
        if self.type is not None:
            return self.type == "srv"
        parts = name.split(".")
        return len(parts) > 2 and parts[0].startswith("_") and parts[1].startswith("_")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``{kind: dns, services: {web: {names: [web.example], port: 8080}}}``"""

    services: Annotated[dict[ServiceName, DnsService], msgspec.Meta(min_length=1)]
    """The services, by name."""
    nameservers: tuple[Text, ...] = ()
    """``ADDRESS`` or ``ADDRESS:PORT``, asked in this order; by default those of
    ``/etc/resolv.conf``, read again after each failure."""
    search: tuple[Name, ...] = ()
    """Domains to complete names with that do not end in a dot: the first that exists is used.
    Without any, names are complete; the search list of ``/etc/resolv.conf`` is not used."""
    families: Families = "prefer-ipv4"
    """Addresses to use. ``prefer-ipv4``: IPv6 addresses only of names without IPv4 addresses."""
    min_ttl: Duration = Duration("1s")
    """A name is asked again no sooner than this, even if its TTL is 0. 100ms or more."""
    max_ttl: Duration = Duration("5m")
    """A name is asked again no later than this."""
    max_negative_ttl: Duration = Duration("10s")
    """A name that does not exist is asked again no later than this. One that nobody answered is
    asked again after this time, or 5s if that is sooner."""
    timeout: Duration = Duration("2s")
    """How long a nameserver has for an answer. 50ms to 30s."""
    tries: Annotated[int, msgspec.Meta(ge=1, le=10)] = 2
    """How often all nameservers are asked before the name counts as unanswered."""
    tcp: bool = False
    """Ask by TCP only. Otherwise UDP is used, and TCP for answers that do not fit."""
    max_queries: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    """The most names that are asked at a time."""
    namespace: Text = "default"
    """The namespace of our names: ``web`` becomes ``default/web``."""
    allow_loopback: bool = False
    """Use endpoints with loopback addresses: they mean this node, whoever wrote them."""

    def __post_init__(self) -> None:
        """Raises ValueError."""
        for text in self.nameservers:
            nameserver(text)


def nameserver(text: str) -> tuple[str, int]:
    """``10.0.0.53``, ``10.0.0.53:5353``, ``[2001:db8::53]:53`` or ``2001:db8::53``. Raises
    ValueError."""
    if text.startswith("[") or text.count(":") == 1:
        return split_host_port(text)
    return split_host_port(f"[{text}]:53" if ":" in text else f"{text}:53")
