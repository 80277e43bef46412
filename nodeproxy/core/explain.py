"""The balancer's choice, taken apart. The pick is made by the very picker that serves traffic,
on a copy of it, so that asking changes nothing and the answer cannot drift."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from nodeproxy.core.balance import Candidate, LeastRequest, Picker, RandomChoice, RoundRobin

__all__ = ["Choice", "choose"]

C = TypeVar("C", bound=Candidate)


class Choice(NamedTuple, Generic[C]):
    """One draw of a balancer."""

    picked: C
    compared: tuple[C, ...]
    """The candidates between which the policy decided: two of them for least_request."""
    why: str
    """How it decided, as a sentence."""
    share: dict[int, float]
    """By index of the candidate: the part of the traffic that it can expect at equal load."""


def choose(picker: Picker[C], candidates: Sequence[C], rng: Callable[[], float]) -> Choice[C]:
    """What ``picker``, which was made with ``candidates``, would pick with these random
    numbers."""
    drawn: list[float] = []

    def noted() -> float:
        drawn.append(rng())
        return drawn[-1]

    picked = copy.copy(picker).pick(noted)
    total = sum(c.weight for c in candidates)
    share = {i: c.weight / total for i, c in enumerate(candidates)}
    if len(candidates) == 1:
        return Choice(picked, (picked,), "it is the only one", share)
    if isinstance(picker, RoundRobin):
        return Choice(picked, (picked,), "it is its turn", share)
    if isinstance(picker, LeastRequest):
        one, other = picker.compared(iter(drawn).__next__)
        if one is other:
            why = "it was drawn twice, by its weight"
        elif one.load == other.load:
            why = f"of two drawn, both with {one.load} in flight, it was drawn first"
        else:
            why = f"of two drawn, it has the fewer in flight ({one.load} and {other.load})"
        return Choice(picked, (one, other), why, share)
    assert isinstance(picker, RandomChoice)
    return Choice(picked, (picked,), "it was drawn at random, by weight", share)
