"""Matches that share a path: in which order they are tried, and which need not be."""

from __future__ import annotations

from collections.abc import Generator, Sequence
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

__all__ = ["Candidate", "Group", "Order", "by_order", "group_steps"]

Order = tuple[int, int, bool, int, int, tuple[float, str], int, int]


class Candidate(msgspec.Struct, frozen=True, gc=False):
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

    def __init__(self, candidates: Sequence[Candidate], split: Split | None = None) -> None:
        self.candidates: Final = candidates
        self._key: tuple[type, bytes] | None = None
        self._values: dict[bytes | None, tuple[Candidate, ...]] = {}
        self.rest = candidates
        """Where there is a key: the candidates that do not name it."""
        if split is not None:
            self._key, self._values, self.rest = split

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


Split = tuple[tuple[type, bytes], dict[bytes | None, tuple[Candidate, ...]], Sequence[Candidate]]
BITE: Final = 500
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


def group_steps(candidates: list[Candidate]) -> Generator[None, None, Decision | Group]:
    """Sorts. A decision where the first candidate has no condition but the path. In slices."""
    if len(candidates) > 1:
        candidates.sort(key=by_order)
    if not candidates[0].conditions:
        return candidates[0].decision
    # What stands behind one without conditions is never reached.
    for i, candidate in enumerate(candidates):
        if not candidate.conditions:
            candidates = candidates[: i + 1]
            break
    if len(candidates) <= FEW:
        return Group(candidates)
    return Group(candidates, (yield from _split(candidates)))


def _split(candidates: list[Candidate]) -> Generator[None, None, Split | None]:
    """Find what most candidates name, and sort them by the value that they want of it."""
    counts: dict[tuple[type, bytes], dict[bytes, int]] = {}
    for i, candidate in enumerate(candidates):
        if i % BITE == 0:
            yield
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
        copies = len(values) * (len(candidates) - named)
        if saved > gain and copies <= 16 * len(candidates):
            best, gain = key, saved
    if best is None:
        return None
    common: list[int] = []
    by_value: dict[bytes, list[int]] = {}
    for i, candidate in enumerate(candidates):
        if i % BITE == 0:
            yield
        value = _value(candidate, best)
        if value is None:
            common.append(i)
        else:
            by_value.setdefault(value, []).append(i)
    found: dict[bytes | None, tuple[Candidate, ...]] = {}
    for i, (value, mine) in enumerate(by_value.items()):
        if i % BITE == 0:
            yield
        found[value] = tuple(candidates[at] for at in sorted((*mine, *common)))
    return best, found, tuple(candidates[at] for at in common)


def by_order(candidate: Candidate) -> Order:
    return candidate.order
