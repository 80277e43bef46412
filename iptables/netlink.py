"""Netlink without a helper process: ipset members, heartbeats, addresses and routes.

Messages are encoded by pyroute2's classes and sent over plain sockets; its own sockets
need asyncio. The kernel works such a request off inside of `send`, so the answer is there when
it returns and a call of this module never waits for anything but the kernel itself.
"""

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink import (
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
)
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_IPSET
from pyroute2.netlink.nfnetlink.ipset import (
    IPSET_CMD_ADD,
    IPSET_CMD_DEL,
    IPSET_CMD_FLUSH,
    ipset_msg,
)
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELROUTE,
    RTM_GETADDR,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWROUTE,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from iptables import names
from iptables.errors import HostError, NetlinkError, NotPermittedError
from iptables.host import Host
from iptables.names import Family
from iptables.settings import family_of

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_ERROR = 2
_DONE = 3
_BATCH = 100  # messages in one send; more would overrun the buffer for the answers
_RECEIVE = 1 << 17
_INET: dict[Family, int] = {4: socket.AF_INET, 6: socket.AF_INET6}
_LO = 1  # the index of lo in every network namespace
_SCOPE_HOST = 254  # never a source address of the host's own traffic
_SCOPE_LINK = 253
_NODAD = 0x02
_FOR_EVER = 0xFFFFFFFF
_MAIN = 254
_UNICAST = 1
_LOCAL = 2


class Netlink:
    """A netlink socket: batches of requests, each answered by an error number (0: done)."""

    def __init__(self, host: Host, protocol: int) -> None:
        self._socket = netlink_socket(host, protocol)
        self._socket.settimeout(2)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, messages: Iterable[bytes]) -> list[int]:
        """Send requests, return their error numbers in order."""
        results: list[int] = []
        pending = list(messages)
        for start in range(0, len(pending), _BATCH):
            batch = pending[start : start + _BATCH]
            first = self._sequence + 1
            self._sequence += len(batch)
            self._send(b"".join(numbered(m, first + i) for i, m in enumerate(batch)))
            answers: dict[int, int] = {}
            while len(answers) < len(batch):
                found = acknowledged(self._receive())
                # An earlier request that failed midway may have left answers.
                answers |= {number: e for number, e in found.items() if number >= first}
                if answers.get(first) == errno.EPERM:
                    # Who lacks the capability gets one answer to all that was sent together.
                    answers = dict.fromkeys(range(first, first + len(batch)), errno.EPERM)
            results += [answers[first + i] for i in range(len(batch))]
        return results

    def dump(self, message: bytes) -> list[bytes]:
        """Send one request and collect the messages that answer it (NetlinkError)."""
        self._sequence += 1
        self._send(numbered(message, self._sequence))
        found: list[bytes] = []
        while True:
            data = self._receive()
            for kind, sequence, body in _split(data):
                if sequence != self._sequence:
                    continue
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    number = -int(struct.unpack_from("=i", body, 16)[0])
                    if number:
                        raise NetlinkError("netlink", number, os.strerror(number))
                    return found
                found.append(body)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise HostError("netlink", error) from error

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE)
        except OSError as error:
            raise HostError("netlink", error) from error


def netlink_socket(host: Host, protocol: int) -> socket.socket:
    """A bound netlink socket. Raises HostError."""
    try:
        opened = host.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    except OSError as error:
        raise HostError("a netlink socket cannot be opened", error) from error
    try:
        opened.bind((0, 0))
    except OSError as error:
        opened.close()
        raise HostError("a netlink socket cannot be opened", error) from error
    return opened


class IpSets:
    """Changes of set members, and the heartbeat."""

    def __init__(self, host: Host) -> None:
        self._netlink = Netlink(host, NETLINK_NETFILTER)

    def close(self) -> None:
        self._netlink.close()

    def add(self, entries: Iterable[tuple[str, str, int]]) -> None:
        """Add (set, address, port); what is there already is no error."""
        self._change("add to", IPSET_CMD_ADD, list(entries))

    def delete(self, entries: Iterable[tuple[str, str, int]]) -> None:
        """Delete (set, address, port); what is gone already is no error."""
        self._change("delete from", IPSET_CMD_DEL, list(entries))

    def flush(self, sets: Sequence[str]) -> None:
        """Empty sets; those that don't exist are empty."""
        self._check("flush", sets, self._netlink.request(map(flush_message, sets)), errno.ENOENT)

    def _change(self, verb: str, command: int, entries: list[tuple[str, str, int]]) -> None:
        results = self._netlink.request(_member_message(command, *entry) for entry in entries)
        self._check(verb, [entry[0] for entry in entries], results)

    def _check(self, verb: str, sets: Sequence[str], results: list[int], accepted: int = 0) -> None:
        for name, number in zip(sets, results, strict=True):
            if number not in (0, accepted):
                raise _error(f"ipset {verb} {name}", number)


