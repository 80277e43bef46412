"""Rise and fall, and when a service is written to a registry and taken out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.register.health import Health, Tally, verdict
from registry.register.machine import TABLE, Event, State, step

counts = st.integers(1, 6)


@given(counts, counts, st.lists(st.booleans(), max_size=60))
def test_health_changes_after_so_many_results_in_a_row_and_not_before(
    rise: int, fall: int, results: list[bool]
) -> None:
    tally, expected = Tally(rise, fall), Health.UNKNOWN
    for i, ok in enumerate(results):
        tally = tally.after(ok)
        run = len(list(itertools.takewhile(ok.__eq__, reversed(results[: i + 1]))))
        if run >= (rise if ok else fall):
            expected = Health.UP if ok else Health.DOWN
        assert tally.health is expected
        assert (tally.good, tally.bad) == ((min(run, rise), 0) if ok else (0, min(run, fall)))


def test_one_that_is_down_is_enough_and_all_must_be_up() -> None:
    up, down, new = (Tally(1, 1, health) for health in (Health.UP, Health.DOWN, Health.UNKNOWN))
    assert verdict([]) is Health.UP
    assert verdict([up, up]) is Health.UP
    assert verdict([up, new]) is Health.UNKNOWN
    assert verdict([up, new, down]) is Health.DOWN


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_state_takes_every_event(state: State, event: Event) -> None:
    assert step(state, event) is TABLE.get((state, event), state)
    assert len(state.value) > 20
    assert event.value


def test_every_state_can_be_reached_and_left_for_good() -> None:
    reached = {State.WAITING}
    while new := {after for (s, _), after in TABLE.items() if s in reached} - reached:
        reached |= new
    assert reached == set(State)
    assert not [event for (state, event) in TABLE if state is State.LEFT]


MAY_BE_THERE = {State.ANNOUNCING, State.ANNOUNCED, State.WITHDRAWING, State.LEAVING}


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_what_may_be_in_the_registry_is_never_forgotten(events: list[Event]) -> None:
    state, there, stopped = State.WAITING, False, False
    for event in events:
        before = state
        state = step(state, event)
        stopped |= event is Event.STOP
        if before is State.ANNOUNCING:
            there = True  # a write is under way, or was when it was interrupted
        if event is Event.REMOVED and before in (State.WITHDRAWING, State.LEAVING):
            there = False
        if there:
            assert state in MAY_BE_THERE
        if stopped:
            assert state in (State.LEAVING, State.LEFT)


@given(st.lists(st.sampled_from((Event.WELL, Event.ILL)), min_size=1, max_size=20))
def test_the_last_word_of_the_checks_decides(words: list[Event]) -> None:
    state = State.WAITING
    for word in words:
        state = step(state, word)
    state = step(state, Event.WRITTEN if state is State.ANNOUNCING else Event.REMOVED)
    assert state is (State.ANNOUNCED if words[-1] is Event.WELL else State.WITHDRAWN)
