"""Reading back what is really on the machine: tables, sets, the kernel path, addresses, routes."""

import ipaddress
import re
from collections.abc import Mapping, Sequence

from iptables import names
from iptables.drift import Drift
from iptables.host import Host
from iptables.kernel_path import BASE_CHAINS, Key
from iptables.names import Family
from iptables.netlink import Links
from iptables.nftables import nft_rule_counts, nft_tables
from iptables.saved import Sets, parse_sets
from iptables.settings import Settings

_SIZE = re.compile(r"^Name: (\S+)$.*?^Number of entries: (\d+)$", re.MULTILINE | re.DOTALL)
_GOTO = re.compile(r"goto (\S+)")
_SLOT = re.compile(r" \. (\d+) : (\S+) \. (\d+)")
TOOL: Mapping[Family, str] = {4: "iptables", 6: "ip6tables"}


async def read_sets(host: Host) -> Sets:
    return parse_sets(await host.run("ipset", "save"))


async def set_sizes(host: Host) -> dict[str, int]:
    """The sets that exist, with their numbers of members."""
    out = await host.run("ipset", "list", "-t")
    return {name: int(count) for name, count in _SIZE.findall(out)}


async def read_kernel_path(host: Host, family: Family, key: Key) -> tuple[Key, ...] | None:
    """What the kernel path holds for one service: its slots; None: it isn't served."""
    table = (names.NFT_FAMILY[family], names.NFT_TABLE)
    element = f"{key[0]} . {key[1]}"
    found = await _get(host, *table, "services", [element])
    match = _GOTO.search(found or "")
    if match is None:
        return None
    if not match[1].startswith("m"):
        return ()
    elements = [f"{element} . {slot}" for slot in range(int(match[1][1:]))]
    out = await _get(host, *table, "endpoints", elements)
    slots = {int(m[1]): (m[2], int(m[3])) for m in _SLOT.finditer(out or "")}
    return tuple(slots[slot] for slot in sorted(slots))


async def _get(host: Host, family: str, table: str, name: str, elements: list[str]) -> str | None:
    words = f"{{ {', '.join(elements)} }}"
    code, out, _ = await host.attempt("nft", "get", "element", family, table, name, words)
    return out if code == 0 else None


async def sets_drift(host: Host, expected: Mapping[str, int | None]) -> list[Drift]:
    """`expected`: the sets that must exist, with their number of members if that is known."""
    seen = await set_sizes(host)
    found = []
    for name, size in expected.items():
        if name not in seen:
            found.append(Drift("set", "ipset", f"set {name} is missing"))
        elif size is not None and seen[name] != size:
            text = f"set {name} has {seen[name]} members instead of {size}"
            found.append(Drift("set", "ipset", text))
    return found


def kernel_path_drift(host: Host, families: Sequence[Family], expected: bool) -> list[Drift]:
    """Whether the kernel path's tables stand (or don't, if they are not `expected`)."""
    found = []
    for family in families:
        table = f"{names.NFT_FAMILY[family]} {names.NFT_TABLE}"
        exists = names.NFT_TABLE in nft_tables(host, family)
        if not expected:
            if exists:
                found.append(Drift("kernel-path", "nft", f"table {table} is left over"))
        elif not exists:
            found.append(Drift("kernel-path", "nft", f"table {table} is missing"))
        else:
            counts = nft_rule_counts(host, family, names.NFT_TABLE)
            if any(counts[chain] != 1 for chain in BASE_CHAINS):
                found.append(Drift("kernel-path", "nft", f"table {table} was changed"))
    return found


def links_drift(host: Host, settings: Settings, families: Sequence[Family]) -> list[Drift]:
    found = []
    with Links(host) as links:
        for family in families:
            if settings.address(family) not in links.addresses(family):
                text = f"{settings.address(family)} is missing"
                found.append(Drift("address", "ip address show dev lo", text))
            ours = {route.cidr for route in links.routes(family)}
            for cidr in settings.cidrs(family):
                if cidr not in ours and not links.reachable(_some(cidr)):
                    text = f"this host has no route to {cidr}"
                    found.append(Drift("route", "ip route", text))
    return found


def ensure_links(host: Host, settings: Settings, families: Sequence[Family]) -> list[str]:
    """Put our addresses and the missing routes in place, take stale ones away; what was done."""
    done = []
    with Links(host) as links:
        for family in families:
            wanted = settings.address(family)
            present = links.addresses(family)
            for address, ours in present.items():
                if ours and address != wanted:
                    links.delete_address(address)
                    done.append(f"address {address} removed")
            if wanted not in present:
                links.add_address(wanted)
                done.append(f"address {wanted} added")
            have = {route.cidr for route in links.routes(family)}
            for cidr in have - set(settings.cidrs(family)):
                links.delete_route(cidr)
                done.append(f"route {cidr} removed")
            for cidr in settings.cidrs(family):
                if cidr not in have and not links.reachable(_some(cidr)):
                    links.add_route(cidr)
                    done.append(f"route {cidr} added")
    return done


def _some(cidr: str) -> str:
    """An address of a network that stands for all of it: the first behind its own."""
    network = ipaddress.ip_network(cidr)
    return str(network[1 if network.num_addresses > 1 else 0])
