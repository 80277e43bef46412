"""The account of connections: whatever happens, none is lost and none is counted twice."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nodeproxy.core.pool import Pool


class PoolMachine(RuleBasedStateMachine):
    """Plays all callers at once: each connection that was ever opened is in one place."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: Pool[int] = Pool(max_idle=3)
        self.now = 0.0
        self.opened = 0
        self.connecting = 0
        self.leased: set[int] = set()
        self.idle: list[int] = []  # least recently used first
        self.since: dict[int, float] = {}
        self.closed: set[int] = set()

    def close(self, connection: int) -> None:
        assert connection not in self.closed, "closed twice"
        self.closed.add(connection)

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def lease(self) -> None:
        connection = self.pool.checkout()
        if connection is None:
            assert not self.idle
            self.pool.begin()
            self.connecting += 1
        else:
            assert connection == self.idle.pop(), "the most recently used one"
            self.leased.add(connection)

    @precondition(lambda self: self.connecting)
    @rule()
    def connect_succeeds(self) -> None:
        self.pool.connected()
        self.connecting -= 1
        self.opened += 1
        self.leased.add(self.opened)

    @precondition(lambda self: self.connecting)
    @rule()
    def connect_fails_or_is_cancelled(self) -> None:
        self.pool.failed()
        self.connecting -= 1

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def lease_ends_well(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(sorted(self.leased)))
        self.leased.remove(connection)
        self.idle.append(connection)
        self.since[connection] = self.now
        surplus = self.pool.checkin(connection, self.now)
        if len(self.idle) > 3:
            assert surplus == self.idle.pop(0)
            self.close(surplus)
        else:
            assert surplus is None

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def lease_ends_badly_or_is_cancelled(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(sorted(self.leased)))
        self.leased.remove(connection)
        self.pool.discard()
        self.close(connection)

    @rule(connection=st.integers(1, 50))
    def the_endpoint_closes(self, connection: int) -> None:
        known = connection in self.idle
        assert self.pool.lost(connection) == known
        if known:
            self.idle.remove(connection)
            self.close(connection)

    @rule()
    def room_is_needed(self) -> None:
        connection = self.pool.evict()
        if connection is None:
            assert not self.idle
        else:
            assert connection == self.idle.pop(0)
            self.close(connection)

    @rule(age=st.floats(0, 20))
    def idle_ones_expire(self, age: float) -> None:
        before = self.now - age
        gone = self.pool.expire(before)
        assert gone == [c for c in self.idle if self.since[c] <= before]
        for connection in gone:
            self.idle.remove(connection)
            self.close(connection)

    @invariant()
    def every_connection_is_in_one_place(self) -> None:
        assert self.pool.connecting == self.connecting
        assert self.pool.leased == len(self.leased)
        assert list(self.pool.idle) == self.idle
        assert self.pool.size == self.connecting + len(self.leased) + len(self.idle)
        assert self.pool.load == self.connecting + len(self.leased)
        assert len(self.leased) + len(self.idle) + len(self.closed) == self.opened
        assert not self.leased & set(self.idle)


TestPool = PoolMachine.TestCase


def test_a_pool_that_keeps_nothing() -> None:
    pool: Pool[str] = Pool(max_idle=0)
    pool.begin()
    pool.connected()
    assert pool.checkin("a", 1.0) == "a"
    assert pool.size == 0
