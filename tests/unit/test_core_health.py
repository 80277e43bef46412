"""Passive health: runs of failures, ejections, and how they end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.core.health import Health, ejection_allowed
from nodeproxy.core.policy import Outlier

OUTLIER = Outlier(consecutive_5xx=5, consecutive_gateway_failures=3)


def test_failures_in_a_row_eject() -> None:
    health = Health()
    assert [health.failed(500, "x", OUTLIER) for _ in range(5)] == [False] * 4 + [True]


def test_gateway_failures_in_a_row_eject_earlier() -> None:
    health = Health()
    assert [health.failed(status, "x", OUTLIER) for status in (502, 503, 504)] == [
        False,
        False,
        True,
    ]


def test_a_plain_500_interrupts_a_run_of_gateway_failures() -> None:
    health = Health()
    statuses = (502, 503, 500, 502)
    assert not any(health.failed(status, "x", OUTLIER) for status in statuses)
    assert (health.failures_5xx, health.failures_gateway) == (4, 1)


def test_a_success_interrupts_every_run() -> None:
    health = Health()
    for _ in range(4):
        health.failed(500, "x", OUTLIER)
    health.succeeded()
    assert not health.failed(500, "y", OUTLIER)
    assert health.last_failure == "y"


def test_zero_means_never() -> None:
    never = Outlier(consecutive_5xx=0, consecutive_gateway_failures=0)
    health = Health()
    assert not any(health.failed(503, "x", never) for _ in range(100))


def test_each_ejection_is_longer_up_to_a_limit() -> None:
    outlier = Outlier(base_ejection=30, max_ejection=100)
    health = Health()
    now = 1000.0
    lengths = []
    for _ in range(5):
        until = health.eject(now, outlier)
        assert health.ejected
        lengths.append(until - now)
        now = until
        assert not health.readmitted(now - 0.001)
        assert health.readmitted(now)
        assert not health.readmitted(now)  # once for each
    assert lengths == [30, 60, 90, 100, 100]


def test_after_good_behaviour_it_begins_anew() -> None:
    outlier = Outlier(base_ejection=30, max_ejection=100)
    health = Health()
    until = health.eject(0.0, outlier)
    assert health.eject(until + 100, outlier) == until + 100 + 30


def test_an_ejection_forgets_the_run() -> None:
    health = Health()
    for _ in range(5):
        health.failed(500, "x", OUTLIER)
    health.eject(0.0, OUTLIER)
    assert not health.failed(500, "x", OUTLIER)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 100))
def test_the_last_one_is_never_ejected(total: int, ejected: int, percent: int) -> None:
    allowed = ejection_allowed(total, ejected, Outlier(max_ejection_percent=percent))
    if total - ejected <= 1:
        assert not allowed
    elif ejected == 0:
        assert allowed
    else:
        assert allowed == (100 * (ejected + 1) / total <= percent)


@pytest.mark.parametrize(("total", "most"), [(1, 0), (2, 1), (3, 1), (10, 3), (100, 30)])
def test_the_share_that_may_be_out_at_once(total: int, most: int) -> None:
    ejected = 0
    while ejection_allowed(total, ejected, Outlier()):
        ejected += 1
    assert ejected == most
