"""What the interception is told: its settings, and the addresses it serves.

Plain values of this package's own; the daemon translates its configuration and its catalog.
Backends and frontends are left out of garbage collection (they can't be part of a cycle): there may
be 100,000, and a collection that visits them all stops the loop for 40 ms.
"""

import ipaddress
from typing import Literal

import msgspec

from iptables.names import FAMILIES, Family


class Backend(msgspec.Struct, frozen=True, gc=False):
    """One endpoint as the kernel path sees it."""

    address: str
    port: int
    weight: int = 1


class Frontend(msgspec.Struct, frozen=True, gc=False):
    """One virtual address and TCP port, and where its connections may go.

    `backends` matter only to the kernel path (the proxy has its own list). With
    `intercept=False` the proxy is left out: the kernel path alone serves the address.
    """

    address: str
    port: int
    backends: tuple[Backend, ...] = ()
    service: str = ""
    intercept: bool = True

    @property
    def key(self) -> tuple[str, int]:
        return (self.address, self.port)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How this node intercepts. A wrong value raises ValueError that names the field."""

    outbound_port: int = 15001
    inbound_port: int = 15006
    # Nobody listens here: what must be refused is sent to this port and gets a TCP reset.
    refuse_port: int = 15009
    address4: str = "169.254.171.1"
    address6: str = "fd0d:4e50::1"
    mark: int = 0x4E500000
    mask: int = 0xFFFF0000
    vip_cidrs: tuple[str, ...] = ()
    expiry: int = 2  # seconds without a heartbeat until the switch falls
    backend: Literal["auto", "nft", "legacy"] = "auto"
    kernel_path: Literal["auto", "on", "off"] = "auto"
    fail: Literal["open", "closed"] = "open"
    ipv6: Literal["auto", "on", "off"] = "auto"
    inbound: bool = False
    syn_guard: bool = True
    poll: float = 10.0  # seconds between looks at what raises no event

    def __post_init__(self) -> None:
        ports = (self.outbound_port, self.inbound_port, self.refuse_port)
        for name, port in zip(("outbound_port", "inbound_port", "refuse_port"), ports, strict=True):
            if not 0 < port < 65536:
                raise ValueError(f"{name}: {port} is not a port (1 to 65535)")
        if len(set(ports)) < len(ports):
            raise ValueError(
                f"outbound_port, inbound_port and refuse_port must differ, and are {ports}"
            )
        for name, text, version in (
            ("address4", self.address4, 4),
            ("address6", self.address6, 6),
        ):
            try:
                address = ipaddress.ip_address(text)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            if address.version != version or address.is_loopback or address.is_unspecified:
                raise ValueError(
                    f"{name}: {text} can't be used: not a unicast IPv{version} address"
                )
        if not 0 < self.mask <= 0xFFFFFFFF or not 0 < self.mark <= 0xFFFFFFFF:
            raise ValueError("mark, mask: must be between 1 and 0xffffffff")
        if self.mark & ~self.mask:
            raise ValueError(f"mark: {self.mark:#x} has bits outside of mask {self.mask:#x}")
        for cidr in self.vip_cidrs:
            try:
                network = ipaddress.ip_network(cidr)
            except ValueError as error:
                raise ValueError(f"vip_cidrs: {error}") from None
            if network.prefixlen == 0:
                raise ValueError(f"vip_cidrs: {cidr} would be every address there is")
        if not 1 <= self.expiry <= 60:
            raise ValueError(f"expiry: {self.expiry} s is not between 1 s and 60 s")
        if self.poll <= 0:
            raise ValueError("poll: must be positive")

    def address(self, family: Family) -> str:
        return self.address4 if family == 4 else self.address6

    def cidrs(self, family: Family) -> tuple[str, ...]:
        """The service networks of a family, as the kernel writes them."""
        networks = [ipaddress.ip_network(cidr) for cidr in self.vip_cidrs]
        return tuple(str(network) for network in networks if network.version == family)


def family_of(address: str) -> Family:
    return 6 if ":" in address else 4


def both(ipv6: bool) -> tuple[Family, ...]:
    return FAMILIES if ipv6 else (4,)


def canonical(address: str) -> str:
    """The one spelling that the kernel, the sets and our tables share."""
    return str(ipaddress.ip_address(address))
