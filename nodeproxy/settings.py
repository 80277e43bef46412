"""From the configuration to the settings of each part: the only place that knows both.

A part never sees the file's tree, so that it can be used and tested without one. Shared by the
daemon and by the commands that do without it.
"""

from __future__ import annotations

from iptables.settings import Settings as InterceptionSettings
from nodeproxy.config import Config
from registry import plugins
from registry.base import Problem

__all__ = ["interception_settings", "registry_problems", "registry_specs"]


def interception_settings(config: Config) -> InterceptionSettings:
    """For :class:`iptables.manager.Interception`."""
    given = config.interception
    return InterceptionSettings(
        outbound_port=given.outbound_port,
        inbound_port=given.inbound_port,
        mark=given.mark,
        mask=given.mask,
        vip_cidrs=tuple(str(cidr) for cidr in given.vip_cidrs),
        expiry=int(given.expiry),
        backend=given.backend,
        kernel_path=given.kernel_path,
        fail=given.fail,
        ipv6=given.ipv6,
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
