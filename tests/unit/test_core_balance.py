"""The balancers: exact where they are exact, and within bounds where chance decides."""

from __future__ import annotations

import itertools
from collections import Counter
from math import gcd, sqrt
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.core.balance import LeastRequest, RandomChoice, RoundRobin, picker


class Target:
    def __init__(self, weight: int = 1, load: int = 0) -> None:
        self.weight = weight
        self.load = load


def share(picks: int, expected: float, total: int) -> bool:
    """Within five standard deviations of the binomial distribution."""
    p = expected
    return abs(picks - total * p) <= 5 * sqrt(total * p * (1 - p)) + 1


def count(balancer: Any, targets: list[Target], times: int, seed: int = 1) -> list[int]:
    rng = Random(seed).random
    picked = Counter(id(balancer.pick(rng)) for _ in range(times))
    return [picked[id(t)] for t in targets]


def simulate(targets: list[Target], in_flight: int, times: int) -> list[int]:
    """So many requests are always in flight, each ends in random order."""
    rng = Random(7)
    balancer = LeastRequest(targets)
    running: list[Target] = []
    picked: Counter[int] = Counter()
    for _ in range(times):
        if len(running) >= in_flight:
            done = running.pop(rng.randrange(len(running)))
            done.load -= 1
        target = balancer.pick(rng.random)
        target.load += 1
        running.append(target)
        picked[id(target)] += 1
    return [picked[id(t)] for t in targets]


@pytest.mark.parametrize("balance", ["least_request", "round_robin", "random"])
def test_equal_candidates_get_equal_shares(balance: Any) -> None:
    targets = [Target() for _ in range(5)]
    total = 20_000
    assert all(share(c, 1 / 5, total) for c in count(picker(balance, targets), targets, total))


@pytest.mark.parametrize("balance", ["least_request", "round_robin", "random"])
def test_weights_hold_at_low_load(balance: Any) -> None:
    targets = [Target(1), Target(2), Target(7)]
    total = 20_000
    counts = count(picker(balance, targets), targets, total)
    assert all(share(c, t.weight / 10, total) for c, t in zip(counts, targets, strict=True))


def test_weights_hold_at_high_load() -> None:
    targets = [Target(1), Target(2), Target(5)]
    total = 20_000
    counts = simulate(targets, in_flight=400, times=total)
    for picks, target in zip(counts, targets, strict=True):
        assert abs(picks / total - target.weight / 8) < 0.03
    # In flight, too, in proportion to the weights.
    assert abs(targets[2].load / targets[0].load - 5) < 1.5


def test_the_less_loaded_of_two_is_picked() -> None:
    busy, idle = Target(load=10), Target(load=0)
    assert count(LeastRequest([busy, idle]), [busy, idle], 500) == [0, 500]
    big, small = Target(weight=10, load=10), Target(weight=1, load=2)
    counts = count(LeastRequest([big, small]), [big, small], 2000)
    assert counts[1] < 2000 * (1 / 11) ** 2 * 3  # only when both draws fall on it


def test_a_slow_one_among_many_gets_less() -> None:
    targets = [Target() for _ in range(10)]
    targets[0].load = 50
    counts = count(LeastRequest(targets), targets, 10_000)
    assert counts[0] == 0


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 2**32))
def test_round_robin_is_exact_over_a_round(weights: list[int], seed: int) -> None:
    targets = [Target(w) for w in weights]
    unit = gcd(*weights)
    turns = sum(weights) // unit
    balancer = RoundRobin(targets)
    rng = Random(seed).random
    for _ in range(3):
        picked = Counter(id(balancer.pick(rng)) for _ in range(turns))
        assert [picked[id(t)] for t in targets] == [w // unit for w in weights]


@given(st.lists(st.integers(1, 20), min_size=2, max_size=6))
def test_round_robin_spreads_a_heavy_one(weights: list[int]) -> None:
    """Between two turns of one candidate there are never many more than its share allows."""
    targets = [Target(w) for w in weights]
    balancer = RoundRobin(targets)
    total = sum(weights)
    picks = [balancer.pick(lambda: 0.0) for _ in range(2 * total)]
    for target in targets:
        places = [i for i, p in enumerate(picks) if p is target]
        gaps = [b - a for a, b in itertools.pairwise(places)]
        assert max(gaps, default=0) <= total / target.weight + len(targets)


def test_round_robin_of_extreme_weights_is_bounded() -> None:
    targets = [Target(1), Target(65535), Target(65535)]
    balancer = RoundRobin(targets)
    assert len(balancer.turns) <= 1100
    assert len({id(t) for t in balancer.turns}) == 3  # nobody is forgotten


def test_round_robins_begin_anywhere() -> None:
    targets = [Target() for _ in range(10)]
    starts = {id(RoundRobin(targets).pick(Random(seed).random)) for seed in range(100)}
    assert len(starts) > 5


@given(
    st.sampled_from(["least_request", "round_robin", "random"]),
    st.lists(st.tuples(st.integers(1, 65535), st.integers(0, 100)), min_size=1, max_size=10),
    st.floats(0, 1, exclude_max=True),
)
def test_every_pick_is_a_candidate(balance: Any, pairs: list[tuple[int, int]], x: float) -> None:
    targets = [Target(w, load) for w, load in pairs]
    assert picker(balance, targets).pick(lambda: x) in targets


def test_the_ends_of_the_draw() -> None:
    targets = [Target(1), Target(3)]
    choice = RandomChoice(targets)
    assert choice.pick(lambda: 0.0) is targets[0]
    assert choice.pick(lambda: 0.2499) is targets[0]
    assert choice.pick(lambda: 0.25) is targets[1]
    assert choice.pick(lambda: 1 - 2**-53) is targets[1]
