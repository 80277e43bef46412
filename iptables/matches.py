"""Whether a rule's conditions hold for a packet: the part of iptables that the tracer understands.

Each condition answers True, False or None ("not understood"), with a reason in words. A rule that
has an unknown condition is not guessed at; the tracer says so and goes on as if it didn't match.
"""

import ipaddress
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from iptables import names
from iptables.saved import Rule, Sets
from iptables.settings import canonical, family_of


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection, a SYN.

    `interface` is where it comes in; "lo" means that a process of this host sends it.
    `listening` tells whether anyone listens where it arrives, should it arrive at this host.
    """

    source: str
    destination: str
    port: int
    mark: int = 0
    interface: str = "pod"
    proto: str = "tcp"
    listening: bool = True


@dataclass
class State:
    """The packet on its way: what rules have made of it so far."""

    packet: Packet
    sets: Sets
    local: Collection[str]
    routes: Mapping[str, str]
    destination: str
    port: int
    mark: int
    refuse_port: int = 0
    hook: str = ""
    translated: bool = False
    expired: bool = False
    uncertain: bool = False
    natted_by: str = ""

    @property
    def here(self) -> bool:
        """Whether the destination, as it is now, is this host."""
        return self.destination in self.local

    @property
    def incoming(self) -> str:
        if self.hook == "OUTPUT":
            return ""
        return self.packet.interface

    @property
    def outgoing(self) -> str:
        if self.hook in ("PREROUTING", "INPUT"):
            return ""
        if self.here:
            return "lo"
        address = ipaddress.ip_address(self.destination)
        for cidr, interface in self.routes.items():
            network = ipaddress.ip_network(cidr)
            if network.version == address.version and address in network:
                return interface
        return "another interface"


Answer = tuple[bool | None, str]
_STATES = frozenset({"NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED", "SNAT", "DNAT"})


def matches(rule: Rule, state: State) -> Answer:
    """All conditions of a rule together: the first that fails decides."""
    unknown = ""
    held: list[str] = []
    for negated, option, value in conditions(rule.words):
        check = _CHECKS.get(option)
        if check is None:
            unknown = unknown or f"{option} {value}".strip()
            continue
        result, reason = check(value, state)
        if result is None:
            unknown = unknown or reason
        elif result == negated:
            return False, reason if not negated else f"! {option} {value}: {reason}"
        elif reason:
            held.append(reason)
    if unknown:
        return None, f"not understood: {unknown}"
    return True, "; ".join(held) or "matches everything"


def conditions(words: list[str]) -> Iterator[tuple[bool, str, str]]:
    """(negated, option, value) of every condition, up to the target."""
    negated = False
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "!":
            negated = True
            continue
        if word in ("-j", "-g"):
            return
        values = []
        while position < len(words) and not words[position].startswith("-"):
            if words[position] == "!":
                break
            values.append(words[position])
            position += 1
        yield negated, word, " ".join(values)
        negated = False


def _proto(value: str, state: State) -> Answer:
    return value == state.packet.proto or value == "all", f"protocol is {state.packet.proto}"


def _source(value: str, state: State) -> Answer:
    return _within(state.packet.source, value), f"source is {state.packet.source}"


def _destination(value: str, state: State) -> Answer:
    return _within(state.destination, value), f"destination is {state.destination}"


def _within(address: str, network: str) -> bool | None:
    if "," in network:
        return None
    parsed = ipaddress.ip_network(network, strict=False)
    mine = ipaddress.ip_address(address)
    return mine.version == parsed.version and mine in parsed


def _interface(value: str, name: str) -> bool:
    return name.startswith(value[:-1]) if value.endswith("+") else name == value


def _incoming(value: str, state: State) -> Answer:
    return _interface(value, state.incoming), f"comes in by {state.incoming or 'nothing'}"


def _outgoing(value: str, state: State) -> Answer:
    return _interface(value, state.outgoing), f"leaves by {state.outgoing or 'nothing'}"


def _always(value: str, state: State) -> Answer:
    return True, ""


def _number(text: str) -> int:
    return int(text, 0)


def _mark(value: str, state: State) -> Answer:
    wanted, _, mask = value.partition("/")
    masked = state.mark & (_number(mask) if mask else 0xFFFFFFFF)
    return masked == _number(wanted), f"mark is {state.mark:#x}"


def _set(value: str, state: State) -> Answer:
    name, _, flags = value.partition(" ")
    if flags != "dst,dst":
        return None, f"--match-set {value}"
    if name not in state.sets:
        return None, f"the set {name} is unknown here"
    member = f"{canonical(state.destination)},{state.packet.proto}:{state.port}"
    if state.sets.holds(name, member):
        return True, f"{member} is in {name}"
    found = state.sets.sets[name]
    if found.kind == "list:set" and not found.members:
        if state.sets.holds(names.VIP[family_of(state.destination)], member):
            state.expired = True
        return False, f"{name} has expired: it lists no set"
    return False, f"{member} is not in {name}"


def _ctstate(value: str, state: State) -> Answer:
    wanted = set(value.split(","))
    if not wanted <= _STATES:
        return None, f"--ctstate {value}"
    mine = {"NEW", "DNAT"} if state.translated else {"NEW"}
    return bool(mine & wanted), f"conntrack state is {','.join(sorted(mine))}"


def _ports(value: str, state: State) -> Answer:
    inside = any(_port_in(part, state.port) for part in value.split(","))
    return inside, f"port is {state.port}"


def _port_in(text: str, port: int) -> bool:
    low, found, high = text.partition(":")
    if not found:
        return port == int(text)
    return int(low or 0) <= port <= int(high or 65535)


def _flags(value: str, state: State) -> Answer:
    mask, _, wanted = value.partition(" ")
    return "SYN" in mask.split(",") and wanted == "SYN", "is a SYN"


def _socket(value: str, state: State) -> Answer:
    if state.port == state.refuse_port:
        return False, "nobody listens on the refusal port"
    words = "someone listens" if state.packet.listening else "nobody listens"
    return state.packet.listening, f"{words} on {state.destination} port {state.port}"


def _dst_type(value: str, state: State) -> Answer:
    if value != "LOCAL":
        return None, f"--dst-type {value}"
    what = "is" if state.here else "is not"
    return state.here, f"{state.destination} {what} this host's"


_CHECKS: Mapping[str, Callable[[str, State], Answer]] = {
    "-p": _proto,
    "-s": _source,
    "-d": _destination,
    "-i": _incoming,
    "-o": _outgoing,
    "-m": _always,
    "--comment": _always,
    "--mark": _mark,
    "--match-set": _set,
    "--ctstate": _ctstate,
    "--state": _ctstate,
    "--dport": _ports,
    "--dports": _ports,
    "--tcp-flags": _flags,
    "--nowildcard": _socket,
    "--dst-type": _dst_type,
}