class Heart:
    """The heartbeat of a switch: cheap, never blocks, never raises.

    `beat` renews every member of the lists for `expiry` seconds and returns 0, or the number of
    the first error that the kernel answered (ENOENT: someone destroyed a set).
    """

    def __init__(self, host: Host, members: Sequence[tuple[str, str]], expiry: int) -> None:
        self._socket = netlink_socket(host, NETLINK_NETFILTER)
        self._socket.setblocking(False)
        self._message = b"".join(
            numbered(_list_message(list_name, member, expiry), i)
            for i, (list_name, member) in enumerate(members)
        )

    def beat(self) -> int:
        worst = 0
        try:
            self._socket.send(self._message)
            while True:
                for number in acknowledged(self._socket.recv(4096)).values():
                    worst = worst or number
        except BlockingIOError:
            return worst
        except OSError as error:
            return error.errno or errno.EIO

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True)
class Route:
    """A route of the main table through `lo` that carries our protocol number."""

    cidr: str


class Links:
    """Addresses and routes of ours on `lo`; opened for a few calls, then closed."""

    def __init__(self, host: Host) -> None:
        self._netlink = Netlink(host, NETLINK_ROUTE)

    def close(self) -> None:
        self._netlink.close()

    def __enter__(self) -> "Links":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def addresses(self, family: Family) -> dict[str, bool]:
        """The addresses of `lo`, and whether each carries our label or protocol number."""
        message = ifaddrmsg()
        message["family"] = _INET[family]
        found = self._dump(_encode(message, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP))
        result = {}
        for item in found:
            if item["index"] == _LO:
                address = item.get_attr("IFA_LOCAL") or item.get_attr("IFA_ADDRESS")
                result[str(ipaddress.ip_address(address))] = (
                    item.get_attr("IFA_LABEL") == names.LABEL
                    or item.get_attr("IFA_PROTO") == names.PROTOCOL
                )
        return result

    def add_address(self, address: str) -> None:
        """Put one of ours on `lo`, so that the host never chooses it as a source by itself:
        IPv4 by its scope, IPv6 as a deprecated address.
        """
        message = _address_message(address)
        family = family_of(address)
        if family == 4:
            message["attrs"].append(["IFA_LABEL", names.LABEL])
        else:
            lifetimes = {"ifa_preferred": 0, "ifa_valid": _FOR_EVER, "cstamp": 0, "tstamp": 0}
            message["flags"] = _NODAD
            message["attrs"].append(["IFA_CACHEINFO", lifetimes])
        message["attrs"].append(["IFA_PROTO", names.PROTOCOL])
        flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
        self._one(f"ip address add {address} dev lo", _encode(message, RTM_NEWADDR, flags))

    def delete_address(self, address: str) -> None:
        message = _encode(_address_message(address), RTM_DELADDR, NLM_F_REQUEST | NLM_F_ACK)
        self._one(f"ip address delete {address} dev lo", message, errno.EADDRNOTAVAIL)

    def routes(self, family: Family) -> tuple[Route, ...]:
        """The routes of ours."""
        message = rtmsg()
        message["family"] = _INET[family]
        found = self._dump(_encode(message, RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP))
        return tuple(
            Route(f"{item.get_attr('RTA_DST')}/{item['dst_len']}")
            for item in found
            if item["proto"] == names.PROTOCOL and item["table"] == _MAIN
        )

    def reachable(self, address: str) -> bool:
        """Whether the host has any usable route to an address."""
        message = rtmsg()
        family = family_of(address)
        message["family"] = _INET[family]
        message["dst_len"] = 32 if family == 4 else 128
        message["attrs"] = [["RTA_DST", address]]
        try:
            found = self._dump(_encode(message, RTM_GETROUTE, NLM_F_REQUEST | NLM_F_ACK))
        except NetlinkError:
            return False
        return any(item["type"] in (_UNICAST, _LOCAL) for item in found)

    def add_route(self, cidr: str) -> None:
        """Lead a service network to `lo`, unless a route to exactly it exists."""
        message = _encode(
            _route_message(cidr), RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | 0x200
        )
        self._one(f"ip route add {cidr} dev lo", message, errno.EEXIST)

    def delete_route(self, cidr: str) -> None:
        message = _encode(_route_message(cidr), RTM_DELROUTE, NLM_F_REQUEST | NLM_F_ACK)
        self._one(f"ip route delete {cidr} dev lo", message, errno.ESRCH)

    def _dump(self, message: bytes) -> list[Any]:
        marshal = MarshalRtnl()
        return [item for body in self._netlink.dump(message) for item in marshal.parse(body)]

    def _one(self, what: str, message: bytes, accepted: int = 0) -> None:
        number = self._netlink.request([message])[0]
        if number not in (0, accepted):
            raise _error(what, number)


