"""What `iptables-save` and `ipset save` print, as values.

Reading is lazy: a node with kube-proxy may have tens of thousands of rules, of which only a
handful matter to us. A rule's words are split when the tracer asks for them.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise


class Rule:
    """One rule: its chain, and its text without "-A CHAIN "."""

    __slots__ = ("chain", "text")

    def __init__(self, chain: str, text: str) -> None:
        self.chain = chain
        self.text = text

    def __repr__(self) -> str:
        return f"Rule({self.chain!r}, {self.text!r})"

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text) if '"' in self.text else self.text.split()

    @property
    def target(self) -> str | None:
        """Where -j or -g leads; None for a rule that only counts."""
        for option, value in pairwise(self.words):
            if option in ("-j", "-g"):
                return value
        return None


@dataclass(frozen=True)
class Ruleset:
    """The tables of one family: policies ("-" for chains that are not built in) and rules."""

    policies: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    bodies: Mapping[str, Mapping[str, list[Rule]]] = field(default_factory=dict)

    def chains(self, table: str) -> Mapping[str, str]:
        return self.policies.get(table, {})

    def chain(self, table: str, chain: str) -> list[Rule]:
        return self.bodies.get(table, {}).get(chain, [])

    def rules(self, table: str) -> Iterator[Rule]:
        for body in self.bodies.get(table, {}).values():
            yield from body

    def is_bare(self, table: str) -> bool:
        """Nothing but built-in chains that accept: as if the table did not exist."""
        policies = self.policies.get(table, {})
        return all(policy == "ACCEPT" for policy in policies.values()) and not any(
            self.bodies.get(table, {}).values()
        )


def parse_save(text: str) -> Ruleset:
    """Read the output of iptables-save. Lines that it doesn't know are left out."""
    policies: dict[str, dict[str, str]] = {}
    bodies: dict[str, dict[str, list[Rule]]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("-A "):
            _, chain, rule = [*line.split(" ", 2), ""][:3]
            bodies[table].setdefault(chain, []).append(Rule(chain, rule))
        elif line.startswith("*"):
            table = line[1:].strip()
            policies.setdefault(table, {})
            bodies.setdefault(table, {})
        elif line.startswith(":"):
            chain, policy = line[1:].split()[:2]
            policies[table][chain] = policy
    return Ruleset(policies, bodies)


@dataclass(frozen=True)
class IpSet:
    """One set: its type, and its members with the seconds they have left (None: for ever)."""

    kind: str
    members: Mapping[str, int | None] = field(default_factory=dict)


class Sets:
    """All sets by name. A member of a hash:ip,port set is written "10.96.0.10,tcp:80"."""

    def __init__(self, sets: Mapping[str, IpSet] | None = None) -> None:
        self.sets = dict(sets or {})

    def __contains__(self, name: object) -> bool:
        return name in self.sets

    def holds(self, name: str, member: str) -> bool:
        """Whether a packet to `member` matches the set, or a member set of a list."""
        found = self.sets.get(name)
        if found is None:
            return False
        if found.kind == "list:set":
            return any(self.holds(inner, member) for inner in found.members)
        return member in found.members

    @cached_property
    def live(self) -> bool:
        """Whether any dead-man's switch holds."""
        return any(s.members for name, s in self.sets.items() if name.endswith("-LIVE"))


def parse_sets(text: str) -> Sets:
    """Read the output of `ipset save`."""
    sets: dict[str, IpSet] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and words[0] == "create":
            sets[words[1]] = IpSet(words[2], {})
        elif len(words) >= 3 and words[0] == "add" and words[1] in sets:
            left = None
            if "timeout" in words:
                left = int(words[words.index("timeout") + 1])
            members = sets[words[1]].members
            assert isinstance(members, dict)
            members[words[2]] = left
    return Sets(sets)
