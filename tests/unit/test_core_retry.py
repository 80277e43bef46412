"""Retry budgets and waits, with a clock of their own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.core.retry import Budget, wait_before


def test_in_a_total_outage_a_fifth_is_added() -> None:
    budget = Budget()
    retries = 0
    for i in range(20_000):
        now = 100 + i / 1000
        budget.request(now)
        retries += budget.admit(now)
    assert 0.19 * 20_000 <= retries <= 0.2 * 20_000 + 20 * 10


def test_services_with_few_requests_have_a_floor() -> None:
    budget = Budget()
    admitted = 0
    for second in range(5):
        for _ in range(15):
            budget.request(second)
            admitted += budget.admit(second + 0.5)
    assert admitted == 5 * 10  # a fifth of 75 is less than that
    assert not Budget(floor=0).admit(1)


def test_what_is_older_than_the_window_counts_no_more() -> None:
    budget = Budget(floor=0)
    for _ in range(100):
        budget.request(5.0)
    assert [budget.admit(14.5) for _ in range(21)] == [True] * 20 + [False]
    assert not budget.admit(15.5)
    for _ in range(10):
        budget.request(16.0)
    assert not budget.admit(16.0)  # twenty retries stand against ten requests
    assert budget.admit(40.0) is False
    for _ in range(10):
        budget.request(40.0)
    assert [budget.admit(40.0) for _ in range(3)] == [True, True, False]


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 30), st.integers(0, 30)), max_size=60),
    st.integers(0, 100),
    st.integers(0, 20),
)
def test_never_more_than_share_and_floor(
    story: list[tuple[float, int, int]], percent: int, floor: int
) -> None:
    budget = Budget(percent, 10.0, floor)
    now = 1.0
    asked: list[float] = []
    tried: list[float] = []
    for later, requests, retries in story:
        now += later
        for _ in range(requests):
            budget.request(now)
            asked.append(now)
        tried += [now for _ in range(retries) if budget.admit(now)]
        # A retry was allowed by the share, or by the floor of its second.
        window = [t for t in tried if t > now - 9]
        allowed = percent / 100 * sum(t > now - 20 for t in asked) + 1 + 11 * floor
        assert len(window) <= allowed


@given(st.integers(0, 1000), st.floats(0, 10), st.floats(0, 100), st.floats(0, 0.999))
def test_waits_are_never_shorter_than_said(n: int, least: float, most: float, drawn: float) -> None:
    wait = wait_before(n, least, max(least, most), drawn)
    assert least <= wait <= max(least, most)


def test_waits_double() -> None:
    assert [wait_before(n, 0.1, 10, 0.0) for n in range(4)] == [0.1, 0.2, 0.4, 0.8]
    assert wait_before(9, 0.1, 1.0, 0.5) == 1.0
