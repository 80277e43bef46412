"""What the admin API answers: one frozen struct per answer.

The field names are the JSON keys, and scripts rely on them: fields may be added, but never be
renamed or removed. Durations are seconds, sizes are bytes, an address with its port is
``address:port`` (``[address]:port`` for IPv6). A time span of None means that the moment never
came.

:class:`View` is what the daemon implements. Its methods are plain calls on the loop: the
listings return iterators, which the server drains in slices, and must survive that the
catalog is replaced between two slices (take the catalog once, at the start).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

import msgspec

from nodeproxy.admin.explained import (
    CandidateView,
    ExplainQuery,
    ExplainView,
    SettingView,
    StepView,
)
from nodeproxy.admin.registered import CheckView, RegistrationView

__all__ = [
    "CandidateView",
    "CheckView",
    "DriftView",
    "EndpointView",
    "ExplainQuery",
    "ExplainView",
    "HostView",
    "InterceptionView",
    "ListenerView",
    "LogLevel",
    "LoopView",
    "PortView",
    "ProbeView",
    "ProblemView",
    "RegistrationView",
    "RegistryView",
    "RouteView",
    "RoutesView",
    "RulesView",
    "ServiceDetail",
    "ServiceView",
    "SettingView",
    "StatusView",
    "StepView",
    "VerifyView",
    "View",
    "VipsView",
]

LogLevel = Literal["debug", "info", "warning", "error"]


class ProblemView(msgspec.Struct, frozen=True):
    """Something in a file or registry that could not be used."""

    message: str
    source: str = ""
    line: int = 0
    field: str = ""


class RegistryView(msgspec.Struct, frozen=True):
    """One configured registry."""

    name: str
    kind: str
    state: str
    """``starting``, ``restored``, ``synced``, ``kept``, ``stale`` or ``failed``; ``meaning`` says
    what that is."""
    synced: bool
    """It has given a complete answer since this daemon started."""
    age_seconds: float | None = None
    """Since its content was last confirmed by the registry, also for content read from disk."""
    services: int = 0
    endpoints: int = 0
    restarts: int = 0
    last_error: str = ""
    from_disk: bool = False
    """Its last good state, kept on disk, is in use: the registry has not answered yet."""
    problems: tuple[ProblemView, ...] = ()
    """Entries that cannot be used; the first ones where there are very many."""
    problems_total: int = 0
    save_error: str = ""
    """Why its last good state could not be written to disk; empty while it can."""
    meaning: str = ""
    """The state as a sentence."""
    origin: str = ""
    """``nodeproxy.yaml:12``"""
    priority: int = 0
    """The lower, the more trusted."""
    services_alone: int = 0
    """Services that no other registry has."""
    services_used: int = 0
    """Services whose endpoints of this registry are in use."""
    empty_answers_kept: int = 0
    """Times that it suddenly had no service at all and was not believed."""
    kept_seconds: float | None = None
    """For how long such an answer is not believed now."""


class VipsView(msgspec.Struct, frozen=True):
    """The virtual addresses that were given to services without one."""

    networks: tuple[str, ...]
    given: int = 0
    """Services that have one."""
    kept: int = 0
    """Services that are gone and whose address is kept for them."""
    missing: int = 0
    """Services that have none because a network is full."""
    capacity: int = 0
    """Services for which the smallest network has room."""
    problems: tuple[ProblemView, ...] = ()


class RoutesView(msgspec.Struct, frozen=True):
    """The files of routes and policies, in brief; ``/routes`` has the rules."""

    path: str
    files: int = 0
    objects: int = 0
    generation: int = 0
    """Counts the changes of the files."""
    in_force: bool = False
    """What was read last is what traffic takes; False while it is compiled."""
    services: int = 0
    """Services with a route that is accepted."""
    problems: tuple[ProblemView, ...] = ()
    """While a file has one, its last good state counts; the first ones where there are very
    many."""
    problems_total: int = 0


class HostView(msgspec.Struct, frozen=True):
    """One line of a hosts file."""

    address: str
    names: tuple[str, ...]
    """``web.shop.mesh``, ``web.shop``"""
    service: str
    """``shop/web``"""


class ListenerView(msgspec.Struct, frozen=True):
    """An address on which the data plane accepts connections."""

    address: str
    kind: Literal["outbound", "inbound", "explicit"]
    """Intercepted by iptables (both directions), or configured under ``listeners``."""
    service: str = ""
    """``namespace/name:port`` of an explicit listener."""
    connections: int = 0
    """Open now."""
    accepted: int = 0
    """Since the start."""


class InterceptionView(msgspec.Struct, frozen=True):
    """How traffic reaches the proxy, in brief; ``/rules`` has the whole."""

    mode: Literal["iptables", "none"]
    installed: bool = False
    live: bool = False
    """The dead-man's switch is on: the kernel hands traffic to the proxy now."""
    backend: str = ""
    """``nft`` or ``legacy``."""
    families: tuple[str, ...] = ()
    """``ipv4``, ``ipv6``."""
    kernel_path: str = ""
    """What carries traffic when the switch is off: ``kube-proxy``, ``nodeproxy`` or ``none``."""
    fail: str = ""
    """``open`` or ``closed``."""
    last_beat_age_seconds: float | None = None
    expiry_seconds: float = 0.0
    frontends: int = 0
    """Addresses with ports that are intercepted."""
    drift: int = 0
    """Differences between the kernel's rules and ours that were found and not yet repaired."""
    repairs: int = 0
    last_error: str = ""


