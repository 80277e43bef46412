"""Rules that can never match, because another one takes all their requests before.

A match can only be hidden by one that has the same path and the same further conditions (one with
fewer conditions comes later, by the Gateway API's precedence), or by a regular expression that
matches every path, as these go before prefixes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nodeproxy.core.routing.conditions import PathMatches, PathStarts
from nodeproxy.core.routing.groups import Candidate, by_order
from nodeproxy.core.routing.objects import Key, Objects
from nodeproxy.core.routing.patterns import matches_all
from nodeproxy.core.routing.table import HttpRules, RouteTable
from registry.base import Problem

__all__ = ["Shadow", "hidden", "places", "shadows"]


class Shadow(NamedTuple):
    """A match that is never reached, and the one that is taken instead."""

    candidate: Candidate
    by: Candidate


def hidden(candidates: Iterable[Candidate]) -> list[Shadow]:
    """Of one place, in the order of precedence."""
    first: dict[object, Candidate] = {}
    general: list[Candidate] = []
    found = []
    for candidate in sorted(candidates, key=by_order):
        conditions = frozenset(candidate.conditions)
        other = first.setdefault((candidate.path, conditions), candidate)
        if other is candidate and isinstance(candidate.path, PathStarts):
            other = next((g for g in general if conditions >= set(g.conditions)), candidate)
        if other is not candidate:
            found.append(Shadow(candidate, other))
        elif isinstance(candidate.path, PathMatches) and matches_all(
            candidate.path.pattern.pattern.decode()
        ):
            general.append(candidate)
    return found


def places(table: RouteTable) -> Iterator[tuple[str, HttpRules]]:
    """Every place that has rules of HTTPRoutes, and how it is called."""
    for name, service in sorted(table.services.items()):
        for port, groups in sorted(service.ports.items()):
            for client, rules in sorted(groups.items()):
                if rules.http is not None:
                    of = f" for clients of {client}" if client else ""
                    yield f"Service {name}:{port}{of}", rules.http
    for name, gateway in sorted(table.gateways.items()):
        for _, listeners in sorted(gateway.ports.items()):
            for listener in listeners:
                if listener.http is None:
                    continue
                where = f"Gateway {name}/{listener.name}"
                for host, rules_ in sorted(listener.http.exact.items()):
                    yield f"{where} at {host.decode()}", rules_
                for suffix, rules_ in sorted(listener.http.wildcards.items()):
                    yield f"{where} at *{suffix.decode()}", rules_
                if listener.http.other.candidates:
                    yield where, listener.http.other


def shadows(objects: Objects, table: RouteTable) -> list[Problem]:
    """One warning a match, if it is hidden everywhere where its route is attached."""
    seen: dict[tuple[Key, int, int], int] = {}
    by: dict[tuple[Key, int, int], tuple[Candidate, int]] = {}
    done: set[int] = set()
    for _, rules in places(table):
        if id(rules) in done:  # ports may share their rules
            continue
        done.add(id(rules))
        for candidate in rules.candidates:
            key = _key(candidate)
            seen[key] = seen.get(key, 0) + 1
        for candidate, other in hidden(rules.candidates):
            key = _key(candidate)
            by[key] = (other, by.get(key, (other, 0))[1] + 1)
    found = []
    for (route, index, match), (other, count) in by.items():
        if count == seen[route, index, match]:
            winner = other.decision
            what = f"{winner.rule.route} rules[{winner.rule.index}].matches[{winner.match}]"
            if winner.rule.origin:
                what += f" ({winner.rule.origin})"
            message = f"never matches: {what} takes the same requests before"
            field = f"spec.rules[{index}].matches[{match}]"
            found.append(objects.by_key[route].problem(message, field, index))
    return found


def _key(candidate: Candidate) -> tuple[Key, int, int]:
    decision = candidate.decision
    return decision.rule.route, decision.rule.index, decision.match
