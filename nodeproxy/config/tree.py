"""The configuration as a tree of frozen structs. Defaults stand here and nowhere else.

The text under a field is what the configuration reference (docs/configuration.md) says of it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from nodeproxy.config.values import (
    Address,
    Cidr,
    DnsName,
    MetricsAddress,
    RegistryEntry,
    ServiceName,
)
from registry.base import Problem
from registry.duration import Duration
from registry.register.options import Registration

__all__ = [
    "AccessLog",
    "Admin",
    "Config",
    "Dns",
    "File",
    "Interception",
    "Listener",
    "Log",
    "Node",
    "Outlier",
    "Telemetry",
    "Traffic",
    "Vips",
]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


PortNumber = Annotated[int, Meta(ge=1, le=65535)]
Mark = Annotated[int, Meta(ge=1, le=0xFFFFFFFF)]
Count = Annotated[int, Meta(ge=1)]


class Node(_Section, frozen=True):
    """Who and where this node is."""

    name: str = ""
    """Name of the node, as registries write it; empty: the host name."""
    zone: str = ""
    """Zone of the node, as registries write it."""


class Interception(_Section, frozen=True):
    """How traffic reaches the proxy."""

    mode: Literal["iptables", "none"] = "iptables"
    """``iptables``: the kernel hands over connections to the registry's addresses (needs root
    or the capabilities NET_ADMIN and NET_RAW). ``none``: only explicit listeners."""
    vip_cidrs: tuple[Cidr, ...] = ()
    """Networks of the services' virtual addresses. They are routed to ``lo``, so that processes
    of the host can dial addresses to which the host has no route."""
    backend: Literal["auto", "nft", "legacy"] = "auto"
    """Which iptables to speak. ``auto``: the one that kube-proxy or Docker uses here."""
    ipv6: Literal["auto", "on", "off"] = "auto"
    """``auto``: if the kernel has IPv6."""
    kernel_path: Literal["auto", "on", "off"] = "auto"
    """Kernel rules that carry the services' traffic while the proxy does not. ``auto``: where no
    kube-proxy does that already."""
    fail: Literal["open", "closed"] = "open"
    """When the proxy is dead or hangs, its traffic takes the kernel's path (``open``) or is
    refused (``closed``)."""
    expiry: Duration = Duration("2s")
    """The dead-man's switch: after this time without a heartbeat the kernel stops handing
    traffic to the proxy. Whole seconds."""
    outbound_port: PortNumber = 15001
    """Port of the listener for intercepted connections."""
    mark: Mark = 0x4E500000
    """Firewall mark of the proxy's own packets, within ``mask``."""
    mask: Mark = 0xFFFF0000
    """Bits of the firewall mark that belong to nodeproxy; other programs keep theirs."""


class Listener(_Section, frozen=True):
    """An address of this node at which one service port is offered, without interception."""

    bind: Address
    """``address:port`` to listen on."""
    service: ServiceName
    """The service behind it: ``namespace/name``, or ``name`` in the namespace ``default``."""
    port: PortNumber
    """The service's port."""


class Vips(_Section, frozen=True):
    """Virtual addresses for services whose registry has none."""

    cidr: Cidr = Cidr("")
    """Network of the IPv4 addresses that are given to them, which nobody else uses; empty: none
    are. When intercepting it is routed as ``interception.vip_cidrs`` are."""
    cidr6: Cidr = Cidr("")
    """The same for IPv6."""

    @property
    def networks(self) -> tuple[Cidr, ...]:
        return tuple(cidr for cidr in (self.cidr, self.cidr6) if cidr)


class Dns(_Section, frozen=True):
    """A DNS responder for the services' names, ``service.namespace.mesh``."""

    listen: MetricsAddress = MetricsAddress("off")
    """Where it answers, by UDP and TCP, or ``off``."""
    suffix: DnsName = DnsName("mesh")
    """The zone. Also what ``nodeproxy hosts`` puts behind names."""
    ttl: Duration = Duration("5s")
    """How long an answer may be kept. Whole seconds."""