class LoopView(msgspec.Struct, frozen=True):
    """The health of the one loop that carries everything."""

    lanes: int = 0
    """Coroutines of the data plane that are alive: connections, in the main."""
    last_stall_seconds: float = 0.0
    worst_stall_seconds: float = 0.0
    open_files: int = 0
    open_files_limit: int = 0
    memory_bytes: int = 0
    """Resident set."""


class StatusView(msgspec.Struct, frozen=True):
    """The daemon on one page."""

    version: str
    pid: int
    node: str
    ready: bool
    reasons: tuple[str, ...] = ()
    """Why it is not ready; empty when it is."""
    zone: str = ""
    started: str = ""
    """RFC 3339, UTC."""
    uptime_seconds: float = 0.0
    config: str = ""
    """Absolute path of the configuration."""
    warnings: tuple[str, ...] = ()
    """What the configuration's reader warned of."""
    log_level: str = ""
    generation: int = 0
    """Counts the changes of the catalog."""
    services: int = 0
    endpoints: int = 0
    endpoints_ejected: int = 0
    connections: int = 0
    """From clients, open now."""
    requests: int = 0
    """Requests and relayed connections that have ended, since the start."""
    errors: int = 0
    """Of these, the ones that the proxy had to answer with an error of its own."""
    listeners: tuple[ListenerView, ...] = ()
    interception: InterceptionView = InterceptionView(mode="none")
    registries: tuple[RegistryView, ...] = ()
    conflicts: tuple[ProblemView, ...] = ()
    """Addresses that two services claim."""
    vips: VipsView | None = None
    """None where no addresses are given."""
    routes: RoutesView | None = None
    """None without ``routes`` in the configuration."""
    loop: LoopView = LoopView()


class PortView(msgspec.Struct, frozen=True):
    port: int
    name: str = ""
    protocol: str = ""
    """As declared by the registry; empty: detected per connection."""


class ServiceView(msgspec.Struct, frozen=True):
    """One line of ``nodeproxy services``."""

    name: str
    vips: tuple[str, ...] = ()
    ports: tuple[PortView, ...] = ()
    endpoints: int = 0
    endpoints_eligible: int = 0
    """Endpoints that may take a new request now."""
    registries: tuple[str, ...] = ()
    """Registries that know it, in the configured order."""


class EndpointView(msgspec.Struct, frozen=True):
    """One endpoint of one service."""

    service: str
    address: str
    """``address:port``"""
    state: Literal["ready", "not-ready", "terminating", "ejected", "weight-0"]
    eligible: bool
    """It may take a new request now. An ejected one may be eligible, when too many are out."""
    reason: str = ""
    """Why it is in this state, as a sentence; empty for an ordinary ``ready``."""
    port_name: str = ""
    weight: int = 1
    zone: str = ""
    node: str = ""
    labels: dict[str, str] = {}
    active_requests: int = 0
    """In flight from this node now; connections for TCP."""
    idle_connections: int = 0
    """Kept open for the next request."""
    requests: int = 0
    """Since the daemon started or the endpoint appeared."""
    failures: int = 0
    consecutive_failures: int = 0
    ejections: int = 0
    """How often it was ejected."""
    ejected_until: str = ""
    """RFC 3339, UTC; empty: not ejected."""
    ejected_seconds: float = 0.0
    """Time left until it is tried again."""
    last_failure: str = ""
    """The error, as it stands in the access log."""
    last_failure_age_seconds: float | None = None


