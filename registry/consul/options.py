"""The options of the back end ``consul``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from registry.duration import Duration
from registry.naming import ServiceName, ServiceSettings

__all__ = ["Options", "Status"]

Text = Annotated[str, msgspec.Meta(min_length=1)]
Status = Literal["passing", "warning", "critical", "maintenance"]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``{kind: consul}`` for the agent of this node."""

    address: Text = "http://127.0.0.1:8500"
    """The agent or server: ``http://HOST:PORT``, ``https://HOST:PORT`` or ``unix:///PATH``."""
    token: Text | None = None
    """The ACL token; better is ``token_file``."""
    token_file: Text | None = None
    """A file with the ACL token, relative to the file that configures the registry; read again
    after each failure, so it may rotate."""
    ca_file: Text | None = None
    """A PEM file of the authorities to trust; by default the system's."""
    cert_file: Text | None = None
    """A PEM file with our certificate, where Consul verifies its clients."""
    key_file: Text | None = None
    """The certificate's key, if it is not in the same file."""
    layout: Literal["catalog", "registrator-kv"] = "catalog"
    """``catalog``: services with their health. ``registrator-kv``: keys ``PREFIX/SERVICE/ID``
    with values ``ADDRESS:PORT``, as registrator's ``consulkv://`` writes them."""
    kv_prefix: Text = "services"
    """The prefix of ``registrator-kv``."""
    datacenter: Text | None = None
    """The data centre to read, by default the agent's own. For several, configure a registry for
    each: one that cannot be reached then does not hold up the others."""
    consul_namespace: Text | None = None
    """The namespace of Consul Enterprise."""
    partition: Text | None = None
    """The admin partition of Consul Enterprise."""
    follow: tuple[Text, ...] = ()
    """Only these services; by default all of the catalog, followed as they come and go."""
    prefix: str = ""
    """Of all services only those whose name begins so."""
    exclude: tuple[Text, ...] = ("consul",)
    """Of all services not these."""
    tags: tuple[Text, ...] = ()
    """Only instances that have all of these tags."""
    filter: Text | None = None
    """A filter expression of Consul for the instances: ``Service.Meta.env == "prod"``."""
    statuses: tuple[Status, ...] = ("passing",)
    """Instances in these states are used; the state is that of the worst check."""
    consistency: Literal["default", "stale", "consistent", "cached"] = "default"
    """``stale``: any server may answer, also without a leader. ``consistent``: the leader makes
    sure that it still is. ``cached``: the agent's own cache."""
    zone_meta: Text = "zone"
    """The key of the instance's or the node's metadata that names the zone, where Consul itself
    knows no locality."""
    namespace: Text = "default"
    """The namespace of our names: ``web`` becomes ``default/web``."""
    services: dict[ServiceName, ServiceSettings] = {}
    """Virtual addresses, ports and protocols of services, by name."""
    allow_loopback: bool = False
    """Use endpoints with loopback addresses: they mean this node, whoever registered them."""
    wait: Duration = Duration("1m")
    """How long a query waits for a change. A server that is frozen is noticed ten seconds later
    (plus a sixteenth). 1s to 10m."""
    interval: Duration = Duration("500ms")
    """How often one service is read again at most while it keeps changing; two reads may follow
    each other at once."""
    max_queries: Annotated[int, msgspec.Meta(ge=2, le=90)] = 50
    """The most queries, and connections, at a time. With more services than that they take
    turns; an agent takes 200 connections from one client."""
    rate: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    """Queries a second at most while services take turns."""