class Outlier(_Section, frozen=True):
    """When an endpoint is taken out because it fails. The last one is never taken out."""

    consecutive_5xx: Annotated[int, Meta(ge=0)] = 5
    """Responses with a 5xx status in a row; 0: off."""
    consecutive_gateway_failures: Annotated[int, Meta(ge=0)] = 5
    """Failed connections, resets, timeouts, 502, 503 and 504 in a row; 0: off."""
    base_ejection: Duration = Duration("30s")
    """Time out for the first ejection; the second lasts twice as long, and so on."""
    max_ejection: Duration = Duration("5m")
    """Upper bound of the time out."""
    max_ejection_percent: Annotated[int, Meta(ge=0, le=100)] = 30
    """At most this part of a service's endpoints is out at a time, but always at least one may
    be."""


class Traffic(_Section, frozen=True):
    """How connections and requests are carried, for every service."""

    balance: Literal["least_request", "round_robin", "random"] = "least_request"
    """``least_request``: of two endpoints drawn at random, the one with fewer requests in
    flight."""
    connect_timeout: Duration = Duration("1s")
    """For one attempt to connect to an endpoint."""
    connect_tries: Count = 3
    """Endpoints that are tried, one after the other, before a request is given up of which
    nothing has been sent."""
    detect_timeout: Duration = Duration("200ms")
    """How long to wait for a client's first bytes when the port's protocol is not declared;
    after that the connection is relayed as TCP (the server speaks first)."""
    tcp_idle_timeout: Duration = Duration("1h")
    """A relayed connection without a byte in either direction is closed."""
    keep_alive_timeout: Duration = Duration("75s")
    """An HTTP client's connection without a request is closed."""
    pool_idle_timeout: Duration = Duration("60s")
    """An idle connection to an endpoint is closed."""
    header_timeout: Duration = Duration("10s")
    """From the first byte of a request's head to its last."""
    body_timeout: Duration = Duration("60s")
    """Longest silence of a client within a request's body."""
    request_timeout: Duration = Duration("1h")
    """From the first byte of a request to the last of its body; 0: no limit."""
    response_timeout: Duration = Duration("0s")
    """From the end of a request to the head of its response; 0: no limit."""
    response_body_timeout: Duration = Duration("5m")
    """Longest silence of an endpoint within a response's body, and the time in which a client has
    to take what was read of it: at most 256 KiB at a time."""
    drain_timeout: Duration = Duration("10s")
    """At shutdown: for requests in flight to end."""
    max_connections: Count = 1024
    """Connections to the endpoints of one service port."""
    idle_connections: Annotated[int, Meta(ge=0)] = 64
    """Idle connections that are kept for one endpoint."""
    max_head: Annotated[int, Meta(ge=4096, le=1048576)] = 65536
    """Bytes of a request's head; a longer one is refused with 431."""
    max_body: Annotated[int, Meta(ge=0)] = 0
    """Bytes of a request's body; a longer one is refused with 413. 0: no limit."""
    max_clients: Annotated[int, Meta(ge=0)] = 0
    """Open connections of all clients. Over a limit, HTTP clients are answered with 503 and others
    reset. 0: as many as there are descriptors."""
    max_per_listener: Annotated[int, Meta(ge=0)] = 0
    """The same for each listener; all intercepted connections come through one. 0: no limit."""
    max_per_client: Annotated[int, Meta(ge=0)] = 0
    """The same for each address of a client. 0: no limit."""
    outlier: Outlier = Outlier()
    """Ejection of endpoints that fail."""
    via: bool = True
    """Add ``Via: 1.1 nodeproxy`` to requests."""
    via_answers: bool = False
    """Add it to the endpoints' answers, too."""
    forwarded: Literal["append", "overwrite", "trusted"] = "append"
    """What clients say in ``X-Forwarded-*``, ``Forwarded`` and ``X-Real-IP``: kept and added to
    (``append``), removed (``overwrite``), or kept only from ``trusted_proxies`` (``trusted``)."""
    trusted_proxies: tuple[Cidr, ...] = ()
    """Networks of the clients that are believed with ``forwarded: trusted``."""
    request_id: bool = True
    """Give an ``X-Request-Id`` to requests without one."""
    traceparent: bool = False
    """Begin a W3C trace, marked as sampled, for requests without a ``traceparent``."""
    proxy_status: bool = True
    """Say in ``Proxy-Status`` (RFC 9209) why an answer is the proxy's own."""


