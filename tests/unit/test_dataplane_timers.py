"""The timer wheel against a model that looks at every deadline at every step."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nodeproxy.dataplane.timers import TICK, WIDE, Wheel


class Sleeper:
    def __init__(self) -> None:
        self.deadline = inf
        self.look_at = inf
        self.bucket = None


def set_deadline(wheel: Wheel, sleeper: Sleeper, deadline: float) -> None:
    """As streams do it."""
    sleeper.deadline = deadline
    if deadline < sleeper.look_at:
        wheel.arm(sleeper)  # type: ignore[arg-type]


class WheelMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.wheel = Wheel(self.now)
        self.sleepers = [Sleeper() for _ in range(5)]
        self.model = [inf] * 5
        self.due = [inf] * 5  # the deadline, or when it was set if it had passed even then

    @rule(index=st.integers(0, 4), delay=st.floats(-1, 5) | st.floats(0, 4000))
    def arm(self, index: int, delay: float) -> None:
        self.model[index] = self.now + delay
        self.due[index] = self.now + max(0.0, delay)
        set_deadline(self.wheel, self.sleepers[index], self.now + delay)

    @rule(index=st.integers(0, 4))
    def no_deadline(self, index: int) -> None:
        self.model[index] = inf
        self.sleepers[index].deadline = inf

    @rule(index=st.integers(0, 4))
    def disarm(self, index: int) -> None:
        self.model[index] = inf
        self.sleepers[index].deadline = inf
        self.wheel.disarm(self.sleepers[index])  # type: ignore[arg-type]
        assert self.sleepers[index].bucket is None

    @rule(
        delay=st.floats(0, 0.1) | st.floats(0, 5) | st.floats(0, 5000),
        again=st.floats(0, 2) | st.none(),
    )
    def advance(self, delay: float, again: float | None) -> None:
        before, self.now = self.now, self.now + delay
        expired: list[Sleeper] = []

        def expire(sleeper: Sleeper) -> None:
            assert sleeper not in expired
            expired.append(sleeper)
            sleeper.deadline = inf
            if again is not None:  # who is woken often waits again at once
                set_deadline(self.wheel, sleeper, self.now + again)

        self.wheel.advance(self.now, expire)  # type: ignore[arg-type]
        for sleeper, (index, deadline) in zip(
            self.sleepers, list(enumerate(self.model)), strict=True
        ):
            if sleeper in expired:
                assert deadline <= self.now, "never too early"
                self.model[index] = inf if again is None else self.now + again
                self.due[index] = self.model[index]
            elif deadline < inf:
                assert self.due[index] > self.now - 2 * TICK, "at most a tick or two late"
        assert before <= self.now

    @invariant()
    def each_is_looked_at_in_time(self) -> None:
        for sleeper, deadline in zip(self.sleepers, self.model, strict=True):
            assert sleeper.deadline == deadline
            if deadline != inf:
                assert sleeper.bucket is not None
                assert sleeper in sleeper.bucket
                assert sleeper.look_at <= max(deadline, self.now) + 2 * TICK
        assert len(self.wheel) == sum(s.bucket is not None for s in self.sleepers)


TestWheel = WheelMachine.TestCase


def test_a_deadline_that_moves_on_is_not_touched() -> None:
    wheel = Wheel(0.0)
    sleeper = Sleeper()
    set_deadline(wheel, sleeper, 1.0)
    bucket = sleeper.bucket
    for step in range(50):
        set_deadline(wheel, sleeper, 1.0 + step * 0.01)
        assert sleeper.bucket is bucket
    woken: list[Sleeper] = []
    wheel.advance(1.2, woken.append)  # type: ignore[arg-type]
    assert not woken
    wheel.advance(1.6, woken.append)  # type: ignore[arg-type]
    assert woken == [sleeper]


def test_who_expires_may_disarm_another_of_the_same_bucket() -> None:
    wheel = Wheel(0.0)
    pair = [Sleeper(), Sleeper()]
    for sleeper in pair:
        set_deadline(wheel, sleeper, 1.0)
    woken = []

    def expire(sleeper: Sleeper) -> None:
        woken.append(sleeper)
        for other in pair:
            wheel.disarm(other)  # type: ignore[arg-type]

    wheel.advance(2.0, expire)  # type: ignore[arg-type]
    assert len(woken) == 1
    assert len(wheel) == 0


@given(st.lists(st.floats(0, 3600), min_size=1, max_size=300))
def test_buckets_stay_few(delays: list[float]) -> None:
    """Short-lived sleepers with far deadlines leave no trail of buckets."""
    wheel = Wheel(0.0)
    for delay in delays:
        sleeper = Sleeper()
        set_deadline(wheel, sleeper, 100.0 + delay)
        wheel.disarm(sleeper)  # type: ignore[arg-type]
    assert len(wheel._buckets) <= 3600 / (TICK * WIDE) + 2
