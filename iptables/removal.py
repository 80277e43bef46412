"""Taking everything of ours away, whoever put it there and whenever.

Needs no memory: rules, sets, the nft table, addresses and routes are known by name, label or
protocol number (names.py). What can't be removed doesn't keep the rest from being removed.
"""

import re

import trio

from iptables import names
from iptables.detect import Backend, installed_backends
from iptables.errors import (
    CommandError,
    InterceptionError,
    KernelModuleMissingError,
    LockHeldError,
    NetlinkError,
    NotPermittedError,
)
from iptables.host import Host
from iptables.names import FAMILIES, Family
from iptables.netlink import IpSets, Links
from iptables.nftables import nft_tables
from iptables.rules import removal_text
from iptables.saved import Ruleset
from iptables.settings import Settings

_TRIES = 5
_CHAIN = re.compile(r"^\s*chain (\S+) \{", re.MULTILINE)


async def remove_everything(host: Host, settings: Settings) -> tuple[str, ...]:
    """Remove it all and return, in words, what was removed; nothing is left to say a second time.

    InterceptionError if something stayed: it says what and why.
    """
    done: list[str] = []
    failures: list[InterceptionError] = []

    backends = await installed_backends(host)
    _flush(host)  # traffic falls through from here on
    try:  # first: nft reads all of a large table whenever it is asked for anything
        done += await _remove_kernel_path(host)
    except InterceptionError as error:
        failures.append(error)
    for backend in backends.values():
        for family in FAMILIES:
            try:
                if await remove_rules(host, backend, family):
                    done.append(f"rules of {backend.restore[family].removesuffix('-restore')}")
            except InterceptionError as error:
                failures.append(error)
    try:
        done += await _remove_sets(host)
    except InterceptionError as error:
        failures.append(error)
    for family in FAMILIES:
        try:
            done += _remove_links(host, settings, family)
        except InterceptionError as error:
            failures.append(error)
    if failures:
        first = failures[0]
        kind = NotPermittedError if isinstance(first, NotPermittedError) else InterceptionError
        words = "; ".join(str(failure.args[0]) for failure in failures)
        raise kind(f"not everything could be removed: {words}", first.hint) from first
    return tuple(done)


async def remove_rules(host: Host, backend: Backend, family: Family) -> bool:
    """Our rules out of one backend and family; whether there were any."""
    try:
        seen = await backend.read(host, family)
    except (CommandError, KernelModuleMissingError):
        return False  # a variant that doesn't work here holds nothing
    for attempt in range(_TRIES):
        text = removal_text(seen)
        if not text:
            return False
        try:
            await backend.write(host, family, text)
            break
        except (CommandError, LockHeldError):
            if attempt == _TRIES - 1:
                raise
            await trio.sleep(0.1 * (attempt + 1))
            seen = await backend.read(host, family)
    if backend.name == "nft":
        await _drop_bare_tables(host, family, await backend.read(host, family))
    return True


async def _drop_bare_tables(host: Host, family: Family, seen: Ruleset) -> None:
    """iptables-nft makes a table when it is first used; empty ones that accept are as good as
    none. Its chains are deleted one by one: the kernel refuses if someone has filled one since.
    """
    if not host.has("nft"):
        return
    for table in names.TABLES:
        if seen.chains(table) and seen.is_bare(table):
            where = f"{names.NFT_FAMILY[family]} {table}"
            # Which chains really exist: iptables-save shows all that it knows.
            _, listed, _ = await host.attempt("nft", "-t", "list", "table", *where.split())
            lines = [f"delete chain {where} {chain}" for chain in _CHAIN.findall(listed)]
            text = "\n".join([*lines, f"delete table {where}"]) + "\n"
            await host.attempt("nft", "-f", "-", text=text)


async def _remove_kernel_path(host: Host) -> list[str]:
    done = []
    for family in FAMILIES:
        if names.NFT_TABLE in nft_tables(host, family):
            table = f"{names.NFT_FAMILY[family]} {names.NFT_TABLE}"
            await host.run("nft", "-f", "-", text=f"delete table {table}\n")
            done.append(f"nft table {table}")
    return done


async def _remove_sets(host: Host) -> list[str]:
    present = set((await host.run("ipset", "list", "-n")).split())
    done = []
    for name in names.ALL_SETS:
        if name not in present:
            continue
        for attempt in range(_TRIES):
            # The kernel lets go of a set a moment after the last rule that used it has gone.
            code, _, words = await host.attempt("ipset", "destroy", name)
            if code == 0 or "does not exist" in words:
                break
            if attempt == _TRIES - 1:
                raise CommandError(("ipset", "destroy", name), code, words)
            await trio.sleep(0.1 * (attempt + 1))
        done.append(f"ipset {name}")
    return done


def _remove_links(host: Host, settings: Settings, family: Family) -> list[str]:
    done = []
    with Links(host) as links:
        try:
            addresses = links.addresses(family)
            routes = links.routes(family)
        except NetlinkError:
            return []  # a kernel without this family
        for address, ours in addresses.items():
            if ours or address == settings.address(family):
                links.delete_address(address)
                done.append(f"address {address}")
        for route in routes:
            links.delete_route(route.cidr)
            done.append(f"route {route.cidr}")
    return done


def _flush(host: Host) -> None:
    sets = IpSets(host)
    try:
        sets.flush([names.OUT_LIVE, names.IN_LIVE])
    except NetlinkError:
        pass  # a kernel without ipset has no switch either
    finally:
        sets.close()
