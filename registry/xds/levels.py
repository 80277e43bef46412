"""How Envoy spreads load over priorities, degraded endpoints and localities, as weights. Pure.

The model has weights only. A level (a priority, and within it healthy before degraded endpoints)
takes as much of the load as it has endpoints for, times the overprovisioning factor; what is left
goes to the next. Endpoints of a level that gets nothing have weight 0: known, but without traffic.
Source: Envoy's documentation, "Priority levels", "Degraded endpoints", "Locality weighted load
balancing".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from registry.model import Endpoint, Locality
from registry.weights import whole

__all__ = ["OVERPROVISIONING", "Entry", "spread"]

OVERPROVISIONING: Final = 140
"""Percent."""

Place = tuple[Locality, str]


class Entry(NamedTuple):
    """An endpoint and what EDS says about its share."""

    endpoint: Endpoint
    weight: int
    priority: int = 0
    place: Place = (Locality(), "")
    place_weight: int = 0
    """Of its locality."""
    degraded: bool = False

    @property
    def healthy(self) -> bool:
        return self.endpoint.ready and not self.degraded


def spread(entries: Sequence[Entry], factor: int, localities: bool) -> list[int]:
    """The weight of each entry. ``factor``: percent of overprovisioning. ``localities``: the
    weights of localities count."""
    plain = not localities and not any(e.priority or e.degraded for e in entries)
    if plain or not any(entry.endpoint.ready for entry in entries):
        return whole([entry.weight for entry in entries])
    load = _loads(entries, factor)
    if localities:
        shares = _by_locality(entries, load, factor)
    else:
        shares = {}
        for level, amount in load.items():
            total = sum(e.weight for e in entries if _level(e) == level and e.endpoint.ready) or 1
            for entry in entries:
                if _level(entry) == level:
                    shares[level, entry.place] = amount / total
    result = [
        entry.weight * shares.get((_level(entry), entry.place), 0.0)
        # One that is not ready keeps its weight for the day when it is, by the next answer.
        if entry.endpoint.ready
        else 0.0
        for entry in entries
    ]
    return whole(_proportional(result))


Level = tuple[bool, int]
"""Whether degraded, and the priority: the order in which levels are filled."""


def _level(entry: Entry) -> Level:
    return (entry.degraded, entry.priority)


def _loads(entries: Sequence[Entry], factor: int) -> dict[Level, float]:
    """Percent of the load for each level."""
    able: dict[Level, float] = {}
    for priority in sorted({entry.priority for entry in entries}):
        members = [entry for entry in entries if entry.priority == priority]
        for degraded in (False, True):
            count = sum(1 for e in members if e.endpoint.ready and e.degraded == degraded)
            if count:
                able[degraded, priority] = min(100.0, factor * count / len(members))
    total = min(100.0, sum(able.values()))
    left = 100.0
    load: dict[Level, float] = {}
    for level in sorted(able):
        load[level] = min(left, able[level] * 100.0 / total)
        left = max(0.0, left - load[level])
    return load


def _by_locality(
    entries: Sequence[Entry], load: dict[Level, float], factor: int
) -> dict[tuple[Level, Place], float]:
    """Share of one unit of weight, for each level and locality."""
    shares: dict[tuple[Level, Place], float] = {}
    for level, amount in load.items():
        degraded, priority = level
        wanted: dict[Place, float] = {}
        sums: dict[Place, int] = {}
        for place in dict.fromkeys(e.place for e in entries if e.priority == priority):
            members = [e for e in entries if e.priority == priority and e.place == place]
            able = [e for e in members if e.endpoint.ready and e.degraded == degraded]
            if able:
                availability = min(1.0, factor / 100 * len(able) / len(members))
                wanted[place] = members[0].place_weight * availability
                sums[place] = sum(e.weight for e in able) or 1
        total = sum(wanted.values())
        for place, share in wanted.items():
            part = share / total if total else 1 / len(wanted)
            shares[level, place] = amount * part / sums[place]
    return shares


def _proportional(weights: list[float]) -> list[float]:
    """Scaled so that the smallest positive one is 1: equal ones come out as equal small whole
    numbers, not as rounded percents."""
    smallest = min((weight for weight in weights if weight > 0), default=1.0)
    return [round(weight / smallest, 3) for weight in weights]
