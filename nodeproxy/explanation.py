"""``explain``: what would happen to a request now, and why.

Each stage asks the function that decides for real traffic: the rules on the machine (walked by
the tracer), ``core.destination``, ``core.standing`` and the balancer's own pick.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from iptables.errors import InterceptionError
from iptables.matches import Packet
from nodeproxy.admin.views import (
    CandidateView,
    ExplainQuery,
    ExplainView,
    SettingView,
    StepView,
)
from nodeproxy.core.balance import Picker, RoundRobin, picker
from nodeproxy.core.destination import Direct, Found, dialled, host_port, named
from nodeproxy.core.errors import NoEndpoints, ProxyError
from nodeproxy.core.explain import choose
from nodeproxy.core.standing import Standing
from nodeproxy.explainroutes import Routed, explain_http, explain_tcp, own
from nodeproxy.parts import Parts
from registry.catalog import Catalog
from registry.model import Endpoint, Port, Service

if TYPE_CHECKING:
    from nodeproxy.dataplane.upstream import Target

__all__ = ["STATES", "explain"]

EndpointState = Literal["ready", "not-ready", "terminating", "ejected", "weight-0"]
STATES: Final[dict[Standing, EndpointState]] = {
    Standing.READY: "ready",
    Standing.FALLBACK: "terminating",
    Standing.EJECTED: "ejected",
    Standing.PANIC: "ejected",
    Standing.NOT_READY: "not-ready",
    Standing.TERMINATING: "terminating",
    Standing.NO_WEIGHT: "weight-0",
    Standing.LOOP: "not-ready",
}
SETTINGS: Final = (
    "traffic.balance",
    "traffic.connect_timeout",
    "traffic.response_timeout",
    "traffic.max_connections",
    "traffic.outlier.consecutive_5xx",
    "traffic.outlier.base_ejection",
)


async def explain(query: ExplainQuery, parts: Parts) -> ExplainView:
    """The whole story of one request that nobody has sent."""
    story = _Story(query, parts)
    return await story.tell()


class _Candidate:
    """An endpoint as a balancer sees it, also where the data plane has no state of it."""

    __slots__ = ("endpoint", "load", "weight")

    def __init__(self, endpoint: Endpoint, target: Target | None) -> None:
        self.endpoint = endpoint
        self.load = target.load if target is not None else 0
        self.weight = endpoint.weight


class _Story:
    def __init__(self, query: ExplainQuery, parts: Parts) -> None:
        self.query = query
        self.parts = parts
        self.steps: list[StepView] = []
        self.view = ExplainView(query, "unreachable", "")

    def step(self, stage: str, what: str, matched: bool, why: str = "") -> None:
        self.steps.append(StepView(stage, what, matched, why))  # type: ignore[arg-type]

    def end(self, outcome: str, summary: str, **fields: object) -> ExplainView:
        self.step("outcome", summary, outcome in ("proxied", "answered"))
        return msgspec.structs.replace(
            self.view, outcome=outcome, summary=summary, steps=tuple(self.steps), **fields
        )

    def note(self, **fields: object) -> None:
        self.view = msgspec.structs.replace(self.view, **fields)

    async def tell(self) -> ExplainView:
        addresses = list(self._addresses())
        if not addresses:
            known = _by_name(self.parts.registries.catalog, self.query.host)
            what = f"no service and no address is known for {self.query.host}: name a virtual"
            if known is not None:
                what = f"{known.name} has no virtual address: name another service, a virtual"
            return self.end(
                "unreachable",
                f"{what} address, a service as NAME.NAMESPACE, or an explicit listener",
            )
        destination = addresses[0]
        self.note(destination=host_port(destination))
        explicit = self._explicit(destination)
        try:
            if explicit is not None:
                service, _, number = explicit.rpartition(":")
                found: Found | Direct = named(self.parts.registries.catalog, service, int(number))
                self.step(
                    "destination", f"explicit listener {host_port(destination)}", True,
                    f"it stands for {explicit}",
                )  # fmt: skip
            else:
                ended = await self._intercepted(destination)
                if ended is not None:
                    return ended
                found = self._dialled(destination)
        except ProxyError as error:
            # Without a service no protocol is known in which to answer: it is a reset.
            return self.end("refused", str(error), flags=error.flag)
        if isinstance(found, Direct):
            return self.end(
                "passthrough",
                f"no service has {host_port(destination)}: it is relayed there untouched",
            )
        return self._serve(*found)

    # -- where it goes --------------------------------------------------------------------

    def _addresses(self) -> Iterator[tuple[str, int]]:
        """What the host of the URL stands for, as an application's resolver would have it."""
        host, port = self.query.host, self.query.port
        try:
            yield str(ipaddress.ip_address(host)), port
            return
        except ValueError:
            pass
        if host == "localhost":
            yield "127.0.0.1", port
            return
        service = _by_name(self.parts.registries.catalog, host)
        if service is None:
            self.step("destination", f"name {host}", False, "no service has this name")
            return
        self.step(
            "destination", f"name {host}", True,
            f"service {service.name}, virtual addresses {', '.join(service.vips) or 'none'}",
        )  # fmt: skip
        for vip in service.vips:
            yield vip, port

    def _explicit(self, destination: tuple[str, int]) -> str | None:
        """The service port of an explicit listener at this address."""
        for listener in self.parts.node.listeners:
            if listener.service and listener.address == destination:
                return listener.service
        return None

    async def _intercepted(self, destination: tuple[str, int]) -> ExplainView | None:
        """Follow the packet through the kernel. The answer, if the proxy never sees it."""
        taking = self.parts.intercepting
        if taking is None:
            self.step("interception", "interception.mode: none", False, "no rules are installed")
            return self.end(
                "kernel", f"nothing is intercepted: {host_port(destination)} is dialled directly"
            )
        source = self.query.source
        packet = Packet(
            source=source or ("::1" if ":" in destination[0] else "127.0.0.1"),
            destination=destination[0],
            port=destination[1],
            interface="pod" if source else "lo",
        )
        try:
            trace = await taking.kernel.trace(packet)
        except InterceptionError as error:
            self.step("interception", "the rules on this machine", False, str(error))
            return self.end("unreachable", "the rules on this machine cannot be read")
        for step in trace.steps:
            self.step(
                "interception", f"{step.table} {step.chain}: {step.rule}", bool(step.matched),
                step.why,
            )  # fmt: skip
        if trace.verdict == "proxy":
            return None
        if trace.verdict in ("accept", "endpoint"):
            return self.end("kernel", f"the proxy does not see it: {trace.sentence}")
        return self.end("unreachable", trace.sentence)

    def _dialled(self, destination: tuple[str, int]) -> Found | Direct:
        node = self.parts.node
        found = dialled(
            self.parts.registries.catalog,
            destination,
            node.own,
            registry_only=node.settings.registry_only,
        )
        what = f"catalog {host_port(destination)}"
        if isinstance(found, Direct):
            self.step("destination", what, False, "no service has this address and port")
        else:
            service, port = found
            self.step("destination", what, True, f"service {service.name}, port {port.port}")
        return found

    # -- who serves it --------------------------------------------------------------------

    def _serve(self, service: Service, port: Port) -> ExplainView:
        """What the client dialled is known: by which rule, and to which backend."""
        rules = self.parts.node.routes.find(service.name, port.port)
        protocol, why = _protocol(self.query, port)
        if rules is not None and rules.tcp is not None:
            protocol, why = "tcp", "a TCPRoute is attached: the connection is relayed as TCP"
        self.step("protocol", protocol, True, why)
        self.note(
            service=service.name,
            port=port.port,
            service_origin=service.origin,
            protocol=protocol,
            protocol_why=why,
            settings=tuple(self._settings()),
        )
        catalog = self.parts.registries.catalog
        if rules is not None and rules.tcp is not None:
            return self._routed(explain_tcp(rules.tcp, catalog, random.random()), protocol)
        if rules is not None and rules.http is not None and protocol == "http":
            return self._routed(
                explain_http(self.query, rules.http, port.port, catalog, random.random()), protocol
            )
        self.steps.append(own(service, port))
        return self._balance(service, port, protocol)

    def _routed(self, routed: Routed, protocol: str) -> ExplainView:
        self.steps += routed.steps
        self.note(route=routed.rule, settings=(*routed.settings, *self.view.settings))
        if routed.error is not None:
            error = routed.error
            how = str(error.status) if protocol == "http" else "the connection is reset"
            return self.end(
                "refused",
                f"{how}: {error}",
                status=error.status if protocol == "http" else 0,
                flags=error.flag,
            )
        if routed.answer is not None:
            line = routed.answer.partition(b"\r\n")[0].decode().partition(" ")[2]
            return self.end(
                "answered", f"{line}, by rule {routed.rule}", status=int(routed.answer[9:12])
            )
        assert routed.found is not None
        return self._balance(*routed.found, protocol)

    def _balance(self, service: Service, port: Port, protocol: str) -> ExplainView:
        policy = self.parts.node.settings.policy
        backend = f"{service.name}:{port.port}"
        targets = self.parts.targets(service, port)
        usable = [(e, t) for e, standing, t in targets if standing.takes_traffic]
        self.note(backend=backend, balance=policy.balance, notes=tuple(self._notes(service)))
        candidates = [_Candidate(e, t) for e, t in usable]
        choice = None
        if candidates:
            choice = choose(self._picker(service, port, candidates), candidates, random.random)
        views = []
        index = 0
        for endpoint, standing, target in targets:
            share = None
            if standing.takes_traffic and choice is not None:
                share = choice.share.get(index)
                index += 1
            drawn = choice is not None and any(
                c.endpoint.key == endpoint.key for c in choice.compared
            )
            picked = choice is not None and choice.picked.endpoint.key == endpoint.key
            views.append(_candidate(endpoint, standing, target, share, drawn, picked, self.parts))
        eligible = f"{len(usable)} of {len(targets)} endpoints take new traffic"
        self.step("balance", policy.balance, choice is not None, eligible)
        self.note(candidates=tuple(views))
        if choice is None:
            how = "503" if protocol == "http" else "the connection is reset"
            return self.end(
                "refused",
                f"{how}: none of the {len(targets)} endpoints of {backend} takes traffic",
                status=NoEndpoints.status if protocol == "http" else 0,
                flags=NoEndpoints.flag,
            )
        pick = host_port((choice.picked.endpoint.address, choice.picked.endpoint.port))
        retry = "there is no other endpoint to try"
        if len(usable) > 1:
            tries = min(policy.connect_tries, len(usable))
            retry = (
                f"if {pick} cannot be reached, another endpoint is tried, {tries} in all:"
                " nothing has been sent by then"
            )
        return self.end(
            "proxied",
            f"{service.name} port {port.port} -> {pick}",
            pick=pick,
            balance_why=choice.why,
            retry=retry,
        )

    def _picker(
        self, service: Service, port: Port, candidates: list[_Candidate]
    ) -> Picker[_Candidate]:
        """The picker that serves traffic, as far as it has a memory: whose turn it is."""
        made = picker(self.parts.node.settings.policy.balance, candidates)
        upstream = self.parts.node.upstreams.get((service.name, port.port))
        if upstream is not None and isinstance(upstream.picker, RoundRobin):
            assert isinstance(made, RoundRobin)
            made.next = upstream.picker.next
        return made

    def _settings(self) -> Iterator[SettingView]:
        config = self.parts.config
        for name in SETTINGS:
            value: object = config
            for part in name.split("."):
                value = getattr(value, part)
            yield SettingView(name, str(value), config.origin(name))

    def _notes(self, service: Service) -> Iterator[str]:
        for registry in self.parts.registries.statuses():
            if registry.state not in ("synced", "starting") and registry.services:
                age = f"{registry.age_seconds:.0f} s" if registry.age_seconds else "unknown"
                yield f"registry {registry.name} (age {age}): {registry.meaning}"
        if not service.vips and service.name == self.view.service:
            yield f"{service.name} has no virtual address: explicit listeners alone reach it"


