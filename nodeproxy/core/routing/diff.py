"""What a change of route files means in effect: which requests would be treated otherwise.

Compared is what is compiled, not the text: moving a route to another file, or writing a default
out, is no change. Both sides are seen with the same catalog.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from nodeproxy.core.routing.compile import Compiler, run
from nodeproxy.core.routing.groups import Candidate
from nodeproxy.core.routing.objects import Objects
from nodeproxy.core.routing.rules import NO_FILTERS, Backends, Rule
from nodeproxy.core.routing.shadows import hidden, places
from nodeproxy.core.routing.table import ListenerRules, PortRules, RouteTable, TcpRule
from registry.catalog import Catalog

__all__ = ["Difference", "diff"]


class Difference(msgspec.Struct, frozen=True):
    """One change in effect."""

    what: Literal["added", "removed", "changed", "shadowed", "uncovered"]
    place: str
    """``Service shop/web:80``, or an object for what is no rule."""
    rule: str
    """``HTTPRoute shop/web rules[0].matches[1]``"""
    detail: str = ""

    def __str__(self) -> str:
        sign = {"added": "+", "removed": "-"}.get(self.what, "~")
        text = f"{sign} {self.place}: {self.rule} {self.what}"
        return f"{text}: {self.detail}" if self.detail else text


def diff(old: Objects, new: Objects, catalog: Catalog) -> tuple[Difference, ...]:
    """All differences, place by place."""
    before, after = run(Compiler(old).build(catalog)), run(Compiler(new).build(catalog))
    found = []
    sides = [_effects(before), _effects(after)]
    for place in sorted(sides[0].keys() | sides[1].keys()):
        was, now = sides[0].get(place, {}), sides[1].get(place, {})
        found += _rules(place, was, now)
    found += _l4(before, after)
    found += _policies(before, after)
    return tuple(found)


class _Effect(msgspec.Struct, frozen=True):
    wants: str
    does: tuple[tuple[str, object], ...]
    hidden_by: str


def _name(candidate: Candidate) -> str:
    decision = candidate.decision
    return f"{decision.rule.route} rules[{decision.rule.index}].matches[{decision.match}]"


def _effects(table: RouteTable) -> dict[str, dict[str, _Effect]]:
    found: dict[str, dict[str, _Effect]] = {}
    for place, rules in places(table):
        shadowed = {_name(s.candidate): _name(s.by) for s in hidden(rules.candidates)}
        found[place] = {
            _name(c): _Effect(
                " and ".join(x.text for x in (c.path, *c.conditions)),
                _does(c.decision.rule),
                shadowed.get(_name(c), ""),
            )
            for c in rules.ordered()
        }
    return found


def _does(rule: Rule) -> tuple[tuple[str, object], ...]:
    to = _shares(rule.backends) or "no backend"
    return (
        ("backends", to),
        (
            "backend filters",
            {b.label: b.filters for b in rule.backends.entries if b.filters != NO_FILTERS},
        ),
        ("filters", rule.filters),
        ("timeouts", rule.timeouts),
        ("retry", rule.retry),
        ("session persistence", rule.session),
        ("name", rule.name),
        ("policy", {field: s.value for field, s in rule.policy.settings.items()}),
    )


def _rules(place: str, was: dict[str, _Effect], now: dict[str, _Effect]) -> list[Difference]:
    found = []
    for name in [*was, *(n for n in now if n not in was)]:
        before, after = was.get(name), now.get(name)
        if after is None:
            assert before is not None
            found.append(Difference("removed", place, name, before.wants))
            continue
        to = dict(after.does)["backends"]
        if before is None:
            found.append(Difference("added", place, name, f"{after.wants} -> {to}"))
        else:
            if before.wants != after.wants:
                detail = f"{before.wants} becomes {after.wants}"
                found.append(Difference("changed", place, name, detail))
            for (field, one), (_, other) in zip(before.does, after.does, strict=True):
                if one != other:
                    detail = f"{one} becomes {other}" if field == "backends" else f"other {field}"
                    found.append(Difference("changed", place, name, detail))
        hid = before.hidden_by if before is not None else ""
        if after.hidden_by and not hid:
            found.append(Difference("shadowed", place, name, f"by {after.hidden_by}"))
        elif hid and not after.hidden_by:
            found.append(Difference("uncovered", place, name, f"it was hidden by {hid}"))
    return found


def _l4(before: RouteTable, after: RouteTable) -> list[Difference]:
    """Ports whose kind of route changes, and rules of TCPRoutes and TLSRoutes."""
    sides = []
    for table in (before, after):
        found: dict[str, tuple[str, str]] = {}
        for name, service in table.services.items():
            for port, groups in service.ports.items():
                for client, rules in groups.items():
                    of = f" for clients of {client}" if client else ""
                    found[f"Service {name}:{port}{of}"] = (rules.kind, _l4_text(rules))
        for name, gateway in table.gateways.items():
            for listeners in gateway.ports.values():
                for each in listeners:
                    text = f"{each.hostname} {each.port} {_l4_text(each)}"
                    found[f"Gateway {name}/{each.name}"] = (each.protocol, text.strip())
        sides.append(found)
    changes = []
    for place in sorted(sides[0].keys() | sides[1].keys()):
        was, now = sides[0].get(place), sides[1].get(place)
        if was == now:
            continue
        if was is None or now is None:
            side = now or was
            assert side is not None
            what: Literal["added", "removed"] = "added" if was is None else "removed"
            changes.append(Difference(what, place, f"{side[0]} rules", side[1]))
        else:
            texts = [text or kind for kind, text in (was, now)]
            detail = " becomes ".join(texts)
            changes.append(Difference("changed", place, f"{now[0]} rules", detail))
    return changes


def _l4_text(rules: PortRules | ListenerRules) -> str:
    """Everything that TCPRoutes and TLSRoutes do at a place."""
    parts = []
    tls = rules.tls
    if rules.tcp is not None:
        parts.append(_targets(rules.tcp))
    if tls is not None:
        parts += [f"{h.decode()}: {_targets(x)}" for h, x in sorted(tls.exact.items())]
        parts += [f"*{h.decode()}: {_targets(x)}" for h, x in sorted(tls.wildcards.items())]
        if tls.other is not None:
            parts.append(_targets(tls.other))
    return ", ".join(parts)


def _targets(rule: TcpRule) -> str:
    return f"{rule.route} -> {_shares(rule.backends)}"


def _shares(backends: Backends) -> str:
    entries = backends.entries
    if len(entries) == 1 and entries[0].weight:
        return entries[0].label
    return " ".join(f"{b.label}*{b.weight}" for b in entries)


def _policies(before: RouteTable, after: RouteTable) -> list[Difference]:
    found = []
    for name in sorted(before.policies.keys() | after.policies.keys()):
        was, now = before.policies.get(name, {}), after.policies.get(name, {})
        for section in sorted(was.keys() | now.keys()):
            one, other = was.get(section), now.get(section)
            fields = (one.settings if one else {}).keys() | (other.settings if other else {}).keys()
            for field in sorted(fields):
                old = one.get(field) if one else None
                new = other.get(field) if other else None
                if old != new:
                    place = f"Service {name}" + (f"/{section}" if section else "")
                    shown = [str(v) if isinstance(v, float | int | str) else v for v in (old, new)]
                    text = " becomes ".join("unset" if v is None else str(v) for v in shown)
                    found.append(Difference("changed", place, f"policy {field}", text))
    return found
