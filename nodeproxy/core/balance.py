"""Choosing one endpoint of many. Randomness is an argument; load is read, never changed.

* ``least_request``: the power of two choices (Mitzenmacher 2001): two at random, the one with
  fewer requests in flight per weight. Within a few per cent of the ideal, at constant cost.
* ``round_robin``: each in turn; weights by smooth interleaving.
* ``random``: uniform, or by weight.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

from nodeproxy.core.policy import Balance

__all__ = ["Candidate", "LeastRequest", "Picker", "RandomChoice", "RoundRobin", "picker"]


class Candidate(Protocol):
    """What a balancer looks at."""

    @property
    def weight(self) -> int:
        """1 or more."""

    @property
    def load(self) -> int:
        """Requests in flight."""


C = TypeVar("C", bound=Candidate)
C_co = TypeVar("C_co", bound=Candidate, covariant=True)
Rng = Callable[[], float]
"""Uniform in [0, 1)."""


class Picker(Protocol[C_co]):
    """Picks from the candidates that it was made with, of which there is at least one."""

    def pick(self, rng: Rng) -> C_co:
        """One of the candidates."""


class _Weighted(Generic[C]):
    """Candidates, and how to draw an index by weight."""

    __slots__ = ("bounds", "candidates", "equal", "size", "total")

    def __init__(self, candidates: Sequence[C]) -> None:
        self.candidates = candidates
        self.size = len(candidates)
        self.bounds = list(accumulate(c.weight for c in candidates))
        self.total = self.bounds[-1]
        self.equal = all(c.weight == candidates[0].weight for c in candidates)

    def draw(self, rng: Rng) -> int:
        if self.equal:
            return int(rng() * self.size)
        return bisect_right(self.bounds, int(rng() * self.total))


class RandomChoice(_Weighted[C]):
    """Uniform, or in proportion to the weights."""

    def pick(self, rng: Rng) -> C:
        return self.candidates[self.draw(rng)]


class LeastRequest(_Weighted[C]):
    """The power of two choices by requests in flight. Weights count twice over: in the draw,
    so that they hold at low load, and in the comparison, so that they hold at high load."""

    def pick(self, rng: Rng) -> C:
        if self.size == 1:
            return self.candidates[0]
        one, other = self.compared(rng)
        # On a tie the first draw stands, so that an idle service keeps to the weights.
        if self.equal:
            return one if one.load <= other.load else other
        return one if one.load * other.weight <= other.load * one.weight else other

    def compared(self, rng: Rng) -> tuple[C, C]:
        """The two that are compared: distinct ones, but for weighted draws."""
        candidates = self.candidates
        if not self.equal:
            return candidates[self.draw(rng)], candidates[self.draw(rng)]
        size = self.size
        i = int(rng() * size)
        j = int(rng() * (size - 1))
        return candidates[i], candidates[j if j < i else j + 1]


class RoundRobin(Generic[C]):
    """Each in turn. With weights: the smooth order that spreads a heavy one evenly."""

    __slots__ = ("next", "turns")

    def __init__(self, candidates: Sequence[C]) -> None:
        self.turns = _interleave(candidates)
        self.next = -1

    def pick(self, rng: Rng) -> C:
        if self.next < 0:
            # A random start: many nodes that learn of a change together do not march in step.
            self.next = int(rng() * len(self.turns))
        turn = self.turns[self.next]
        self.next = (self.next + 1) % len(self.turns)
        return turn


_MOST_TURNS = 1024


def _interleave(candidates: Sequence[C]) -> list[C]:
    """One round in which each candidate occurs in proportion to its weight, spread out: by
    the time at which its k-th turn is due. Exact, unless that takes too many turns."""
    unit = math.gcd(*(c.weight for c in candidates))
    counts = [c.weight // unit for c in candidates]
    total = sum(counts)
    if total > _MOST_TURNS:
        counts = [max(1, round(count * _MOST_TURNS / total)) for count in counts]
    due = [((k + 0.5) / count, index) for index, count in enumerate(counts) for k in range(count)]
    return [candidates[index] for _, index in sorted(due)]


def picker(balance: Balance, candidates: Sequence[C]) -> Picker[C]:
    """The balancer for a policy. ``candidates`` is not empty and is not changed later."""
    if balance == "round_robin":
        return RoundRobin(candidates)
    if balance == "random":
        return RandomChoice(candidates)
    return LeastRequest(candidates)
