"""From the configuration to the settings of each part: the only place that knows both.

A part never sees the file's tree, so that it can be used and tested without one. Shared by the
daemon and by the commands that do without it.
"""

from __future__ import annotations

from math import inf

from iptables.settings import Settings as InterceptionSettings
from nodeproxy.config import Config
from nodeproxy.core.policy import Outlier, Policy
from nodeproxy.dataplane.settings import Settings as DataplaneSettings
from registry import plugins
from registry.base import Problem

__all__ = ["dataplane_settings", "interception_settings", "registry_problems", "registry_specs"]


def interception_settings(config: Config) -> InterceptionSettings:
    """For :class:`iptables.manager.Interception`."""
    given = config.interception
    return InterceptionSettings(
        outbound_port=given.outbound_port,
        mark=given.mark,
        mask=given.mask,
        vip_cidrs=tuple(str(cidr) for cidr in given.vip_cidrs),
        expiry=int(given.expiry),
        backend=given.backend,
        kernel_path=given.kernel_path,
        fail=given.fail,
        ipv6=given.ipv6,
    )


def dataplane_settings(config: Config) -> DataplaneSettings:
    """For :class:`nodeproxy.dataplane.node.Node`. Without interception no packet needs a mark,
    and setting one would need a capability."""
    traffic = config.traffic
    outlier = traffic.outlier
    return DataplaneSettings(
        mark=config.interception.mark if config.interception.mode == "iptables" else 0,
        registry_only=config.outbound == "registry-only",
        via=traffic.via,
        max_head=traffic.max_head,
        header_timeout=float(traffic.header_timeout),
        keep_alive_timeout=float(traffic.keep_alive_timeout),
        body_timeout=float(traffic.body_timeout) or inf,
        detect_timeout=float(traffic.detect_timeout),
        tcp_idle_timeout=float(traffic.tcp_idle_timeout) or inf,
        policy=Policy(
            balance=traffic.balance,
            connect_timeout=float(traffic.connect_timeout),
            connect_tries=traffic.connect_tries,
            max_connections=traffic.max_connections,
            idle_connections=traffic.idle_connections,
            idle_timeout=float(traffic.pool_idle_timeout),
            response_timeout=float(traffic.response_timeout),
            body_timeout=float(traffic.response_body_timeout) or inf,
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
        )
        for entry in config.registries
    )


def registry_problems(config: Config) -> list[Problem]:
    """Unknown kinds and wrong options. Loads the plug-ins, but reads no registry."""
    return [problem for spec in registry_specs(config) for problem in plugins.check(spec)]