def numbered(message: bytes, sequence: int) -> bytes:
    """The message with another sequence number."""
    return message[:8] + sequence.to_bytes(4, sys.byteorder) + message[12:]


def acknowledged(data: bytes) -> dict[int, int]:
    """Sequence number -> error number, of the acknowledgements in what was received."""
    return {
        sequence: -int(struct.unpack_from("=i", body, 16)[0])
        for kind, sequence, body in _split(data)
        if kind == _ERROR
    }


def flush_message(name: str) -> bytes:
    return _ipset(IPSET_CMD_FLUSH, socket.AF_UNSPEC, [["IPSET_ATTR_SETNAME", name]])


def _list_message(name: str, member: str, timeout: int) -> bytes:
    # AF_UNSPEC: a list belongs to no family.
    data = [["IPSET_ATTR_NAME", member], ["IPSET_ATTR_TIMEOUT", timeout]]
    attributes = [["IPSET_ATTR_SETNAME", name], ["IPSET_ATTR_DATA", {"attrs": data}]]
    return _ipset(IPSET_CMD_ADD, socket.AF_UNSPEC, attributes)


def _member_message(command: int, name: str, address: str, port: int) -> bytes:
    family = family_of(address)
    data = [
        ["IPSET_ATTR_IP_FROM", {"attrs": [[f"IPSET_ATTR_IPADDR_IPV{family}", address]]}],
        ["IPSET_ATTR_PORT", port],
        ["IPSET_ATTR_PROTO", socket.IPPROTO_TCP],
    ]
    attributes = [["IPSET_ATTR_SETNAME", name], ["IPSET_ATTR_DATA", {"attrs": data}]]
    return _ipset(command, _INET[family], attributes)


def _ipset(command: int, family: int, attributes: list[Any]) -> bytes:
    message = ipset_msg()
    message["attrs"] = [["IPSET_ATTR_PROTOCOL", 6], *attributes]
    message["nfgen_family"] = family
    return _encode(message, command | (NFNL_SUBSYS_IPSET << 8), NLM_F_REQUEST | NLM_F_ACK)


def _address_message(address: str) -> Any:
    message = ifaddrmsg()
    family = family_of(address)
    message["family"] = _INET[family]
    message["prefixlen"] = 32 if family == 4 else 128
    message["scope"] = _SCOPE_HOST if family == 4 else 0
    message["index"] = _LO
    message["attrs"] = [["IFA_LOCAL", address], ["IFA_ADDRESS", address]]
    return message


def _route_message(cidr: str) -> Any:
    network = ipaddress.ip_network(cidr)
    message = rtmsg()
    message["family"] = _INET[4 if network.version == 4 else 6]
    message["dst_len"] = network.prefixlen
    message["table"] = _MAIN
    message["proto"] = names.PROTOCOL
    message["scope"] = _SCOPE_LINK if network.version == 4 else 0
    message["type"] = _UNICAST
    message["attrs"] = [["RTA_DST", str(network.network_address)], ["RTA_OIF", _LO]]
    return message


def _encode(message: Any, kind: int, flags: int) -> bytes:
    header = message["header"]
    header["type"] = kind
    header["flags"] = flags
    header["sequence_number"] = 0
    header["pid"] = 0
    message.encode()
    return bytes(message.data)


def _split(data: bytes) -> Iterable[tuple[int, int, bytes]]:
    """(type, sequence number, whole message) of every message in a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
        yield kind, sequence, data[offset : offset + length]
        offset += (max(length, _HEADER.size) + 3) & ~3


def _error(what: str, number: int) -> NetlinkError | NotPermittedError:
    if number in (errno.EPERM, errno.EACCES):
        return NotPermittedError(f"{what}: {os.strerror(number)}")
    # ipset has numbers of its own above 4096; the usual ones are errno's.
    reason = os.strerror(number) if number < 4096 else f"ipset error {number}"
    return NetlinkError(what, number, reason)
