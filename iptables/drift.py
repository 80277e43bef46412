"""How far the machine is from what it should be, and how often that may be repaired.

Pure: expected rules and what was read back go in, differences come out.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from iptables import names
from iptables.rules import TableRules
from iptables.saved import Ruleset

# Targets that end the walk through a table, or change what a packet is.
_DECISIVE = frozenset(
    {"ACCEPT", "DROP", "REJECT", "DNAT", "REDIRECT", "NETMAP", "TPROXY", "QUEUE", "NFQUEUE"}
)


@dataclass(frozen=True)
class Drift:
    """One difference. `kind`: jump, order, chain, set, address, route, kernel-path."""

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def compare(expected: Iterable[TableRules], seen: Ruleset, tool: str) -> tuple[Drift, ...]:
    """The differences of the tables of one family; `tool` ("iptables") names them."""
    found: list[Drift] = []
    for table in expected:
        where = f"{tool} -t {table.name}"
        for jump in table.jumps:
            rules = seen.chain(table.name, jump.chain)
            positions = [i for i, rule in enumerate(rules) if rule.text == jump.rule]
            ours = [i for i, rule in enumerate(rules) if rule.target == jump.target]
            if not positions:
                found.append(Drift("jump", f"{where} {jump.chain}", f"no jump to {jump.target}"))
                continue
            if len(ours) > 1:
                found.append(
                    Drift("jump", f"{where} {jump.chain}", f"{len(ours)} jumps to {jump.target}")
                )
            # In filter a firewall may well decide first: that is what it is there for.
            if table.name == "filter":
                continue
            for rule in rules[: positions[0]]:
                if rule.target not in names.ALL_CHAINS and decisive(seen, table.name, rule.target):
                    found.append(
                        Drift(
                            "order",
                            f"{where} {jump.chain}",
                            f"{rule.target} stands before {jump.target}: {rule.text}",
                        )
                    )
                    break
        for chain, body in table.chains.items():
            if chain not in seen.chains(table.name):
                found.append(Drift("chain", where, f"chain {chain} is missing"))
            else:
                texts = tuple(rule.text for rule in seen.chain(table.name, chain))
                if texts != body:
                    found.append(Drift("chain", where, _difference(chain, body, texts)))
        found += [
            Drift("chain", where, f"chain {chain} is left over")
            for chain in seen.chains(table.name)
            if chain in names.ALL_CHAINS and chain not in table.chains
        ]
    return tuple(found)


def decisive(seen: Ruleset, table: str, target: str | None, depth: int = 0) -> bool:
    """Whether a rule with this target can take a packet away from what comes after it.

    A chain is asked for its own rules; so an agent that wants to be first, and only looks
    (Calico's, as long as it has no floating address), is left in peace.
    """
    if target is None:
        return False
    if target not in seen.chains(table):
        return target in _DECISIVE
    return depth < 8 and any(
        decisive(seen, table, rule.target, depth + 1) for rule in seen.chain(table, target)
    )


def _difference(chain: str, expected: tuple[str, ...], seen: tuple[str, ...]) -> str:
    missing = [rule for rule in expected if rule not in seen]
    extra = [rule for rule in seen if rule not in expected]
    if missing:
        return f"chain {chain} lacks: {missing[0]}"
    if extra:
        return f"chain {chain} has a foreign rule: {extra[0]}"
    return f"the rules of chain {chain} are in another order or repeated"


class RepairLimit:
    """When a repair may be made: at once, but against a stubborn opponent ever more rarely.

    The first one is free, the next must wait `first` seconds, each further one twice as long, up
    to `most`. After `calm` seconds without a repair all is forgotten. Times are the caller's.
    """

    def __init__(self, first: float = 5.0, most: float = 300.0, calm: float = 600.0) -> None:
        self._first = first
        self._most = most
        self._calm = calm
        self._pause = 0.0
        self._last: float | None = None

    def wait(self, now: float) -> float:
        """Seconds until the next repair may be made; 0 if it may now."""
        if self._last is None:
            return 0.0
        if now - self._last >= max(self._calm, self._pause):
            self._pause = 0.0
        return max(0.0, self._last + self._pause - now)

    def repaired(self, now: float) -> None:
        self._pause = min(self._most, self._pause * 2) if self._pause else self._first
        self._last = now
