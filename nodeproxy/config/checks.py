"""What one value alone can't show: settings that contradict each other, and doubtful ones."""

from __future__ import annotations

import ipaddress
from typing import Any

from nodeproxy.config.tree import File, Telemetry
from registry.base import Problem
from registry.yamltext import Path, path_text

__all__ = ["Check"]


_TIMEOUTS = (
    "connect_timeout",
    "tcp_idle_timeout",
    "keep_alive_timeout",
    "pool_idle_timeout",
    "header_timeout",
    "body_timeout",
    "response_body_timeout",
)


class Check:
    """What one value alone can't show: settings that contradict each other."""

    def __init__(self, document: Any, source: str) -> None:
        self.document = document
        self.source = source
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def all(self, file: File) -> None:
        self.addresses(file)
        self.interception(file)
        self.registries(file)
        self.register(file)
        self.vips(file)
        self.dns(file)
        self.telemetry(file.telemetry)
        if (file.traffic.forwarded == "trusted") != bool(file.traffic.trusted_proxies):
            message = "forwarded: trusted and trusted_proxies are of use only together"
            self.doubt(message, "traffic", "forwarded")
        if file.traffic.outlier.max_ejection < file.traffic.outlier.base_ejection:
            self.bad("is shorter than base_ejection", "traffic", "outlier", "max_ejection")
        for name in _TIMEOUTS:
            if not getattr(file.traffic, name):
                self.bad("needs to be more than 0", "traffic", name)

    def bad(self, message: str, *path: str | int) -> None:
        self.problems.append(self._problem(message, path))

    def doubt(self, message: str, *path: str | int) -> None:
        self.warnings.append(self._problem(message, path))

    def _problem(self, message: str, path: tuple[str | int, ...]) -> Problem:
        if self.document is None:
            return Problem(message, self.source)
        problem: Problem = self.document.problem(message, path)
        return problem

    def place(self, *path: str | int) -> str:
        return f"{self.source}:{self.document.line(path)}"

    def addresses(self, file: File) -> None:
        taken: dict[tuple[str, int], str] = {}
        if file.telemetry.metrics.enabled:
            metrics = file.telemetry.metrics
            taken[metrics.host, metrics.port] = "telemetry.metrics"
        if file.interception.mode == "iptables":
            # The intercepted listeners have link-local addresses: only a wildcard can collide.
            port = file.interception.outbound_port
            for host in ("169.254.171.1", "fd0d:4e50::1"):
                taken[host, port] = "interception.outbound_port"
        for i, listener in enumerate(file.listeners):
            host, port = listener.bind.host, listener.bind.port
            for (other_host, other_port), user in taken.items():
                same = host == other_host or _covers(host, other_host) or _covers(other_host, host)
                if port == other_port and same:
                    self.bad(f"{listener.bind} is taken by {user}", "listeners", i, "bind")
            taken[host, port] = f"listeners[{i}]"
        if file.dns.listen.enabled:
            host, port = file.dns.listen.host, file.dns.listen.port
            for (other_host, other_port), user in taken.items():
                if port == other_port and (host == other_host or _covers(other_host, host)):
                    self.bad(f"{file.dns.listen} is taken by {user}", "dns", "listen")

    def interception(self, file: File) -> None:
        settings = file.interception
        if settings.expiry % 1 or not 1 <= settings.expiry <= 60:
            # The kernel's set entries expire by whole seconds.
            self.bad("needs to be whole seconds, from 1s to 60s", "interception", "expiry")
        if settings.mark & ~settings.mask:
            self.bad("has bits outside of interception.mask", "interception", "mark")
        if settings.outbound_port in (15006, 15009):
            message = f"{settings.outbound_port} is used by nodeproxy's own rules"
            self.bad(message, "interception", "outbound_port")
        for i, cidr in enumerate(settings.vip_cidrs):
            for j, other in enumerate(settings.vip_cidrs[:i]):
                one, two = ipaddress.ip_network(cidr), ipaddress.ip_network(other)
                if one.version == two.version and one.overlaps(two):
                    message = f"{cidr} overlaps vip_cidrs[{j}], {other}"
                    self.bad(message, "interception", "vip_cidrs", i)
        if settings.mode == "none" and not file.listeners:
            self.doubt(
                "mode none and no listeners: no traffic will reach the proxy", "interception"
            )
        if settings.fail == "closed" and settings.kernel_path == "on":
            self.doubt(
                "with fail: closed traffic is refused while the proxy is down, so that the kernel "
                "path carries nothing",
                "interception",
                "kernel_path",
            )

    def registries(self, file: File) -> None:
        seen: dict[str, int] = {}
        for i, entry in enumerate(file.registries):
            if entry.name in seen:
                self.bad(
                    f'the name "{entry.name}" is that of registries[{seen[entry.name]}]; give one '
                    "of them a name of its own: {kind: ..., name: ...}",
                    "registries",
                    i,
                )
            seen.setdefault(entry.name, i)
        if not file.registries:
            self.doubt("no registries: nodeproxy knows no service", "registries")

    def register(self, file: File) -> None:
        seen: dict[tuple[str, int, str, str], int] = {}
        for i, one in enumerate(file.register):
            if not isinstance(one.registry, str):
                continue  # its own: nobody else is there
            key = (one.name, one.port, one.address, one.registry)
            if key in seen:
                self.bad(f"is announced by register[{seen[key]}] already", "register", i)
            seen.setdefault(key, i)

    def vips(self, file: File) -> None:
        for version, name, cidr in ((4, "cidr", file.vips.cidr), (6, "cidr6", file.vips.cidr6)):
            if not cidr:
                continue
            network = ipaddress.ip_network(cidr)
            if network.version != version:
                self.bad(f"{cidr} is not a network of IPv{version}", "vips", name)
                continue
            if network.num_addresses < 4:
                self.bad(f"{cidr} has no room for services", "vips", name)
            for i, other in enumerate(file.interception.vip_cidrs):
                routed = ipaddress.ip_network(other)
                if routed.version == version and routed != network and _within(routed, network):
                    message = f"{cidr} contains interception.vip_cidrs[{i}], {other}"
                    self.bad(message, "vips", name)
        if file.vips.networks and file.interception.mode == "none":
            self.doubt("mode none: nothing takes the traffic to these addresses", "vips")

    def dns(self, file: File) -> None:
        settings = file.dns
        if settings.ttl % 1 or settings.ttl > 86400:
            self.bad("needs to be whole seconds, up to 24h", "dns", "ttl")
        if settings.suffix == "local" or settings.suffix.endswith(".local"):
            self.doubt("names below .local belong to multicast DNS", "dns", "suffix")
        if not settings.listen.enabled:
            return
        address = ipaddress.ip_address(settings.listen.host)
        if address.is_unspecified:
            message = "needs to be one address: from all at once an answer may leave by another one"
            self.bad(message, "dns", "listen")
        elif not (address.is_loopback or address.is_link_local):
            self.doubt(
                f"{settings.listen} can be asked by other hosts; what it tells has no access "
                "control",
                "dns",
                "listen",
            )

    def telemetry(self, telemetry: Telemetry) -> None:
        metrics = telemetry.metrics
        if metrics.enabled and not ipaddress.ip_address(metrics.host).is_loopback:
            self.doubt(
                f"{metrics} can be reached from other hosts; what it tells has no access control",
                "telemetry",
                "metrics",
            )

    def origins(self) -> list[tuple[str, str]]:
        if self.document is None:
            return []
        found = []

        def walk(value: object, path: Path) -> None:
            parts: list[tuple[str | int, object]] = []
            if isinstance(value, dict):
                parts = list(value.items())
            elif isinstance(value, list):
                parts = list(enumerate(value))
            for key, part in parts:
                here = (*path, key)
                found.append((path_text(here), self.place(*here)))
                walk(part, here)

        walk(self.document.value, ())
        return found


def _within(inner: Any, outer: Any) -> bool:
    return bool(inner.subnet_of(outer))


def _covers(wildcard: str, host: str) -> bool:
    """Binding the wildcard takes the port on ``host`` as well."""
    return (wildcard == "0.0.0.0" and ":" not in host) or (wildcard == "::" and ":" in host)
