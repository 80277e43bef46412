"""What of nodeproxy is in the kernel, as text in the syntax of the tools that people know.

Shared by the daemon's answers to the ``rules`` commands and by these where no daemon answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from iptables import names
from iptables.detect import detect
from iptables.drift import Drift
from iptables.host import Host
from iptables.netlink import Links
from iptables.settings import Settings, both
from nodeproxy.admin.views import DriftView

__all__ = ["drift_views", "own_rules", "own_sets", "rules_text"]

SHOWN_MEMBERS = 50
"""Of each set: with 10,000 services nobody reads all, and the loop should not carry them."""
_CHAIN = "|".join(re.escape(chain) for chain in sorted(names.ALL_CHAINS))
_OURS = re.compile(rf"^:({_CHAIN}) |^-A ({_CHAIN}) |-j ({_CHAIN})$")


async def rules_text(settings: Settings, host: Host | None = None) -> str:
    """Chains, jumps, sets, the kernel path, addresses and routes; empty if there is nothing of
    ours. Raises InterceptionError."""
    host = host or Host()
    backend = (await detect(host, settings)).backend
    parts = []
    for family in both(True):
        tool = backend.save[family]
        if host.has(tool):
            code, text, _ = await host.attempt(tool)
            if code == 0 and (lines := list(own_rules(text.splitlines()))):
                parts += [f"# {tool}", *lines]
    if lines := list(own_sets((await host.run("ipset", "save")).splitlines())):
        parts += ["# ipset save", *lines]
    for family in both(True):
        # Terse: the maps' elements are the services and endpoints, which other commands list.
        table = ["nft", "--terse", "list", "table", names.NFT_FAMILY[family], names.NFT_TABLE]
        if host.has("nft"):
            code, text, _ = await host.attempt(*table)
            if code == 0:
                parts += [f"# {' '.join(table)}", *text.splitlines()]
    with Links(host) as links:
        for family in both(True):
            ours = [address for address, own in links.addresses(family).items() if own]
            parts += [f"# ip address: {address} dev lo" for address in ours]
            parts += [f"# ip route: local {route.cidr} dev lo" for route in links.routes(family)]
    return "".join(f"{line}\n" for line in parts)


def drift_views(found: Iterable[Drift]) -> tuple[DriftView, ...]:
    """Differences, as the admin API tells them."""
    return tuple(DriftView(drift.text, drift.kind, drift.where) for drift in found)


def own_rules(saved: Iterable[str]) -> Iterator[str]:
    """Of the output of iptables-save: our chains and the jumps to them, table by table."""
    table = ""
    found = False
    for line in saved:
        if line.startswith("*"):
            table, found = line, False
        elif line == "COMMIT" and found:
            yield line
        elif _OURS.search(line):
            if not found:
                yield table
                found = True
            yield line


def own_sets(saved: Iterable[str]) -> Iterator[str]:
    """Of the output of ipset save: our sets, with their first members."""
    name, members = "", 0

    def rest() -> Iterator[str]:
        if members > SHOWN_MEMBERS:
            yield f"# ... and {members - SHOWN_MEMBERS:,} more members of {name}"

    for line in saved:
        words = line.split()
        if len(words) < 2 or words[1] not in names.ALL_SETS:
            continue
        if words[1] != name:
            yield from rest()
            name, members = words[1], 0
        if words[0] == "add":
            members += 1
        if members <= SHOWN_MEMBERS:
            yield line
    yield from rest()