class AccessLog(_Section, frozen=True):
    """One line of JSON for a request or connection that has ended."""

    mode: Literal["errors", "all", "off"] = "errors"
    """``errors``: what failed or was slow. ``all``: everything, as sampled."""
    sample: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """Part of the requests that ``all`` writes, 0 to 1; errors and slow ones are always
    written."""
    slow: Duration = Duration("0s")
    """What takes longer is written in mode ``errors`` too; 0: off."""
    path: str = "stderr"
    """``stderr``, ``stdout`` or a file, which is opened for appending."""


class Telemetry(_Section, frozen=True):
    """What the proxy tells."""

    metrics: MetricsAddress = MetricsAddress("127.0.0.1:15020")
    """Address that serves ``/metrics``, ``/ready`` and ``/live``, or ``off``."""
    max_series: Count = 10000
    """Upper bound of time series; what exceeds it is counted together as ``overflow``."""
    access_log: AccessLog = AccessLog()
    """The access log."""


class Admin(_Section, frozen=True):
    """How the command line reaches the daemon."""

    socket: str = "/run/nodeproxy/admin.sock"
    """Path of the unix socket (mode 0600)."""


class Log(_Section, frozen=True):
    """The daemon's own log, on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Changed at run time with ``nodeproxy log-level``."""
    format: Literal["json", "console"] = "json"
    """``console`` is for eyes."""


class File(_Section, frozen=True):
    """What may stand in the file."""

    node: Node = Node()
    """Who and where this node is."""
    state_dir: str = "/var/lib/nodeproxy"
    """Folder for what survives a restart: the last good state of the registries, and the
    addresses that were given to services."""
    interception: Interception = Interception()
    """How traffic reaches the proxy."""
    outbound: Literal["passthrough", "registry-only"] = "passthrough"
    """Intercepted connections to addresses that no service has: relayed untouched, or refused."""
    listeners: tuple[Listener, ...] = ()
    """Explicit listeners: no root, no iptables."""
    registries: tuple[RegistryEntry, ...] = ()
    """Who is out there. In this order, the first registry that knows a service names its
    addresses and ports; endpoints are united, or taken by the registries' priorities."""
    register: tuple[Registration, ...] = ()
    """Services of this node that are announced to registries while they are well."""
    routes: str = ""
    """A file or folder of routes and policies: Gateway API objects; empty: none. They
    are followed while they change; ``nodeproxy validate`` checks them."""
    vips: Vips = Vips()
    """Virtual addresses for services whose registry has none."""
    dns: Dns = Dns()
    """A DNS responder for the services' names."""
    traffic: Traffic = Traffic()
    """How connections and requests are carried."""
    telemetry: Telemetry = Telemetry()
    """Metrics and the access log."""
    admin: Admin = Admin()
    """How the command line reaches the daemon."""
    log: Log = Log()
    """The daemon's own log."""


class Config(File, frozen=True):
    """The file's content, and what is known about the file."""

    path: str = ""
    """As it was given."""
    base_dir: str = ""
    """Absolute folder of the file: relative paths start here."""
    warnings: tuple[Problem, ...] = ()
    origins: dict[str, str] = {}
    """``traffic.connect_timeout`` -> ``nodeproxy.yaml:14``, for each key that the file sets and
    each element of its lists (``listeners[0]``)."""

    def origin(self, field: str) -> str:
        """Where a setting comes from: ``nodeproxy.yaml:14``, or ``default``."""
        return self.origins.get(field, "default")
