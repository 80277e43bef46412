"""Which iptables this node uses, nf_tables or legacy, and who else uses it.

Both can hold rules at once; which of them sees a packet first is then an accident of the order
in which modules were loaded. So we go where the others are (kube-proxy, Docker, a CNI plug-in),
and refuse if they are in both, unless the operator has named one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import trio

from iptables.errors import (
    CommandError,
    InterceptionError,
    KernelModuleMissingError,
    MixedBackendsError,
    NotPermittedError,
    ProgramMissingError,
)
from iptables.host import Host
from iptables.names import Family
from iptables.nftables import nft_tables
from iptables.saved import Ruleset, parse_save
from iptables.settings import Settings

Name = Literal["nft", "legacy"]
FOREIGN = ("KUBE-", "DOCKER", "CNI-", "cali-", "CILIUM_", "FLANNEL-")
LOCK_SECONDS = "5"
_LARGE = 200_000  # characters; beyond, reading takes longer than the loop may stand still


@dataclass(frozen=True)
class Backend:
    """One variant of iptables, by the names of its programs."""

    name: Name
    save: Mapping[Family, str]
    restore: Mapping[Family, str]

    async def read(self, host: Host, family: Family) -> Ruleset:
        """All tables; one that nobody has touched is empty."""
        text = await host.run(self.save[family])
        if len(text) < _LARGE:
            return parse_save(text)
        return await trio.to_thread.run_sync(parse_save, text)

    async def write(self, host: Host, family: Family, text: str) -> None:
        """One transaction; nothing has changed if it raises."""
        await host.run(self.restore[family], "-w", LOCK_SECONDS, "--noflush", text=text)


@dataclass(frozen=True)
class Detected:
    """The backend to use, the other one if installed, and what was found."""

    backend: Backend
    other: Backend | None
    why: str
    kube_proxy: bool
    seen: Ruleset  # the IPv4 tables of the backend


async def detect(host: Host, settings: Settings) -> Detected:
    """Choose; MixedBackendsError, ProgramMissingError."""
    installed = await installed_backends(host)
    seen: dict[Name, Ruleset] = {}
    for name, backend in installed.items():
        try:
            seen[name] = await backend.read(host, 4)
        except (CommandError, KernelModuleMissingError):
            if settings.backend == name:
                raise
    if not seen:
        raise InterceptionError(
            "neither iptables-nft nor iptables-legacy works",
            "run iptables-save as root: what it says is what is missing",
        )
    found = {name: _foreign(rules) for name, rules in seen.items()}
    default = await _default(host)
    name, why = choose(settings.backend, found, default)
    if name not in installed:
        raise ProgramMissingError(f"iptables-{name}")
    others = [backend for key, backend in installed.items() if key != name and key in seen]
    rules = seen.get(name, Ruleset())
    kube_proxy = "KUBE-SERVICES" in rules.chains("nat")
    return Detected(installed[name], others[0] if others else None, why, kube_proxy, rules)


def choose(wanted: str, foreign: Mapping[Name, tuple[str, ...]], default: Name) -> tuple[Name, str]:
    """The decision by itself: the name, and why."""
    users: list[Name] = [name for name, chains in foreign.items() if chains]
    if wanted in ("nft", "legacy"):
        name: Name = "nft" if wanted == "nft" else "legacy"
        if users and name not in users:
            chain = foreign[users[0]][0]
            raise MixedBackendsError(
                f"backend: {name} is configured, but {chain} lives in iptables-{users[0]}",
                f"set backend: {users[0]} (or auto)",
            )
        return name, "configured"
    if len(users) > 1:
        chains = ", ".join(f"{foreign[name][0]} in iptables-{name}" for name in users)
        raise MixedBackendsError(
            f"both variants of iptables are in use: {chains}",
            "remove the stale rules of one (iptables-legacy-save, iptables-nft-save show them),"
            " or set backend: nft or legacy to the one that is really used",
        )
    if users:
        return users[0], f"{foreign[users[0]][0]} is there"
    if default in foreign or not foreign:
        return default, "the system's default"
    return next(iter(foreign)), "the only one that works"


async def installed_backends(host: Host) -> dict[Name, Backend]:
    """The variants whose programs exist. ProgramMissingError if there is none."""
    found: dict[Name, Backend] = {}
    variants: tuple[Name, ...] = ("nft", "legacy")
    for name in variants:
        if host.has(f"iptables-{name}-save"):
            found[name] = _backend(name, f"-{name}")
    if not found:
        if not host.has("iptables-save"):
            raise ProgramMissingError("iptables-save")
        name = await _default(host)
        found[name] = _backend(name, "")
    if not host.has("ipset"):
        raise ProgramMissingError("ipset")
    return found


async def ipv6_usable(host: Host, settings: Settings, backend: Backend) -> bool:
    """Whether IPv6 is to be intercepted: as configured, else whether the kernel has it."""
    if settings.ipv6 == "off":
        return False
    reason = ""
    try:
        await backend.read(host, 6)
        code, out, _ = await host.attempt("cat", "/proc/sys/net/ipv6/conf/lo/disable_ipv6")
        if code != 0 or out.strip() != "0":
            reason = "net.ipv6.conf.lo.disable_ipv6 is not 0"
    except NotPermittedError:
        raise
    except InterceptionError as error:
        reason = str(error)
    if reason and settings.ipv6 == "on":
        raise InterceptionError(
            f"ipv6: on is configured, but IPv6 is unusable: {reason}",
            "set ipv6: auto, or enable IPv6 on lo",
        )
    return not reason


def nftables_kube_proxy(host: Host) -> bool:
    """Whether kube-proxy runs in its nftables mode, with a table of its own."""
    return "kube-proxy" in nft_tables(host, 4)


def _backend(name: Name, infix: str) -> Backend:
    return Backend(
        name,
        {4: f"iptables{infix}-save", 6: f"ip6tables{infix}-save"},
        {4: f"iptables{infix}-restore", 6: f"ip6tables{infix}-restore"},
    )


async def _default(host: Host) -> Name:
    if not host.has("iptables"):
        return "nft"
    return "legacy" if "legacy" in await host.run("iptables", "--version") else "nft"


def _foreign(rules: Ruleset) -> tuple[str, ...]:
    chains = (chain for table in rules.policies for chain in rules.chains(table))
    return tuple(sorted(chain for chain in chains if chain.startswith(FOREIGN)))
