"""Sharing the limit on series."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nodeproxy.telemetry.budget import Budget

OWNERS = ["a", "b", "c", "d"]
amounts = st.integers(1, 30)
steps = st.lists(st.tuples(st.sampled_from(OWNERS), amounts, st.booleans()), max_size=200)


def test_one_owner_gets_its_share_and_the_common_part():
    budget = Budget(100)
    for owner in ("greedy", "modest"):
        budget.enrol(owner)
    taken = 0
    while budget.take("greedy", 1):
        taken += 1
    assert taken == 88  # its eighth, and what is for all
    assert budget.room("modest") == 12
    assert budget.take("modest", 12)
    assert not budget.take("modest", 1)


def test_what_is_given_back_can_be_taken_again():
    budget = Budget(10)
    budget.enrol("a")
    assert budget.take("a", 10)
    budget.give_back("a", 4)
    assert budget.room("a") == 4
    assert budget.used("a") == 6


def test_an_owner_who_comes_late_has_no_more_than_there_is():
    budget = Budget(10)
    budget.enrol("early")
    assert budget.take("early", 10)
    budget.enrol("late")
    assert budget.room("late") == 0
    budget.give_back("early", 10)
    assert budget.room("late") == 9


def test_a_limit_of_zero_admits_nothing():
    budget = Budget(0)
    budget.enrol("a")
    assert not budget.take("a", 1)


@settings(deadline=None)
@given(limit=st.integers(0, 120), steps=steps)
def test_the_limit_holds_and_everybody_is_sure_of_a_share(
    limit: int, steps: list[tuple[str, int, bool]]
):
    budget = Budget(limit)
    for owner in OWNERS:
        budget.enrol(owner)
    held: dict[str, list[int]] = {owner: [] for owner in OWNERS}
    for owner, amount, give_back in steps:
        if give_back:
            if held[owner]:
                budget.give_back(owner, held[owner].pop())
        elif budget.take(owner, amount):
            held[owner].append(amount)
        assert budget.total == sum(map(sum, held.values())) <= limit
        for other in OWNERS:
            assert budget.used(other) == sum(held[other])
            assert budget.room(other) >= min(
                budget.share - budget.used(other), limit - budget.total
            )
            assert budget.share - budget.used(other) <= max(0, limit - budget.total)