def _candidate(
    endpoint: Endpoint,
    standing: Standing,
    target: Target | None,
    share: float | None,
    drawn: bool,
    picked: bool,
    parts: Parts,
) -> CandidateView:
    why = standing.value
    if target is not None and target.health.ejected_until > parts.reactor.now:
        left = target.health.ejected_until - parts.reactor.now
        why += f"; {left:.0f} s more; last: {target.health.last_failure}"
    return CandidateView(
        address=host_port((endpoint.address, endpoint.port)),
        eligible=standing.takes_traffic,
        why=why,
        state=STATES[standing],
        weight=endpoint.weight,
        zone=endpoint.locality.zone,
        active_requests=target.load if target is not None else 0,
        share=share,
        drawn=drawn,
        picked=picked,
    )


def _protocol(query: ExplainQuery, port: Port) -> tuple[str, str]:
    if port.protocol == "http":
        return "http", "declared by the registry: each request is balanced"
    if port.protocol:
        return "tcp", f"declared as {port.protocol}: the connection is relayed as TCP"
    if query.scheme == "http":
        return "http", "not declared: the first bytes of an HTTP request will tell"
    return "tcp", "not declared: whatever is not HTTP is relayed as TCP"


def _by_name(catalog: Catalog, host: str) -> Service | None:
    """``web.shop``, ``web.shop.svc.cluster.local``, or ``web`` in the namespace ``default``."""
    parts = host.rstrip(".").split(".")
    if len(parts) == 1:
        return catalog.get(f"default/{parts[0]}")
    return catalog.get(f"{parts[1]}/{parts[0]}")
