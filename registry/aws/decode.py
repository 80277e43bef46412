"""What AWS says of instances and targets, as endpoints. Pure.

Cloud Map: API DiscoverInstances and its reserved attributes; Elastic Load Balancing v2:
DescribeTargetHealth; EC2: DescribeInstances.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Final

import msgspec

from registry.aws.options import CloudMap, Instances
from registry.aws.xmltext import items, text
from registry.model import Endpoint, Locality, Protocol
from registry.naming import endpoint_address, endpoint_port, sorted_labels

__all__ = [
    "Discovered",
    "Found",
    "TargetGroup",
    "map_endpoint",
    "reservation_endpoints",
    "target_endpoint",
    "target_group",
]


class Discovered(msgspec.Struct, frozen=True, rename="pascal"):
    """An instance of DiscoverInstances."""

    instance_id: str
    health_status: str = "UNKNOWN"
    attributes: dict[str, str] = {}


class TargetGroup(msgspec.Struct, frozen=True):
    """A target group, as far as its targets are concerned."""

    arn: str
    name: str
    kind: str
    """``instance``, ``ip``, ``lambda`` or ``alb``."""
    port: int = 0
    protocol: Protocol = ""


class Found(msgspec.Struct, frozen=True):
    """A target: where it is, or which instance it is."""

    instance: str
    """An instance's id; empty for an address."""
    endpoint: Endpoint
    """Without an address for an instance."""


_RESERVED: Final = ("AWS_", "ECS_")


def map_endpoint(found: Discovered, options: CloudMap, region: str) -> Endpoint:
    """Raises ValueError."""
    attributes = found.attributes
    address = attributes.get("AWS_INSTANCE_IPV4") or attributes.get("AWS_INSTANCE_IPV6")
    if not address:
        name = attributes.get("AWS_INSTANCE_CNAME") or attributes.get("AWS_ALIAS_DNS_NAME")
        if name:
            raise ValueError(f"{name!r} is a name; names are not resolved here")
        raise ValueError("no AWS_INSTANCE_IPV4 and no AWS_INSTANCE_IPV6")
    if "AWS_INSTANCE_PORT" in attributes:
        port = endpoint_port(attributes["AWS_INSTANCE_PORT"])
    elif options.port is not None:
        port = options.port
    else:
        raise ValueError("no AWS_INSTANCE_PORT, and no `port` is configured")
    # Instances without any health check are UNKNOWN.
    ready = found.health_status != "UNHEALTHY"
    zone = attributes.get("AVAILABILITY_ZONE", "")
    labels = sorted_labels(
        (key, value)
        for key, value in attributes.items()
        if not key.startswith(_RESERVED) and key not in ("AVAILABILITY_ZONE", "REGION")
    )
    return Endpoint(
        endpoint_address(address),
        port,
        locality=Locality(attributes.get("REGION", region), zone),
        labels=labels,
        ready=ready,
        serving=ready,
    )


_VERSIONS: Final[dict[str, Protocol]] = {"GRPC": "grpc", "HTTP2": "http2"}
_PROTOCOLS: Final[dict[str, Protocol]] = {
    "HTTP": "http", "HTTPS": "tls", "TCP": "tcp", "TLS": "tls"
}  # fmt: skip


def target_group(member: ET.Element) -> TargetGroup:
    """Raises ValueError."""
    name, arn = text(member, "TargetGroupName"), text(member, "TargetGroupArn")
    if not name or not arn:
        raise ValueError("a target group without name or ARN")
    kind = text(member, "TargetType") or "instance"
    if kind not in ("instance", "ip"):
        raise ValueError(f"its targets are of the type {kind!r}")
    spoken = text(member, "Protocol")
    if spoken in ("UDP", "QUIC"):
        raise ValueError(f"its targets speak {spoken}")
    protocol = _PROTOCOLS.get(spoken, "")
    if protocol == "http":
        protocol = _VERSIONS.get(text(member, "ProtocolVersion"), "http")
    port = text(member, "Port")
    return TargetGroup(arn, name, kind, endpoint_port(port) if port else 0, protocol)


def target_endpoint(member: ET.Element, group: TargetGroup, region: str) -> Found:
    """A member of DescribeTargetHealth. Raises ValueError."""
    target = text(member, "Target/Id")
    number = text(member, "Target/Port")
    port = endpoint_port(number) if number else group.port
    if not port:
        raise ValueError(f"the target {target!r} has no port")
    zone = text(member, "Target/AvailabilityZone")
    state = text(member, "TargetHealth/State")
    reason = text(member, "TargetHealth/Reason")
    draining = state in ("draining", "unhealthy.draining")
    # A group that no listener uses is not checked: nothing speaks against its targets.
    unchecked = state == "unavailable" or (state == "unused" and reason == "Target.NotInUse")
    ready = state == "healthy" or unchecked
    by_instance = group.kind == "instance"
    endpoint = Endpoint(
        "" if by_instance else endpoint_address(target),
        port,
        locality=Locality(region, "" if zone == "all" else zone),
        ready=ready,
        serving=ready or draining,
        terminating=draining,
    )
    return Found(target if by_instance else "", endpoint)


def reservation_endpoints(
    reservation: ET.Element, options: Instances, region: str
) -> list[tuple[str, Endpoint | str]]:
    """The instances of a reservation: id, and endpoint or what is wrong."""
    found: list[tuple[str, Endpoint | str]] = []
    for instance in items(reservation, "instancesSet"):
        name = text(instance, "instanceId")
        address = {
            "private": text(instance, "privateIpAddress"),
            "public": text(instance, "ipAddress"),
            "ipv6": next((text(e, ".") for e in instance.iter("ipv6Address")), ""),
        }[options.address]
        if not address:
            found.append((name, f"it has no {options.address} address"))
            continue
        locality = Locality(region, text(instance, "placement/availabilityZone"))
        try:
            endpoint = Endpoint(endpoint_address(address), options.port, locality=locality)
        except ValueError as error:
            found.append((name, str(error)))
            continue
        found.append((name, endpoint))
    return found
