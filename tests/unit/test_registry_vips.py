"""Given addresses: never two for one place, never moved without need, the same after a restart."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from registry import vipfile
from registry.vips import GRACE, HOLD, Allocator, Given

NAMES = [f"shop/s{i}" for i in range(12)]


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def allocator(*networks: str, clock: Clock | None = None) -> Allocator:
    return Allocator(networks or ("10.97.0.0/16", "fd00:97::/112"), clock=clock or Clock())


def test_both_families_are_given_and_kept() -> None:
    given = allocator()
    first = given.assign("shop/web")
    assert [ipaddress.ip_address(a).version for a in first] == [4, 6]
    assert ipaddress.ip_address(first[0]) in ipaddress.ip_network("10.97.0.0/16")
    assert given.assign("shop/web") == first
    assert given.assign("shop/db") != first
    assert given.given == 2


def test_nodes_agree_whatever_the_order_as_long_as_no_two_names_meet() -> None:
    names = [f"shop/s{i}" for i in range(200)]
    one, two = allocator("10.0.0.0/8"), allocator("10.0.0.0/8")
    ours = {name: one.assign(name) for name in names}
    theirs = {name: two.assign(name) for name in reversed(names)}
    assert ours == theirs  # a fixed set of names: this is so today and for ever


def test_a_place_is_the_same_for_ever() -> None:
    # Another hash would move the addresses of every node that has lost its state.
    assert allocator().assign("shop/web") == ("10.97.155.190", "fd00:97::7907")


def test_network_and_broadcast_addresses_are_not_given() -> None:
    given = allocator("10.0.0.0/29", "fd00::/125")
    four, six = zip(*(a for n in NAMES if len(a := given.assign(n)) == 2), strict=True)
    assert set(four) == {f"10.0.0.{i}" for i in range(1, 7)}
    assert "fd00::" not in six
    assert len(set(six)) == 6
    assert given.capacity == 6


def test_a_full_network_is_told_and_filled_as_soon_as_it_can() -> None:
    clock = Clock()
    given = allocator("10.0.0.0/30", clock=clock)
    one, two = given.assign("a/one"), given.assign("a/two")
    assert given.assign("a/three") == ()
    assert list(given.waiting) == ["a/three"]
    assert not given.room
    given.release("a/one")
    assert given.room
    # The place of who is gone the longest is taken before anybody goes without.
    assert given.assign("a/three") == one
    assert not given.waiting
    assert given.assign("a/two") == two


def test_a_service_that_comes_back_finds_its_address() -> None:
    clock = Clock()
    given = allocator("10.0.0.0/24", clock=clock)
    had = given.assign("a/web")
    given.release("a/web")
    assert (given.given, given.kept) == (0, 1)
    clock.now += HOLD - 1
    for i in range(100):
        given.assign(f"a/other{i}")
    assert given.assign("a/web") == had
    given.release("a/web")
    clock.now += HOLD + 1
    given.assign("a/another")
    assert given.kept == 0


def test_after_a_restart_nobody_takes_the_place_of_who_is_not_back_yet() -> None:
    clock = Clock()
    before = allocator("10.0.0.0/30", clock=clock)
    had = [before.assign("a/one"), before.assign("a/two")]
    after = allocator("10.0.0.0/30", clock=clock)
    after.restore(before.keep()(), clock())
    assert after.assign("a/three") == ()
    assert [after.assign("a/one"), after.assign("a/two")] == had
    late = allocator("10.0.0.0/30", clock=clock)
    late.restore(before.keep()(), clock())
    clock.now += GRACE + 1
    assert late.assign("a/three") in had


def test_a_registrys_own_address_goes_before() -> None:
    given = allocator("10.0.0.0/24")
    (had,) = given.assign("a/web")
    assert given.claim("k8s/api", (had, "192.0.2.1")) == ["a/web"]
    (now,) = given.assign("a/web")
    assert now != had
    assert given.claim("k8s/api", ()) == []
    assert given.assign("a/web") == (now,)


@pytest.mark.parametrize("network", ["10.0.0.0/32", "10.0.0.0/31", "fd00::/128"])
def test_a_network_without_room_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match="no room"):
        allocator(network)


def test_another_network_gives_other_addresses_and_keeps_those_within() -> None:
    given = allocator("10.0.0.0/24")
    had = {name: given.assign(name) for name in NAMES}
    wider, other = allocator("10.0.0.0/16"), allocator("10.1.0.0/24")
    wider.restore(given.keep()(), 1_700_000_000.0)
    other.restore(given.keep()(), 1_700_000_000.0)
    assert {name: wider.assign(name) for name in NAMES} == had
    for name in NAMES:
        (address,) = other.assign(name)
        assert address.startswith("10.1.0.")


def test_rubbish_in_the_file_is_passed_over() -> None:
    given = allocator("10.0.0.0/24")
    given.restore(
        Given(
            {
                "a/x": ("10.0.0.1", "ten", "::1", "10.0.0.1%x"),
                "a/y": ("10.0.0.1",),
                "a/z": ("10.0.0.0", "10.0.0.255", "10.0.0.7"),
            },
            {"a/x": 1.0, "nobody": 3.0},
        ),
        1_700_000_000.0,
    )
    # They would not be remembered this long, but had it when they were saved.
    assert given.keep()().addresses == {"a/x": ("10.0.0.1",), "a/z": ("10.0.0.7",)}


class Life(RuleBasedStateMachine):
    """Services, registries with addresses of their own, time and restarts, in any order."""

    @initialize(small=st.booleans())
    def begin(self, small: bool) -> None:
        self.networks = ("10.0.0.0/29", "fd00::/126") if small else ("10.0.0.0/24", "fd00::/64")
        self.clock = Clock()
        self.given = Allocator(self.networks, clock=self.clock)
        self.live: dict[str, tuple[str, ...]] = {}
        self.own: dict[str, tuple[str, ...]] = {}

    @rule(name=st.sampled_from(NAMES))
    def come(self, name: str) -> None:
        if name in self.own:
            return
        before = self.live.get(name)
        now = self.given.assign(name)
        if before is not None:
            assert set(before) <= set(now), "an address was moved"
        self.live[name] = now

    @rule(name=st.sampled_from(NAMES))
    def go(self, name: str) -> None:
        self.given.release(name)
        self.live.pop(name, None)

    @rule(name=st.sampled_from(NAMES), last=st.lists(st.integers(1, 6), max_size=2, unique=True))
    def name_own(self, name: str, last: list[int]) -> None:
        own = tuple(f"10.0.0.{i}" for i in last)
        moved = self.given.claim(name, own)
        self.live.pop(name, None)
        self.given.release(name)
        if own:
            self.own[name] = own
        else:
            self.own.pop(name, None)
        hit = {n for n, a in self.live.items() if set(a) & set(own)}
        assert set(moved) - {name} == hit
        for other in moved:
            if other in self.live:
                self.live[other] = self.given.assign(other)

    @rule(days=st.integers(0, 9))
    def wait(self, days: int) -> None:
        self.clock.now += days * 86400

    @rule()
    def restart(self) -> None:
        saved = self.given.keep()()
        self.given = Allocator(self.networks, clock=self.clock)
        self.given.restore(saved, self.clock())
        for name, own in self.own.items():
            self.given.claim(name, own)
        for name, before in self.live.items():
            now = self.given.assign(name)
            assert set(before) <= set(now)
            self.live[name] = now

    @invariant()
    def nothing_is_given_twice(self) -> None:
        if not hasattr(self, "live"):
            return
        given = [address for addresses in self.live.values() for address in addresses]
        assert len(given) == len(set(given))
        taken = {address for own in self.own.values() for address in own}
        assert not taken & set(given)
        for name, addresses in self.live.items():
            assert (len(addresses) < 2) == (name in self.given.waiting)
            for address, network in zip(addresses, self.networks, strict=False):
                if len(addresses) == 2:
                    assert ipaddress.ip_address(address) in ipaddress.ip_network(network)
        assert self.given.given == sum(1 for a in self.live.values() if a)
        # Who waits, waits because there is no place, neither free nor of one that is gone.
        for pool in self.given._pools:
            assert len(pool.held) + len(pool.claims) <= pool.last
            assert not pool.held.keys() & pool.claims.keys()
            assert {pool.text(p): n for p, n in pool.held.items()} == {
                a: n for n, a in pool.addresses.items()
            }


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def test_a_file_is_read_as_it_was_saved(tmp_path: Path) -> None:
    path = vipfile.path_in(tmp_path / "new")
    assert vipfile.load(path) is None
    given = Given({"a/x": ("10.0.0.1", "fd00::1")}, {"a/x": 17.5})
    vipfile.save(path, lambda: given)
    assert vipfile.load(path) == given
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["vips.state"]


def test_no_damaged_file_is_used(tmp_path: Path) -> None:
    path = vipfile.path_in(tmp_path)
    vipfile.save(path, lambda: Given({"a/x": ("10.0.0.1",)}))
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at])
        with pytest.raises(vipfile.BadFile):
            vipfile.load(path)
        flipped = bytearray(whole)
        flipped[at] ^= 1
        path.write_bytes(bytes(flipped))
        with pytest.raises(vipfile.BadFile):
            vipfile.load(path)
