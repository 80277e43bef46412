"""A packet's way through the rules, step by step: why it ends where it ends.

Pure: it walks the text of `iptables-save`, the contents of the sets and the kernel path's map,
as generated or as read from a machine, in the order in which the kernel's hooks would. Foreign
rules are walked as far as they are understood.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from iptables import names
from iptables.matches import Packet, State, matches
from iptables.saved import Rule, Ruleset, Sets

Verdict = Literal["proxy", "endpoint", "accept", "drop", "reject"]
Key = tuple[str, int]
_GOES_ON = frozenset(
    {"LOG", "NFLOG", "CONNMARK", "TCPMSS", "SET", "CHECKSUM", "CT", "NOTRACK", "TRACE", "AUDIT"}
)
_DEEPEST = 32


@dataclass(frozen=True)
class Step:
    """One rule that was looked at. `matched` is None if it is not understood."""

    table: str
    chain: str
    rule: str
    matched: bool | None
    why: str

    def __str__(self) -> str:
        sign = {True: "+", False: "-", None: "?"}[self.matched]
        return f"{sign} {self.table} {self.chain}: {self.rule} ({self.why})"


@dataclass(frozen=True)
class Trace:
    """All steps, how it ended and where; `uncertain` if something foreign wasn't understood."""

    steps: tuple[Step, ...]
    verdict: Verdict
    destination: str
    sentence: str
    uncertain: bool = False

    def __str__(self) -> str:
        return self.sentence


class _Tracer:
    def __init__(self, rules: Ruleset, state: State, kernel: Mapping[Key, tuple[Key, ...]]) -> None:
        self.rules = rules
        self.state = state
        self.kernel = kernel
        self.steps: list[Step] = []
        self.targets: tuple[Key, ...] = ()

    def run(self) -> tuple[Verdict, str]:
        """The hooks in the kernel's order; the verdict, and what ended it."""
        state = self.state
        first = "OUTPUT" if state.packet.interface == "lo" else "PREROUTING"
        for table in ("mangle", "nat"):
            ended = self._hook(table, first)
            if ended in ("drop", "reject"):
                return ended, f"{table} {first}"
        if not state.translated:
            self._kernel_path()
        if first == "OUTPUT":
            ended = self._hook("filter", "OUTPUT")
            if ended in ("drop", "reject"):
                return ended, "filter OUTPUT"
        if state.here:
            then = "INPUT"
        elif first == "OUTPUT":
            then = ""
        else:
            then = "FORWARD"
        for table in ("mangle", "filter") if then else ():
            ended = self._hook(table, then)
            if ended in ("drop", "reject"):
                return ended, f"{table} {then}"
        if state.here and state.translated and state.port == state.refuse_port:
            return "reject", "the refusal port is closed"
        if state.here and state.natted_by in (names.PRE, names.OUT):
            return ("proxy", "") if state.packet.listening else ("reject", "nobody listens")
        if state.here and state.translated and not state.packet.listening:
            return "reject", "nobody listens"
        return ("endpoint", "") if state.translated else ("accept", "")

    def _hook(self, table: str, chain: str) -> Verdict | None:
        self.state.hook = chain
        if chain not in self.rules.chains(table):
            return None
        ended = self._chain(table, chain, 0)
        if ended in (None, "return"):
            policy = self.rules.chains(table)[chain]
            if policy == "DROP":
                self.steps.append(Step(table, chain, f"policy {policy}", True, "no rule decided"))
                return "drop"
            return None
        return "drop" if ended == "drop" else "reject" if ended == "reject" else None

    def _chain(self, table: str, chain: str, depth: int) -> str | None:
        """Walk a chain: "accept", "drop", "reject", "return", or None at its end."""
        loud = depth == 0 or chain in names.ALL_CHAINS
        skipped = 0
        for rule in self.rules.chain(table, chain):
            matched, why = matches(rule, self.state)
            if matched is not False or loud:
                self.steps.append(Step(table, chain, rule.text, matched, why))
            else:
                skipped += 1
            if matched is None:
                self.state.uncertain = True
            if matched:
                ended = self._target(table, chain, rule, depth)
                if ended is not None:
                    return ended
        if skipped:
            self.steps.append(
                Step(table, chain, f"{skipped} rules", False, "none of them is for this packet")
            )
        return None

    def _target(self, table: str, chain: str, rule: Rule, depth: int) -> str | None:
        state = self.state
        target = rule.target
        words = rule.words
        if target is None or target in _GOES_ON:
            return None
        if target in self.rules.chains(table):
            if depth >= _DEEPEST:
                return None
            ended = self._chain(table, target, depth + 1)
            if "-g" in words and ended in (None, "return"):
                return "return"
            return None if ended == "return" else ended
        match target:
            case "RETURN":
                return "return"
            case "ACCEPT":
                return "accept"
            case "DROP":
                return "drop"
            case "REJECT":
                return "reject"
            case "MARK" if "--set-xmark" in words:
                value, _, mask = words[words.index("--set-xmark") + 1].partition("/")
                state.mark = (state.mark & ~int(mask or "0xffffffff", 0)) ^ int(value, 0)
                return None
            case "DNAT" if "--to-destination" in words:
                host, _, port = words[words.index("--to-destination") + 1].rpartition(":")
                self._translate(host.strip("[]"), int(port), chain)
                return "accept"
            case "REDIRECT" if "--to-ports" in words:
                address = next(iter(state.local), state.destination)
                self._translate(address, int(words[words.index("--to-ports") + 1]), chain)
                return "accept"
        state.uncertain = True
        self.steps.append(Step(table, chain, rule.text, None, f"not understood: target {target}"))
        return None

    def _kernel_path(self) -> None:
        state = self.state
        key = (state.destination, state.port)
        rule = f"daddr . dport vmap @services {{ {key[0]} . {key[1]} }}"
        table, chain = f"nft {names.NFT_TABLE}", state.hook.lower()
        targets = self.kernel.get(key)
        if targets is None or state.packet.proto != "tcp":
            if self.kernel:
                self.steps.append(Step(table, chain, rule, False, "not served by the kernel path"))
            return
        self.targets = tuple(dict.fromkeys(targets))
        if targets:
            words = f"{len(self.targets)} endpoints in {len(targets)} slots"
            self.steps.append(Step(table, chain, rule, True, words))
            self._translate(*targets[0], "kernel path")
        else:
            self.steps.append(Step(table, chain, rule, True, "no endpoint: to the refusal port"))
            refusal = next((a for a in state.local if (":" in a) == (":" in key[0])), "")
            self._translate(refusal or state.destination, state.refuse_port, "refused")

    def _translate(self, address: str, port: int, by: str) -> None:
        state = self.state
        state.destination, state.port = address, port
        state.translated, state.natted_by = True, by


