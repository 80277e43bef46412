"""From the configuration to the settings of each part: the only place that knows both.

A part never sees the file's tree, so that it can be used and tested without one. Shared by the
daemon and by the commands that do without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from math import inf

from iptables.settings import Settings as InterceptionSettings
from nodeproxy.config import Config
from nodeproxy.core.policy import Outlier, Policy
from nodeproxy.dataplane.pump import UNBOUNDED
from nodeproxy.dataplane.settings import Settings as DataplaneSettings
from registry import plugins
from registry.base import Problem
from registry.register.options import Entry

__all__ = [
    "dataplane_settings",
    "interception_settings",
    "register_entries",
    "registry_problems",
    "registry_specs",
]


def interception_settings(config: Config) -> InterceptionSettings:
    """For :class:`iptables.manager.Interception`."""
    given = config.interception
    cidrs = [*given.vip_cidrs, *_apart(config.vips.networks, given.vip_cidrs)]
    return InterceptionSettings(
        outbound_port=given.outbound_port,
        mark=given.mark,
        mask=given.mask,
        vip_cidrs=tuple(str(cidr) for cidr in cidrs),
        expiry=int(given.expiry),
        backend=given.backend,
        kernel_path=given.kernel_path,
        fail=given.fail,
        ipv6=given.ipv6,
    )


def _apart(networks: Iterable[str], others: Iterable[str]) -> list[str]:
    """Those networks that are not within one of ``others``."""
    known = [ip_network(other) for other in others]
    return [
        network
        for network in networks
        if not any(
            other.version == (one := ip_network(network)).version and other.supernet_of(one)  # type: ignore[arg-type]  # of one version
            for other in known
        )
    ]


def dataplane_settings(config: Config) -> DataplaneSettings:
    """For :class:`nodeproxy.dataplane.node.Node`. Without interception no packet needs a mark,
    and setting one would need a capability."""
    traffic = config.traffic
    outlier = traffic.outlier
    return DataplaneSettings(
        mark=config.interception.mark if config.interception.mode == "iptables" else 0,
        registry_only=config.outbound == "registry-only",
        via=traffic.via,
        via_answers=traffic.via_answers,
        forwarded=traffic.forwarded,
        trusted_proxies=tuple(str(cidr) for cidr in traffic.trusted_proxies),
        request_id=traffic.request_id,
        traceparent=traffic.traceparent,
        proxy_status=traffic.proxy_status,
        max_head=traffic.max_head,
        header_timeout=float(traffic.header_timeout),
        keep_alive_timeout=float(traffic.keep_alive_timeout),
        body_timeout=float(traffic.body_timeout),
        request_timeout=float(traffic.request_timeout) or inf,
        max_body=traffic.max_body or UNBOUNDED,
        max_clients=traffic.max_clients,
        max_per_listener=traffic.max_per_listener,
        max_per_client=traffic.max_per_client,
        detect_timeout=float(traffic.detect_timeout),
        tcp_idle_timeout=float(traffic.tcp_idle_timeout),
        policy=Policy(
            balance=traffic.balance,
            connect_timeout=float(traffic.connect_timeout),
            connect_tries=traffic.connect_tries,
            max_connections=traffic.max_connections,
            idle_connections=traffic.idle_connections,
            idle_timeout=float(traffic.pool_idle_timeout),
            response_timeout=float(traffic.response_timeout),
            body_timeout=float(traffic.response_body_timeout),
            outlier=Outlier(
                consecutive_5xx=outlier.consecutive_5xx,
                consecutive_gateway_failures=outlier.consecutive_gateway_failures,
                base_ejection=float(outlier.base_ejection),
                max_ejection=float(outlier.max_ejection),
                max_ejection_percent=outlier.max_ejection_percent,
            ),
        ),
    )


def registry_specs(config: Config) -> tuple[plugins.Spec, ...]:
    """For :class:`registry.supervise.Registries`, in configured order."""
    return tuple(
        plugins.Spec(
            name=entry.name,
            kind=entry.kind,
            options=entry.options,
            base_dir=config.base_dir,
            origin=entry.origin,
            lines=_lines(config, f"registries[{i}]."),
        )
        for i, entry in enumerate(config.registries)
    )


def _lines(config: Config, prefix: str) -> dict[str, int]:
    """The lines of all keys below ``prefix``, by what follows it."""
    return {
        field.removeprefix(prefix): int(place.rpartition(":")[2])
        for field, place in config.origins.items()
        if field.startswith(prefix)
    }


def register_entries(config: Config) -> tuple[Entry, ...]:
    """For :class:`registry.register.runner.Registrations`, in configured order."""
    return tuple(
        Entry(what, config.base_dir, config.origin(f"register[{i}]"), f"register[{i}]")
        for i, what in enumerate(config.register)
    )


def registry_problems(config: Config) -> list[Problem]:
    """Unknown kinds and wrong options of registries, and what cannot be announced to them. Loads
    the plug-ins, but reads no registry."""
    specs = registry_specs(config)
    found = [problem for spec in specs for problem in plugins.check(spec)]
    if not found and config.register:
        from registry.register.runner import problems

        found = problems(register_entries(config), {spec.name: spec for spec in specs})
    return found
