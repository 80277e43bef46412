"""Every name that this package leaves in a kernel, in one place.

Removal works by these names alone, without any memory of what an earlier run did; so a name
that was ever used stays listed (`ALL_CHAINS`, `ALL_SETS`) even when no rule needs it any more.
"""

from typing import Final, Literal

Family = Literal[4, 6]
FAMILIES: Final[tuple[Family, ...]] = (4, 6)

COMMENT: Final = "nodeproxy"

# Chains of iptables, by table.
PRE: Final = "NP-PRE"  # nat, from PREROUTING: pods
OUT: Final = "NP-OUT"  # nat, from OUTPUT: processes of the host
GUARD: Final = "NP-IN"  # mangle, from INPUT: who may reach the proxy's ports
LOCAL: Final = "NP-LOCAL"  # filter, from INPUT: open them where a firewall drops; the refusal
UNSERVED: Final = "NP-FWD"  # filter, from FORWARD and OUTPUT: service addresses nobody serves
ALL_CHAINS: Final = frozenset({PRE, OUT, GUARD, LOCAL, UNSERVED})
TABLES: Final = ("nat", "mangle", "filter")

# Sets of ipset. The two LIVE lists are the dead-man's switches; each serves both families.
OUT_LIVE: Final = "NP-OUT-LIVE"
IN_LIVE: Final = "NP-IN-LIVE"
VIP: Final[dict[Family, str]] = {4: "NP-VIP4", 6: "NP-VIP6"}
POD: Final[dict[Family, str]] = {4: "NP-POD4", 6: "NP-POD6"}
ENFORCED: Final[dict[Family, str]] = {4: "NP-ENF4", 6: "NP-ENF6"}
SWAP_SUFFIX: Final = "-NEW"  # the set that is filled and then swapped in
_PLAIN = (*VIP.values(), *POD.values(), *ENFORCED.values())
# In an order in which they can be destroyed: a list before its members.
ALL_SETS: Final = (OUT_LIVE, IN_LIVE, *_PLAIN, *(f"{name}{SWAP_SUFFIX}" for name in _PLAIN))

# The kernel path's own nft table, one in each of the families "ip" and "ip6".
NFT_TABLE: Final = "nodeproxy"
NFT_FAMILY: Final[dict[Family, str]] = {4: "ip", 6: "ip6"}

# Our addresses and routes: the label of the IPv4 address (seen in `ip addr`) and the protocol
# number of the IPv6 address and of routes (seen in `ip route` as "proto 78").
LABEL: Final = "lo:nodeproxy"
PROTOCOL: Final = 78
