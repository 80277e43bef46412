"""Which clients are believed when they say for whom they ask (X-Forwarded-For and its like)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

__all__ = ["Forwarded", "trust"]

Forwarded = Literal["append", "overwrite", "trusted"]


def trust(mode: Forwarded, networks: Sequence[str]) -> Callable[[str], bool]:
    """Whether the client with an address is believed. ``append``: everybody; ``overwrite``:
    nobody; ``trusted``: those in ``networks``."""
    if mode != "trusted":
        believed = mode == "append"
        return lambda _address: believed
    known = [ipaddress.ip_network(network) for network in networks]

    @lru_cache(maxsize=4096)
    def among(address: str) -> bool:
        found = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(found, "ipv4_mapped", None)
        return any((mapped or found) in network for network in known)

    return among