def trace(
    rules: Ruleset,
    sets: Sets,
    packet: Packet,
    *,
    kernel_path: Mapping[Key, tuple[Key, ...]] | None = None,
    local: Collection[str] = ("169.254.171.1", "fd0d:4e50::1"),
    routes: Mapping[str, str] | None = None,
    refuse_port: int = 15009,
) -> Trace:
    """Follow a packet. `kernel_path`: service -> slots (none: refused); `local`: the addresses
    of this host that matter; `routes`: network -> interface, for those that lead to `lo`.
    """
    destination, port = packet.destination, packet.port
    state = State(packet, sets, local, routes or {}, destination, port, packet.mark, refuse_port)
    tracer = _Tracer(rules, state, kernel_path or {})
    verdict, cause = tracer.run()
    if state.natted_by == "refused" and verdict == "reject":
        cause = "no endpoint"
    destination = _show(state.destination, state.port)
    parts = _parts(tracer, verdict, cause, destination)
    start = f"SYN from {packet.source} to {_show(packet.destination, packet.port)}"
    doubt = " (as far as foreign rules are understood)" if state.uncertain else ""
    sentence = " -> ".join([start, *parts]) + doubt
    return Trace(tuple(tracer.steps), verdict, destination, sentence, state.uncertain)


def _parts(tracer: _Tracer, verdict: Verdict, cause: str, destination: str) -> list[str]:
    state = tracer.state
    enforced = state.natted_by in (names.PRE, names.OUT)
    parts = []
    if state.expired:
        parts.append("switch expired")
        if not enforced:
            parts.append("falls through")
    if state.natted_by in ("kernel path", "refused"):
        parts.append("kernel path")
    match verdict:
        case "proxy":
            parts.append(f"proxy {destination}")
        case "reject":
            parts.append(f"refused ({cause})")
        case "drop":
            parts.append(f"dropped in {cause}")
        case "endpoint" if len(tracer.targets) > 1:
            parts.append(f"one of {len(tracer.targets)} endpoints")
        case "endpoint":
            by = "" if state.natted_by == "kernel path" else f" by {state.natted_by}"
            parts.append(f"endpoint {destination}{by}")
        case _:
            parts.append("passes untouched")
    return parts


def _show(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


__all__ = ["Packet", "Step", "Trace", "trace"]
