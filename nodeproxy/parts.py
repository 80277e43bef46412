"""The parts of one running node, side by side: what the daemon composes, and what is shown."""

from __future__ import annotations

from dataclasses import dataclass

from nodeproxy.config import Config
from nodeproxy.core.standing import Standing, standings
from nodeproxy.dataplane.node import Node
from nodeproxy.dataplane.reactor import Reactor
from nodeproxy.dataplane.upstream import Target
from nodeproxy.dns.server import Responder
from nodeproxy.intercepting import Intercepting
from nodeproxy.routing import Routing
from nodeproxy.telemetry.metrics import Metrics
from registry.model import Endpoint, Port, Service
from registry.register.runner import Registrations
from registry.supervise import Registries

__all__ = ["Parts"]


@dataclass(slots=True)
class Parts:
    """One node's parts, and how far its start has come."""

    config: Config
    name: str
    """The node's."""
    started: float
    """Seconds since the epoch."""
    metrics: Metrics
    reactor: Reactor
    node: Node
    registries: Registries
    intercepting: Intercepting | None
    """None in mode ``none``."""
    responder: Responder | None = None
    """None where ``dns.listen`` is off."""
    routing: Routing | None = None
    """None without ``routes``."""
    registrations: Registrations | None = None
    """None where nothing is announced."""
    synced: bool = False
    """Each registry has answered, or its last good state serves, or it has failed once."""
    complete: bool = False
    """All parts have begun."""
    last_stall: float = 0.0
    """Seconds of the loop's last stall."""
    worst_stall: float = 0.0

    def targets(
        self, service: Service, port: Port
    ) -> list[tuple[Endpoint, Standing, Target | None]]:
        """The endpoints of a service port, their standing, and what the data plane has of them:
        nothing while the port is not in use, for then the registry's word is all there is."""
        upstream = self.node.upstreams.get((service.name, port.port))
        if upstream is not None:
            return [(t.endpoint, t.standing, t) for t in upstream.targets.values()]
        endpoints = service.endpoints_of(port)
        found = standings(endpoints, (), self.node.own)
        return [(e, found[e.key], None) for e in endpoints]
