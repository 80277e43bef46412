"""Who may take traffic, and why not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.core.standing import Standing, standings
from registry.model import Endpoint


def endpoint(number: int, **changes: object) -> Endpoint:
    return Endpoint(f"10.0.0.{number}", 80, **changes)  # type: ignore[arg-type]


A, B, C = (endpoint(number) for number in (1, 2, 3))
LEAVING = endpoint(4, ready=False, serving=True, terminating=True)
GONE = endpoint(5, ready=False, serving=False, terminating=True)
SICK = endpoint(6, ready=False, serving=False)
UNWEIGHTED = endpoint(7, weight=0)


def values(endpoints: list[Endpoint], *args: object) -> list[Standing]:
    found = standings(endpoints, *args)  # type: ignore[arg-type]
    return [found[e.key] for e in endpoints]


def test_the_ready_ones_take_traffic() -> None:
    assert values([A, LEAVING, GONE, SICK, UNWEIGHTED], ()) == [
        Standing.READY,
        Standing.TERMINATING,
        Standing.NOT_READY,
        Standing.NOT_READY,
        Standing.NO_WEIGHT,
    ]


def test_those_that_leave_stand_in_when_none_is_ready() -> None:
    assert values([LEAVING, GONE, SICK], ()) == [
        Standing.FALLBACK,
        Standing.NOT_READY,
        Standing.NOT_READY,
    ]


def test_the_ejected_are_left_out() -> None:
    assert values([A, B], {A.key}) == [Standing.EJECTED, Standing.READY]


def test_when_all_are_ejected_all_are_used() -> None:
    assert values([A, B], {A.key, B.key}) == [Standing.PANIC, Standing.PANIC]


def test_an_ejected_stand_in() -> None:
    other = endpoint(8, ready=False, serving=True, terminating=True)
    assert values([LEAVING, other], {LEAVING.key}) == [Standing.EJECTED, Standing.FALLBACK]
    assert values([LEAVING], {LEAVING.key}) == [Standing.PANIC]


def test_an_ejection_does_not_bring_those_that_leave_back() -> None:
    """Ready but ejected ones are used before those that the registry takes out."""
    assert values([A, LEAVING], {A.key}) == [Standing.PANIC, Standing.TERMINATING]


def test_the_proxys_own_listener_is_never_dialled() -> None:
    assert values([A, B], (), {("10.0.0.1", 80)}) == [Standing.LOOP, Standing.READY]
    assert values([A], (), {("10.0.0.1", 80)}) == [Standing.LOOP]


endpoints = st.lists(
    st.builds(
        endpoint,
        st.integers(1, 250),
        weight=st.integers(0, 2),
        ready=st.booleans(),
        serving=st.booleans(),
        terminating=st.booleans(),
    ),
    unique_by=lambda e: e.key,
    max_size=12,
)


@given(endpoints, st.data())
def test_whatever_is_ejected_somebody_takes_traffic_if_anybody_could(
    some: list[Endpoint], data: st.DataObject
) -> None:
    keys = [e.key for e in some]
    ejected = data.draw(st.sets(st.sampled_from(keys))) if keys else set()
    found = standings(some, ejected)
    assert list(found) == keys
    without = standings(some, ())
    assert any(s.takes_traffic for s in found.values()) == any(
        s.takes_traffic for s in without.values()
    )
    for key, standing in found.items():
        if standing.takes_traffic:
            assert without[key].takes_traffic
        if standing is Standing.EJECTED:
            assert key in ejected


def test_every_standing_has_a_sentence() -> None:
    assert all(s.value for s in Standing)
    assert {s for s in Standing if s.takes_traffic} == {
        Standing.READY,
        Standing.FALLBACK,
        Standing.PANIC,
    }
