"""Addresses in their one canonical text form, so that equal addresses are equal strings."""

from __future__ import annotations

import functools
import ipaddress
import socket

import msgspec

from registry.base import Problem
from registry.model import Endpoint, Service

__all__ = ["canonical", "is_proxyable", "normalised", "split_host_port"]


def canonical(address: str) -> str:
    """``::FFFF:10.0.0.1`` -> ``10.0.0.1``, ``2001:DB8:0::1`` -> ``2001:db8::1``.

    An IPv4-mapped IPv6 address is the IPv4 address: a dual-stack socket shows the same peer
    in this form. Raises ValueError for anything else than an address, including one with a
    scope (``fe80::1%eth0``): it means something on one machine only.
    """
    if ":" in address:
        return _canonical6(address)
    try:
        # Strict (no leading zeros, four parts), so what it accepts is canonical already;
        # ten times faster than the ipaddress module, which is asked only for the message.
        socket.inet_pton(socket.AF_INET, address)
    except (OSError, ValueError, UnicodeError):
        return str(ipaddress.IPv4Address(address))
    return address


@functools.lru_cache(maxsize=65536)
def _canonical6(address: str) -> str:
    parsed = ipaddress.IPv6Address(address)
    if parsed.scope_id is not None:
        raise ValueError(f"{address!r} has a scope")
    return str(parsed.ipv4_mapped or parsed)


def is_proxyable(address: str) -> bool:
    """Whether traffic may be sent to this endpoint address: kube-proxy's isProxyableIP.

    Loopback, link-local and link-local multicast addresses would let whoever writes endpoints
    reach the node itself and its metadata service (CVE-2020-8558, CVE-2020-8554).
    """
    ip = ipaddress.ip_address(address)
    if ip.is_loopback or ip.is_link_local or ip.is_unspecified:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return ip not in _MULTICAST4
    return ip not in _MULTICAST6


_MULTICAST4 = ipaddress.IPv4Network("224.0.0.0/24")
_MULTICAST6 = ipaddress.IPv6Network("ff02::/16")


def split_host_port(text: str) -> tuple[str, int]:
    """``10.0.0.1:80`` or ``[2001:db8::1]:80``, the address canonical. Raises ValueError."""
    host, colon, number = text.rpartition(":")
    if not colon or not number.isascii() or not number.isdecimal():
        raise ValueError(f"{text!r} is not ADDRESS:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError(f"{text!r}: brackets are for IPv6 addresses")
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets: [{host}]:{number}")
    # Not int() of any length: Python refuses texts above some thousand digits with an error.
    port = int(number) if len(number) <= 5 else 0
    if not 1 <= port <= 65535:
        raise ValueError(f"{text!r}: the port must be 1 to 65535")
    try:
        return canonical(host), port
    except ValueError:
        raise ValueError(f"{host!r} is not an IP address (names are not resolved here)") from None


def normalised(service: Service) -> tuple[Service, list[Problem]]:
    """``service`` with canonical addresses, without repeated addresses, ports and endpoints
    (the first stays), and without those that can never work, each with a problem.

    The service itself if there is nothing to change, which is the usual case.
    """
    problems: list[Problem] = []

    def say(message: str) -> None:
        problems.append(Problem(message, service.origin, 0, service.name))

    vips: dict[str, None] = {}
    for vip in service.vips:
        try:
            vips[canonical(vip)] = None
        except ValueError:
            say(f"the virtual address {vip!r} is not an IP address")
    ports = {port.port: port for port in reversed(service.ports)}
    for number in [n for n in ports if not 1 <= n <= 65535]:
        say(f"{number} is not a port")
        del ports[number]
    endpoints: dict[tuple[str, int, str], Endpoint] = {}
    changed = len(vips) != len(service.vips) or tuple(vips) != service.vips
    changed |= len(ports) != len(service.ports)
    for endpoint in service.endpoints:
        try:
            address = canonical(endpoint.address)
        except ValueError:
            say(f"the endpoint {endpoint.address!r} is not an IP address")
            changed = True
            continue
        if not 1 <= endpoint.port <= 65535:
            say(f"the endpoint {address} has no valid port ({endpoint.port})")
            changed = True
            continue
        if address != endpoint.address:
            endpoint = msgspec.structs.replace(endpoint, address=address)
            changed = True
        key = (address, endpoint.port, endpoint.port_name)
        if endpoints.setdefault(key, endpoint) is not endpoint:
            changed = True
    if not changed:
        return service, problems
    new = msgspec.structs.replace(
        service,
        vips=tuple(vips),
        ports=tuple(reversed(ports.values())),
        endpoints=tuple(endpoints.values()),
    )
    return new, problems