class ServiceDetail(msgspec.Struct, frozen=True):
    """One service with everything that is known of it."""

    service: ServiceView
    endpoints: tuple[EndpointView, ...] = ()
    labels: dict[str, str] = {}
    origin: str = ""
    """Where the registry read it: ``services.yaml:12``."""
    balance: str = ""
    intercepted: bool = False
    conflicts: tuple[ProblemView, ...] = ()


class RouteView(msgspec.Struct, frozen=True):
    """Where requests to one address go: a row of what the proxy would look up."""

    destination: str
    """``address:port`` that clients dial: a VIP, or an explicit listener; empty where there is
    none."""
    kind: Literal["vip", "listener", "none"]
    """``none``: no address leads here."""
    service: str
    port: int
    protocol: str = ""
    """Declared; empty: detected."""
    rule: str = ""
    """What matches beyond the address: ``path begins with /api and header x is 1``; empty:
    everything."""
    backends: tuple[str, ...] = ()
    """``namespace/name:port`` with the weight behind it when there are several."""
    endpoints_eligible: int = 0
    origin: str = ""
    route: str = ""
    """``HTTPRoute shop/web rules[0]``; empty: the service's own endpoints."""
    route_rule: str = ""
    """The metric label."""
    clients: str = ""
    """The namespace whose clients alone it is for; empty: all."""
    problems: tuple[str, ...] = ()
    """Why it, or a share of it, is not carried: ``BackendNotFound: no registry knows ...``"""


class DriftView(msgspec.Struct, frozen=True):
    """One difference between what is in the kernel and what should be."""

    message: str
    kind: str = ""
    """``jump``, ``order``, ``chain``, ``set``, ``address``, ``route``, ``kernel-path``"""
    where: str = ""
    """``iptables -t nat PREROUTING``"""


class RulesView(msgspec.Struct, frozen=True):
    """Everything that nodeproxy keeps in the kernel."""

    interception: InterceptionView
    text: str = ""
    """Rules, sets, addresses and routes in the syntax of their tools, for people."""


class VerifyView(msgspec.Struct, frozen=True):
    """The kernel's state compared with ours."""

    ok: bool
    drift: tuple[DriftView, ...] = ()
    repaired: int = 0
    """Of a repair: differences that are gone now."""
    note: str = ""
    """Why there was nothing to compare; empty where there was."""


class ProbeView(msgspec.Struct, frozen=True):
    """For ``/ready`` and ``/live``."""

    ok: bool
    reasons: tuple[str, ...] = ()


class View(Protocol):
    """What the daemon shows. Plain calls take below 5 ms; the iterators do their work as
    they are drained, a bounded part of it for each value. Those about rules raise
    :class:`nodeproxy.admin.messages.Unable` where the kernel refuses."""

    def status(self) -> StatusView: ...

    def ready(self) -> ProbeView:
        """Every registry has answered (or its last good state serves), the listeners are open
        and interception is live."""

    def live(self) -> ProbeView:
        """The process is not beyond help. It answers at all, so the loop turns."""

    def services(self) -> Iterable[ServiceView]:
        """Sorted by name."""

    def hosts(self, suffix: str = "") -> Iterable[HostView]:
        """A line for each virtual address of each service, by service. ``suffix``: by default the
        configured one."""

    def service(self, name: str) -> ServiceDetail | None:
        """``namespace/name``, or None."""

    def endpoints(self, service: str = "") -> Iterable[EndpointView] | None:
        """Of all services or of one; None when there is no such service."""

    def routes(self, service: str = "") -> Iterable[RouteView] | None:
        """Of all services or of one; None when there is no such service."""

    def registries(self) -> tuple[RegistryView, ...]: ...

    def registrations(self) -> tuple[RegistrationView, ...]:
        """This node's own services that are announced, in configured order."""

    async def explain(self, query: ExplainQuery) -> ExplainView:
        """Asynchronous, as the rules on the machine are read."""

    def metrics(self) -> Iterator[bytes]:
        """The Prometheus text format 0.0.4, in slices."""

    def log_level(self) -> LogLevel: ...

    def set_log_level(self, level: LogLevel) -> None: ...

    async def rules(self) -> RulesView: ...

    async def rules_verify(self) -> VerifyView: ...

    async def rules_repair(self) -> VerifyView:
        """Also brings interception back after ``rules_remove``."""

    async def rules_remove(self) -> RulesView:
        """Stop intercepting until ``rules_repair`` or the next start: stop the heartbeat and
        the watch first, so that the rules are not repaired, then remove everything."""
