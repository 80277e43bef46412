"""Looking into nf_tables by netlink.

The program `nft` (1.0.6) reads all elements of all maps for whatever it is asked, which takes 2 s
with 100,000 endpoints in ours; what is needed here are a few names and numbers.
"""

import errno
import struct
from collections import Counter

from pyroute2.netlink import NETLINK_NETFILTER, NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES

from iptables.errors import NetlinkError
from iptables.host import Host
from iptables.names import Family
from iptables.netlink import Netlink

TABLE, CHAIN = 1, 2  # attributes of messages about rules; a table's own name is 1, too
HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
NFPROTO: dict[Family, int] = {4: 2, 6: 10}
_NFT_GETTABLE = 1
_NFT_GETRULE = 7


def nft_tables(host: Host, family: Family) -> set[str]:
    """The names of the tables of nf_tables; {} without it. (`nft list tables` reads everything.)"""
    return {found.get(TABLE, "") for found in _nft_dump(host, family, _NFT_GETTABLE, b"")}


def nft_rule_counts(host: Host, family: Family, table: str) -> Counter[str]:
    """The numbers of rules in the chains of a table."""
    name = table.encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(name), TABLE) + name + bytes(-len(name) % 4)
    found = _nft_dump(host, family, _NFT_GETRULE, attribute)
    return Counter(rule.get(CHAIN, "") for rule in found if rule.get(TABLE) == table)


def _nft_dump(host: Host, family: Family, kind: int, attributes: bytes) -> list[dict[int, str]]:
    kind |= NFNL_SUBSYS_NFTABLES << 8
    body = struct.pack("=BBH", NFPROTO[family], 0, 0) + attributes
    head = HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 0, 0)
    with Netlink(host, NETLINK_NETFILTER) as netlink:
        try:
            return [nft_names(message[20:]) for message in netlink.dump(head + body)]
        except NetlinkError as error:
            if error.number in (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP):
                return []  # no such table, or a kernel without nf_tables
            raise


def nft_names(attributes: bytes) -> dict[int, str]:
    """The table's and the chain's name among the attributes of an nf_tables message."""
    found: dict[int, str] = {}
    offset = 0
    while offset + 4 <= len(attributes) and len(found) < 2:
        length, kind = struct.unpack_from("=HH", attributes, offset)
        if length < 4:
            break
        if kind in (TABLE, CHAIN):
            text = attributes[offset + 4 : offset + length]
            found[kind] = text.rstrip(b"\0").decode(errors="replace")
        offset += (length + 3) & ~3
    return found
