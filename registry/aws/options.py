"""The options of the back end ``aws``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from registry.duration import Duration
from registry.model import Protocol
from registry.naming import ServiceName, ServiceSettings

__all__ = ["CloudMap", "Instances", "Options", "TargetGroups"]

Text = Annotated[str, msgspec.Meta(min_length=1)]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class CloudMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A namespace of Cloud Map."""

    namespace: Text
    """Its name."""
    follow: tuple[Text, ...] = ()
    """Only these services; by default all of the namespace, followed as they come and go."""
    health: Literal["all", "healthy", "healthy-or-else-all"] = "all"
    """Which instances to ask for. With ``all`` those that are not healthy are known, but not
    used."""
    port: PortNumber | None = None
    """The port of instances that have no ``AWS_INSTANCE_PORT``."""
    mesh_namespace: Text | None = None
    """Our namespace of its services; by default the registry's."""


class TargetGroups(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Target groups of Application and Network Load Balancers."""

    names: tuple[Text, ...] = ()
    """By name."""
    arns: tuple[Text, ...] = ()
    """By ARN."""
    load_balancer_arn: Text | None = None
    """All target groups of this load balancer."""


class Instances(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """EC2 instances that are one service."""

    service: ServiceName
    """Its name."""
    port: PortNumber
    """The port of each instance."""
    tags: dict[str, str]
    """All of these tags; ``*`` stands for any text."""
    address: Literal["private", "public", "ipv6"] = "private"
    """Which address of an instance is used."""
    protocol: Protocol = ""
    """How the port speaks; detected if left out."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``{kind: aws, cloud_map: [{namespace: prod}]}``"""

    cloud_map: tuple[CloudMap, ...] = ()
    """Namespaces of Cloud Map."""
    target_groups: TargetGroups | None = None
    """Target groups: ``names``, ``arns`` or ``load_balancer_arn``."""
    instances: tuple[Instances, ...] = ()
    """EC2 instances by tag."""
    region: Text | None = None
    """By default ``AWS_REGION``, ``AWS_DEFAULT_REGION``, the profile's, or this instance's own."""
    profile: Text | None = None
    """The profile of the shared files; by default ``AWS_PROFILE``, else ``default``."""
    endpoint_url: Text | None = None
    """One URL for all services of AWS: a VPC endpoint, a proxy, a simulator."""
    metadata: bool = True
    """Ask the instance metadata service (IMDSv2) for what nothing else names."""
    namespace: Text = "default"
    """The namespace of our services."""
    services: dict[ServiceName, ServiceSettings] = {}
    """Virtual addresses, ports and protocols of services, by name."""
    poll: Duration = Duration("5s")
    """How often Cloud Map is asked whether instances came or went (its revision, which is cheap).
    100ms to 1h."""
    refresh: Duration = Duration("20s")
    """How often everything is read: health in Cloud Map, which has no revision, target groups and
    instances. 100ms to 1h."""
    timeout: Duration = Duration("10s")
    """How long AWS may be silent while it answers. 100ms to 5m."""
    attempts: Annotated[int, msgspec.Meta(ge=1, le=20)] = 6
    """How often a request is made that AWS throttles or fails, with growing pauses."""
