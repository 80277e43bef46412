"""The options of the back end ``docker``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from registry.duration import Duration
from registry.naming import ServiceName, ServiceSettings

__all__ = ["Options"]

Text = Annotated[str, msgspec.Meta(min_length=1)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``{kind: docker}`` for the containers of this machine."""

    endpoint: Text = "unix:///var/run/docker.sock"
    """The engine: ``unix:///PATH``, ``https://HOST:PORT`` or ``http://HOST:PORT``."""
    mode: Literal["containers", "swarm"] = "containers"
    """``containers``: what runs on this engine. ``swarm``: services and tasks of the cluster; the
    engine must be a manager."""
    labels: tuple[Literal["traefik", "registrator"], ...] = ("traefik", "registrator")
    """Whose labels are understood. On a container that has both, the first counts."""
    unlabelled: Literal["name", "skip"] = "name"
    """Containers without such labels: ``name``: a service by the name that Compose, a stack or
    ``docker run --name`` gave them, if they expose a port. ``skip``: left out."""
    network: Text | None = None
    """The network whose addresses are used; by default the one that the label
    ``traefik.docker.network`` or ``traefik.swarm.network`` names, else the first by name."""
    address: Literal["container", "published"] = "container"
    """``container``: the container's own address and port. ``published``: the host's."""
    host_address: Text | None = None
    """This machine's address, for ports that are published at all addresses and for containers in
    the host's network."""
    namespace: Text = "default"
    """The namespace of services that no Compose project or stack gives one."""
    services: dict[ServiceName, ServiceSettings] = {}
    """Virtual addresses, ports and protocols of services, by name."""
    resync: Duration = Duration("30s")
    """How often all containers are listed, in case that an event was missed. 100ms to 1h."""
    poll: Duration = Duration("5s")
    """How often the tasks of a Swarm are listed: it has no events for them. 100ms to 1h."""
    timeout: Duration = Duration("10s")
    """How long the engine may be silent while it answers. 100ms to 5m."""
    ca_file: Text | None = None
    """A PEM file of the authorities to trust; by default the system's."""
    cert_file: Text | None = None
    """A PEM file with our certificate, where the engine verifies its clients."""
    key_file: Text | None = None
    """The certificate's key, if it is not in the same file."""
