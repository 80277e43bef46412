"""Matches that share a path: in which order they are tried, and which need not be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from nodeproxy.core.routing.conditions import (
    Condition,
    HeaderIs,
    MethodIs,
    PathIs,
    PathMatches,
    PathStarts,
    QueryIs,
    View,
)
from nodeproxy.core.routing.rules import Decision

__all__ = ["Candidate", "Group", "Order", "by_order", "make_group"]

Order = tuple[int, int, bool, int, int, tuple[float, str], int, int]


class Candidate(msgspec.Struct, frozen=True):
    """One match of one rule."""

    order: Order
    """Sorts by the precedence of the Gateway API; the lowest goes first."""
    path: PathIs | PathStarts | PathMatches
    conditions: tuple[Condition, ...]
    """All but the path: method, headers, query parameters."""
    decision: Decision


class Group:
    """Candidates with one path, by precedence, where the first has further conditions."""

    __slots__ = ("_key", "_values", "candidates", "rest")

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = tuple(candidates)
        self._key: tuple[type, bytes] | None = None
        self._values: dict[bytes | None, tuple[Candidate, ...]] = {}
        self.rest = self.candidates
        """Where there is a key: the candidates that do not name it."""
        if len(self.candidates) > FEW:
            self._split()

    def pick(self, view: View) -> Decision | None:
        """The first candidate whose conditions hold."""
        candidates = self.rest
        key = self._key
        if key is not None:
            kind, name = key
            if kind is HeaderIs:
                value = view.header(name)
            elif kind is MethodIs:
                value = view.head.method
            else:
                value = view.query.get(name)
            candidates = self._values.get(value, candidates)
        for candidate in candidates:
            for condition in candidate.conditions:
                if not condition.test(view):
                    break
            else:
                return candidate.decision
        return None

    def _split(self) -> None:
        """Find what most candidates name, and sort them by the value that they want of it."""
        counts: dict[tuple[type, bytes], dict[bytes, int]] = {}
        for candidate in self.candidates:
            for condition in candidate.conditions:
                if isinstance(condition, HeaderIs | QueryIs):
                    of = counts.setdefault((type(condition), condition.name), {})
                elif isinstance(condition, MethodIs):
                    of = counts.setdefault((MethodIs, b""), {})
                else:
                    continue
                of[condition.value] = of.get(condition.value, 0) + 1
        best, gain = None, 0
        for key, values in counts.items():
            named = sum(values.values())
            # What is left to test in the worst case: those that don't name it, and one value's.
            saved = named - max(values.values())
            copies = len(values) * (len(self.candidates) - named)
            if saved > gain and copies <= 16 * len(self.candidates):
                best, gain = key, saved
        if best is None:
            return
        self._key = best
        wants = [_value(candidate, best) for candidate in self.candidates]
        common = [i for i, value in enumerate(wants) if value is None]
        by_value: dict[bytes, list[int]] = {}
        for i, value in enumerate(wants):
            if value is not None:
                by_value.setdefault(value, []).append(i)
        self.rest = tuple(self.candidates[i] for i in common)
        self._values = {
            value: tuple(self.candidates[i] for i in sorted((*mine, *common)))
            for value, mine in by_value.items()
        }


FEW: Final = 6
"""Candidates that are tried one after the other."""


def _value(candidate: Candidate, key: tuple[type, bytes]) -> bytes | None:
    for condition in candidate.conditions:
        if isinstance(condition, HeaderIs | QueryIs):
            if (type(condition), condition.name) == key:
                return condition.value
        elif isinstance(condition, MethodIs) and key[0] is MethodIs:
            return condition.value
    return None


def make_group(candidates: list[Candidate]) -> Decision | Group:
    """Sorts. A decision where the first candidate has no condition but the path."""
    candidates.sort(key=by_order)
    if not candidates[0].conditions:
        return candidates[0].decision
    # What stands behind one without conditions is never reached.
    for i, candidate in enumerate(candidates):
        if not candidate.conditions:
            return Group(candidates[: i + 1])
    return Group(candidates)


def by_order(candidate: Candidate) -> Order:
    return candidate.order
