"""Noticing that someone has changed our rules: netlink events of nf_tables.

iptables-legacy and ipset raise no event; those are looked at from time to time (manager.watch).
"""

import struct

import trio
from pyroute2.netlink import NETLINK_NETFILTER

from iptables import names
from iptables.errors import HostError
from iptables.host import Host
from iptables.netlink import netlink_socket
from iptables.nftables import CHAIN, TABLE, nft_names

_GROUP_NFTABLES = 7
_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_SUBSYSTEM = 10
_DELTABLE, _DELCHAIN, _NEWRULE, _DELRULE = 2, 5, 6, 8
_WATCHED = frozenset({"PREROUTING", "OUTPUT", "INPUT", "FORWARD", *names.ALL_CHAINS})
_OVERRUN = 105  # ENOBUFS


class RuleEvents:
    """A subscription to changes of nf_tables in the host's network namespace. Raises HostError."""

    def __init__(self, host: Host) -> None:
        raw = netlink_socket(host, NETLINK_NETFILTER)
        raw.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES)
        self._socket = trio.socket.from_stdlib_socket(raw)

    def close(self) -> None:
        self._socket.close()

    async def changed(self) -> None:
        """Return when something may have happened to our rules or to what stands before them."""
        while True:
            try:
                data = await self._socket.recv(1 << 17)
            except OSError as error:
                if error.errno == _OVERRUN:  # more events than we could read: look
                    return
                raise HostError("events of nf_tables", error) from error
            if concerns_us(data):
                return


def concerns_us(data: bytes) -> bool:
    """Whether a datagram of nf_tables' events is about a rule, chain or table that matters."""
    offset = 0
    while offset + 20 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if length < 20:
            return False
        if kind >> 8 == _SUBSYSTEM and _matters(kind & 0xFF, data[offset + 20 : offset + length]):
            return True
        offset += (length + 3) & ~3
    return False


def _matters(kind: int, attributes: bytes) -> bool:
    if kind in (_NEWRULE, _DELRULE):
        found = nft_names(attributes)
        table, chain = found.get(TABLE, ""), found.get(CHAIN, "")
        if table == names.NFT_TABLE:
            return kind == _DELRULE  # we ourselves add some
        return table in names.TABLES and chain in _WATCHED
    # A table's own name is attribute 1, as is the table of a chain.
    if kind in (_DELTABLE, _DELCHAIN):
        return nft_names(attributes).get(TABLE, "") in (names.NFT_TABLE, *names.TABLES)
    return False
