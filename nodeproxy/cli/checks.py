"""What ``nodeproxy check`` looks at on this host, with and without a daemon.

Each check has an id that scripts and documentation can name, and a hint that says what to do.
Nothing here changes anything: no rule is loaded, no packet is sent.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from nodeproxy.config import Config

__all__ = [
    "Check",
    "Result",
    "capabilities",
    "host_checks",
    "kernel",
    "kernel_modules",
    "ports",
    "programs",
    "vips_routed",
]

Result = Literal["ok", "warn", "fail", "skip"]

_CAPABILITIES = {"NET_ADMIN": 12, "NET_RAW": 13}
_MODULES = ("ip_set", "ip_set_hash_ipport", "ip_set_list_set", "xt_set", "nf_nat", "nf_conntrack")
_MANY = 1000
_MADE_AT_START = ("interception.outbound_port", "dns.listen")
"""Listeners whose address need not be there yet: the daemon puts it on ``lo``, or waits for it."""
IP_FREEBIND = 15


class Check(msgspec.Struct, frozen=True):
    """One answer."""

    id: str
    """``interception.programs``"""
    result: Result
    """``skip``: could not be looked at; the message says why."""
    message: str
    hint: str = ""
    """What to do; empty where all is well."""


def host_checks(config: Config, daemon_pid: int | None) -> Iterator[Check]:
    """Whether this host can carry the configuration. With a daemon's pid its own rights count,
    and the ports that it holds are not looked at."""
    if config.interception.mode == "iptables":
        yield programs(config, shutil.which)
        yield capabilities(Path("/proc") / str(daemon_pid or "self") / "status")
        yield kernel(config)
        if daemon_pid is None:
            yield kernel_modules()  # a daemon's rules, once verified, say more
    if daemon_pid is None:
        yield ports(config)
        yield state_dir(config)
        yield open_files()


def programs(config: Config, which: Callable[[str], str | None]) -> Check:
    """iptables, ipset and nft, which the interception runs."""
    needed = ["iptables", "iptables-restore", "iptables-save", "ipset"]
    if config.interception.ipv6 != "off":
        needed += ["ip6tables", "ip6tables-restore", "ip6tables-save"]
    if config.interception.kernel_path == "on":
        needed.append("nft")
    missing = [name for name in needed if which(name) is None]
    if missing:
        return Check(
            "interception.programs",
            "fail",
            f"not found in PATH: {', '.join(missing)}",
            "install them, on Debian: apt-get install iptables ipset nftables",
        )
    if config.interception.kernel_path == "auto" and which("nft") is None:
        return Check(
            "interception.programs",
            "warn",
            "nft is not found in PATH: where no kube-proxy runs, nothing carries the services' "
            "traffic while the proxy is down",
            "install it, on Debian: apt-get install nftables",
        )
    return Check("interception.programs", "ok", f"found {', '.join(needed)}")


def capabilities(status: Path) -> Check:
    """The rights of the daemon, or of this process if no daemon runs."""
    name = "interception.capabilities"
    try:
        lines = dict(
            line.split(":", 1) for line in status.read_text("ascii").splitlines() if ":" in line
        )
        held = int(lines["CapEff"], 16)
    except (OSError, ValueError, KeyError) as exc:
        return Check(name, "skip", f"cannot read {status}: {exc}")
    missing = [cap for cap, bit in _CAPABILITIES.items() if not held & (1 << bit)]
    if missing:
        who = "this process" if status.parent.name == "self" else "the daemon"
        return Check(
            name,
            "fail",
            f"{who} lacks {' and '.join(missing)}",
            "run it as root, or with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW (systemd); "
            "without them only explicit listeners work: interception: {mode: none}",
        )
    return Check(name, "ok", f"has {' and '.join(_CAPABILITIES)}")


def kernel(config: Config, proc: Path = Path("/proc")) -> Check:
    """Netfilter, and the families that are asked for."""
    name = "interception.kernel"
    release = os.uname().release
    problems = []
    if config.interception.ipv6 == "on" and not (proc / "net/if_inet6").exists():
        problems.append("it has no IPv6, which interception.ipv6 asks for")
    if not (proc / "sys/net/netfilter").exists():
        problems.append("it has no netfilter, or this container may not see it")
    if problems:
        hint = "use the host's network namespace, or a kernel with CONFIG_NETFILTER"
        return Check(name, "fail", f"Linux {release}: {'; '.join(problems)}", hint)
    forwarding = proc / "sys/net/ipv4/ip_forward"
    if forwarding.exists() and forwarding.read_text("ascii").strip() == "0":
        return Check(
            name,
            "warn",
            f"Linux {release}; ip_forward is 0: pods reach the proxy, but nothing forwards their "
            "traffic while the proxy is down",
            "sysctl -w net.ipv4.ip_forward=1, unless only processes of the host use services",
        )
    return Check(name, "ok", f"Linux {release}")


def kernel_modules(modules: Path = Path("/lib/modules"), sys: Path = Path("/sys/module")) -> Check:
    """ipset and its matches: loaded, built in, or there to be loaded."""
    name = "interception.modules"
    wanted = [module for module in _MODULES if not (sys / module).exists()]
    if not wanted:
        return Check(name, "ok", f"loaded: {', '.join(_MODULES)}")
    known: set[str] = set()
    for listing in ("modules.dep", "modules.builtin"):
        try:
            text = (modules / os.uname().release / listing).read_text("ascii", "replace")
        except OSError:
            continue
        for line in text.splitlines():
            file = line.partition(":")[0].rpartition("/")[2]
            known.add(file.partition(".")[0].replace("-", "_"))
    if not known:
        return Check(
            name,
            "skip",
            f"not loaded: {', '.join(wanted)}; whether they can be, /lib/modules does not tell",
            "they may be built in: `nodeproxy rules verify` tells once the daemon runs",
        )
    missing = [module for module in wanted if module not in known]
    if missing:
        return Check(
            name,
            "fail",
            f"this kernel has no {', '.join(missing)}",
            "install the kernel's extra modules, or run on a kernel with ipset",
        )
    return Check(name, "ok", f"{', '.join(wanted)} will be loaded when needed")


def ports(config: Config) -> Check:
    """The addresses that the daemon will listen on are free."""
    wanted = {f"listeners[{i}]": (x.bind.host, x.bind.port) for i, x in enumerate(config.listeners)}
    if config.telemetry.metrics.enabled:
        metrics = config.telemetry.metrics
        wanted["telemetry.metrics"] = (metrics.host, metrics.port)
    if config.interception.mode == "iptables":
        port = config.interception.outbound_port
        wanted["interception.outbound_port"] = ("169.254.171.1", port)
    if config.dns.listen.enabled:
        wanted["dns.listen"] = (config.dns.listen.host, config.dns.listen.port)
    taken = []
    for field, (host, port) in wanted.items():
        if why := _unbindable(host, port, freebind=field in _MADE_AT_START):
            taken.append(f"{field} {host}:{port} ({why})")
    if taken:
        return Check(
            "host.ports",
            "fail",
            "cannot listen on " + ", ".join(taken),
            "`ss -ltnp` shows who has the port; give one of the two another one",
        )
    return Check("host.ports", "ok", f"{len(wanted)} addresses are free")


def _unbindable(host: str, port: int, *, freebind: bool) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if freebind:
                probe.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as exc:
        reasons = {
            errno.EADDRINUSE: "taken",
            errno.EADDRNOTAVAIL: "not an address of this host",
            errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        }
        return reasons.get(exc.errno or 0, exc.strerror or str(exc))
    return ""


def state_dir(config: Config) -> Check:
    """The last good state can be written."""
    name = "host.state_dir"
    folder = Path(config.state_dir)
    nearest = next(part for part in (folder, *folder.parents) if part.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return Check(
            name,
            "fail",
            f"{nearest} may not be written, so that the registries' last good state cannot be "
            f"kept in {folder}",
            "set state_dir to a folder of the user that runs nodeproxy",
        )
    free = shutil.disk_usage(nearest).free
    if free < 64 * 1024 * 1024:
        message = f"{nearest} has only {free // 1048576} MiB free"
        return Check(name, "warn", message, "make room, or set state_dir to another file system")
    return Check(name, "ok", f"{folder} can be written")


def open_files() -> Check:
    """Each relayed connection takes two descriptors, four when bytes are spliced."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 16384:
        return Check(
            "host.open_files",
            "warn",
            f"at most {hard} open files: enough for some {hard // 4} connections at once",
            "raise it: LimitNOFILE=1048576 (systemd), or ulimit -Hn",
        )
    return Check("host.open_files", "ok", f"up to {hard} open files")


def vips_routed(vips: Iterable[str], route: Callable[[str], str] | None = None) -> Check:
    """Processes of the host can dial the services: the routing lookup comes before NAT."""
    name = "interception.vips_routed"
    known = sorted(set(vips))
    if not known:
        return Check(name, "skip", "no service has a virtual address")
    find = route or _route_problem
    lost = [f"{vip} ({why})" for vip in known[:_MANY] if (why := find(vip))]
    if lost:
        shown = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        return Check(
            name,
            "fail",
            f"this host has no way to {shown}: its own processes cannot dial them",
            "add their network to interception.vip_cidrs",
        )
    beyond = f" (the first {_MANY} looked at)" if len(known) > _MANY else ""
    return Check(name, "ok", f"{len(known)} virtual addresses have a route{beyond}")


def _route_problem(address: str) -> str:
    """Connecting a UDP socket asks the routing table and sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
    except OSError as exc:
        return exc.strerror or str(exc)
    return ""
