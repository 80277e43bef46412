"""Several registries at once: who serves a service, what that costs, and what a daemon shows."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import plugins, vipfile
from registry.base import Context, Sink
from registry.catalog import DEFAULTS, Catalog, Change, Merger, usable
from registry.model import Endpoint, Port, Service
from registry.supervise import Registries, Spec, SpecError, State
from registry.vips import Allocator


def endpoint(address: str, **state: Any) -> Endpoint:
    return Endpoint(address, 8080, **state)


def service(
    name: str, *endpoints: Endpoint, vips: Sequence[str] = (), ports: Sequence[int] = (80,)
) -> Service:
    return Service(name, tuple(vips), tuple(Port(p) for p in ports), endpoints)


def addresses(catalog: Catalog, name: str = "shop/web") -> list[str]:
    found = catalog.get(name)
    return [] if found is None else [e.address for e in found.endpoints]


NEAR, OTHER, FAR = endpoint("10.0.0.1"), endpoint("10.0.0.2"), endpoint("10.0.0.3")
BROKEN = endpoint("10.0.0.1", ready=False)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (endpoint("1.1.1.1"), True),
        (endpoint("1.1.1.1", weight=0), False),
        (endpoint("1.1.1.1", ready=False), False),
        (endpoint("1.1.1.1", ready=False, terminating=True), True),
        (endpoint("1.1.1.1", ready=False, serving=False, terminating=True), False),
    ],
)
def test_what_may_take_traffic(one: Endpoint, expected: bool) -> None:
    assert usable(one) is expected


def test_a_reserve_serves_only_while_nothing_else_does() -> None:
    merger = Merger(["far", "near"], priorities=[1, 0])
    merger.apply("far", [service("shop/web", FAR), service("shop/db", FAR)], [])
    assert addresses(merger.catalog) == ["10.0.0.3"]
    merger.apply("near", [service("shop/web", NEAR)], [])
    assert addresses(merger.catalog) == ["10.0.0.1"]
    assert addresses(merger.catalog, "shop/db") == ["10.0.0.3"]
    assert (merger.used("far"), merger.used("near")) == (1, 1)
    assert (merger.alone("far"), merger.alone("near")) == (1, 0)
    assert merger.registries_of("shop/web") == ("near", "far")
    for nothing in (service("shop/web", BROKEN), service("shop/web")):
        merger.apply("near", [nothing], [])
        assert addresses(merger.catalog) == ["10.0.0.3"]
        assert merger.used("near") == 0
    _, (change,) = merger.apply("near", [service("shop/web", OTHER)], [])
    assert addresses(merger.catalog) == ["10.0.0.2"]
    assert change.old is not None
    merger.apply("near", [], ["shop/web"])
    assert addresses(merger.catalog) == ["10.0.0.3"]
    merger.apply("far", [], ["shop/web"])
    assert merger.catalog.get("shop/web") is None
    assert merger.registries_of("shop/web") == ()


def test_where_nothing_is_usable_the_first_that_has_anything_is_shown() -> None:
    merger = Merger(["near", "far"], priorities=[0, 1])
    merger.apply("near", [service("shop/web")], [])
    merger.apply("far", [service("shop/web", msgspec.structs.replace(FAR, weight=0))], [])
    assert addresses(merger.catalog) == ["10.0.0.3"]
    merger.apply("near", [service("shop/web", BROKEN)], [])
    assert addresses(merger.catalog) == ["10.0.0.1"]


def test_addresses_and_ports_are_those_of_the_preferred_registry() -> None:
    merger = Merger(["far", "near"], priorities=[1, 0])
    merger.apply("far", [service("shop/web", FAR, vips=["10.96.0.2"], ports=[81])], [])
    merger.apply("near", [service("shop/web", vips=["10.96.0.1"])], [])
    assert merger.catalog.at("10.96.0.2", 81) is None
    found = merger.catalog.at("10.96.0.1", 80)
    assert found is not None
    assert [e.address for e in found[0].endpoints] == ["10.0.0.3"]


def test_registries_of_one_priority_are_united() -> None:
    merger = Merger(["a", "b", "c"], priorities=[1, 1, 0])
    merger.apply("a", [service("shop/web", BROKEN)], [])
    merger.apply("b", [service("shop/web", FAR)], [])
    merger.apply("c", [service("shop/web")], [])
    assert addresses(merger.catalog) == ["10.0.0.1", "10.0.0.3"]


# -- any history, against a model that starts from nothing each time -------------------------

REGISTRIES = ["r0", "r1", "r2"]
NAMES = ["a/x", "a/y", "b/z"]
ENDPOINTS = [
    *(NEAR, OTHER, FAR, BROKEN),
    endpoint("10.0.0.2", weight=0),
    endpoint("10.0.0.3", ready=False, terminating=True),
]


@st.composite
def services(draw: st.DrawFn) -> Service:
    ends = draw(st.lists(st.sampled_from(ENDPOINTS), max_size=3, unique_by=lambda e: e.key))
    vips = draw(st.lists(st.sampled_from(["10.97.0.1", "10.97.0.2", "192.0.2.1"]), max_size=1))
    return service(draw(st.sampled_from(NAMES)), *ends, vips=vips)


def naive(said: list[dict[str, Service]], levels: list[int], name: str) -> Service | None:
    order = sorted(range(len(said)), key=lambda i: (levels[i], i))
    having = [i for i in order if name in said[i]]
    if not having:
        return None
    first = said[having[0]][name]
    tiers = [[i for i in having if levels[i] == level] for level in sorted(set(levels))]
    ends = [[e for i in tier for e in said[i][name].endpoints] for tier in tiers]
    chosen = next((e for e in ends if any(usable(one) for one in e)), None)
    if chosen is None:
        chosen = next((e for e in ends if e), [])
    united: dict[Any, Endpoint] = {}
    for one in chosen:
        united.setdefault(one.key, one)
    return msgspec.structs.replace(first, endpoints=tuple(united.values()))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=3, max_size=3),
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from(REGISTRIES),
            st.lists(services(), max_size=3, unique_by=lambda s: s.name),
            st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
        ),
        max_size=10,
    ),
)
def test_any_history_ends_in_the_models_state(
    levels: list[int], gives: bool, history: list[tuple[str, list[Service], list[str]]]
) -> None:
    allocator = Allocator(["10.97.0.0/29"], clock=lambda: 0.0) if gives else None
    merger = Merger(REGISTRIES, priorities=levels, allocator=allocator)
    said: list[dict[str, Service]] = [{} for _ in REGISTRIES]
    view: dict[str, Service] = {}
    for registry, upserts, removals in history:
        mine = said[REGISTRIES.index(registry)]
        for name in removals:
            mine.pop(name, None)
        mine.update((s.name, s) for s in upserts)
        catalog, changes = merger.apply(registry, upserts, removals)
        for change in changes:
            assert view.get(change.name) == change.old
            if change.new is None:
                view.pop(change.name, None)
            else:
                view[change.name] = change.new
        assert {s.name: s for s in catalog} == view
        for name in NAMES:
            expected, found = naive(said, levels, name), catalog.get(name)
            if allocator is not None and expected is not None and not expected.vips:
                assert found is not None
                assert len(found.vips) == 1
                assert found.vips[0].startswith("10.97.0.")
                found = msgspec.structs.replace(found, vips=())
            assert found == expected
        given_ = {
            v
            for s in catalog
            for v in s.vips
            if not (e := naive(said, levels, s.name)) or not e.vips
        }
        own = {v for s in catalog for v in s.vips if (e := naive(said, levels, s.name)) and e.vips}
        assert not given_ & own
        for i, name in enumerate(REGISTRIES):
            others = [s for j, s in enumerate(said) if j != i]
            assert merger.alone(name) == sum(all(n not in s for s in others) for n in said[i])


def test_a_given_address_is_found_and_moves_out_of_the_way() -> None:
    allocator = Allocator(["10.97.0.0/24"], clock=lambda: 0.0)
    merger = Merger(["one"], allocator=allocator)
    catalog, _ = merger.apply("one", [service("shop/web", NEAR), service("shop/no", ports=[])], [])
    (vip,) = catalog.get("shop/web").vips  # type: ignore[union-attr]
    assert catalog.at(vip, 80) is not None
    assert catalog.get("shop/no").vips == ()  # type: ignore[union-attr]
    catalog, changes = merger.apply("one", [service("shop/api", vips=[vip])], [])
    assert {change.name for change in changes} == {"shop/api", "shop/web"}
    assert catalog.at(vip, 80)[0].name == "shop/api"  # type: ignore[index]
    assert catalog.get("shop/web").vips not in ((), (vip,))  # type: ignore[union-attr]
    assert not catalog.conflicts
    # Its registry names an address now: the given one is gone from the catalog.
    catalog, _ = merger.apply("one", [service("shop/web", NEAR, vips=["192.0.2.1"])], [])
    assert catalog.get("shop/web").vips == ("192.0.2.1",)  # type: ignore[union-attr]
    assert allocator.given == 0


def test_who_waits_for_an_address_gets_the_next_one_that_is_free() -> None:
    allocator = Allocator(["10.97.0.0/30"], clock=lambda: 0.0)
    merger = Merger(["one"], allocator=allocator)
    names = ["a/x", "a/y", "a/z"]
    catalog, _ = merger.apply("one", [service(n) for n in names], [])
    (poor,) = [n for n in names if not catalog.get(n).vips]  # type: ignore[union-attr]
    rich = [n for n in names if n != poor]
    catalog, changes = merger.apply("one", [], rich[:1])
    assert {change.name for change in changes} == {rich[0], poor}
    assert catalog.get(poor).vips  # type: ignore[union-attr]


def test_a_registry_can_be_left_without() -> None:
    allocator = Allocator(["10.97.0.0/24"], clock=lambda: 0.0)
    merger = Merger(["k8s", "consul"], allocator=allocator, unallocated=["k8s"])
    merger.apply("k8s", [service("a/headless")], [])
    catalog, _ = merger.apply("consul", [service("a/headless"), service("a/web")], [])
    assert catalog.get("a/headless").vips == ()  # type: ignore[union-attr]
    assert len(catalog.get("a/web").vips) == 1  # type: ignore[union-attr]


def test_the_work_of_a_change_does_not_grow_with_the_catalog() -> None:
    def work(size: int) -> int:
        allocator = Allocator(["10.0.0.0/8"], clock=lambda: 0.0)
        merger = Merger(["a", "b"], priorities=[0, 1], allocator=allocator)
        merger.apply("b", [service(f"a/s{i}", FAR) for i in range(size)], [])
        steps = merger.steps("a", [service("a/s1", NEAR)], [])
        total = 0
        while True:
            try:
                total += next(steps)
            except StopIteration:
                return total

    assert work(10) == work(1000)


# -- supervised ------------------------------------------------------------------------------


class Options(msgspec.Struct, forbid_unknown_fields=True):
    path: str = ""


Script = dict[str, Callable[[Sink], Awaitable[None]]]


class Scripted:
    """A back end whose run is given by the test."""

    kind: ClassVar[str] = "scripted"
    options_type: ClassVar[type[Options]] = Options
    script: ClassVar[Script] = {}

    def __init__(self, options: Options, context: Context) -> None:
        self.name = context.name

    async def run(self, sink: Sink) -> None:
        await self.script[self.name](sink)


class Log:
    def __init__(self) -> None:
        self.events: list[str] = []

    def bind(self, **_: Any) -> Log:
        return self

    def info(self, event: str, **fields: Any) -> None:
        self.events.append(event)

    warning = error = info


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    monkeypatch.setattr(plugins, "load", lambda kind, origin="": Scripted)
    monkeypatch.setattr(Scripted, "script", {})
    return Scripted.script


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return autojump_clock


class World:
    def __init__(self, state_dir: Path | None = None) -> None:
        self.state_dir = state_dir
        self.log = Log()
        self.seen: dict[str, Service] = {}

    def on_change(self, catalog: Catalog, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.new is None:
                del self.seen[change.name]
            else:
                self.seen[change.name] = change.new
        assert {s.name: s for s in catalog} == self.seen

    @asynccontextmanager
    async def running(self, *specs: Spec, **more: Any) -> AsyncIterator[Registries]:
        registries = Registries(
            specs,
            on_change=self.on_change,
            state_dir=self.state_dir,
            clock=trio.current_time,
            wall_clock=lambda: 1_700_000_000 + trio.current_time(),
            rng=random.Random(1),
            log=self.log,
            **more,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(registries.run)
            yield registries
            nursery.cancel_scope.cancel()


def spec(name: str, **options: Any) -> Spec:
    return Spec(name, "scripted", options, ".", "nodeproxy.yaml:7")


def telling(*services: Service) -> Callable[[Sink], Awaitable[None]]:
    async def run(sink: Sink) -> None:
        sink.replace(services)
        sink.synced()
        await trio.sleep_forever()

    return run


async def test_names_filters_and_priorities_come_together(
    script: Script, clock: trio.testing.MockClock
) -> None:
    script["near"] = telling(service("shop/web", BROKEN))
    script["far"] = telling(service("prod/web", FAR), service("prod/db", OTHER))
    world = World()
    rename = [{"match": "prod/*", "to": "shop/{1}"}]
    async with world.running(
        spec("far", priority=1, rename=rename, locality={"region": "eu"}), spec("near")
    ) as registries:
        await registries.wait_synced()
        assert addresses(registries.catalog) == ["10.0.0.3"]
        assert registries.catalog.get("shop/web").endpoints[0].locality.region == "eu"  # type: ignore[union-attr]
        far, near = registries.statuses()
        assert (far.name, far.priority, far.services, far.endpoints) == ("far", 1, 2, 2)
        assert (far.services_alone, far.services_used) == (1, 2)
        assert (near.services_alone, near.services_used, near.endpoints) == (0, 0, 1)
        assert registries.registries_of("shop/web") == ("near", "far")


async def test_a_conflict_of_names_is_a_problem_of_its_registry(
    script: Script, clock: trio.testing.MockClock
) -> None:
    script["one"] = telling(service("a/web", NEAR), service("b/web", FAR))
    async with World().running(
        spec("one", rename=[{"match": "*/web", "to": "shop/web"}])
    ) as registries:
        await registries.wait_synced()
        (status,) = registries.statuses()
        assert status.services == 1
        (problem,) = status.problems
        assert problem.field == "b/web"
        assert addresses(registries.catalog) == ["10.0.0.1"]


async def test_default_endpoints_are_there_from_the_start_and_stand_back(
    script: Script, clock: trio.testing.MockClock
) -> None:
    go = trio.Event()

    async def late(sink: Sink) -> None:
        await go.wait()
        await telling(service("shop/web", NEAR))(sink)

    script["one"] = late
    defaults = {"shop/web": ["10.0.0.9:80"]}
    async with World().running(spec("one", default_endpoints=defaults)) as registries:
        assert addresses(registries.catalog) == ["10.0.0.9"]
        assert registries.registries_of("shop/web") == (DEFAULTS,)
        go.set()
        await registries.wait_synced()
        assert addresses(registries.catalog) == ["10.0.0.1"]
        (status,) = registries.statuses()
        assert (status.services, status.services_alone) == (1, 1)


async def test_an_emptied_registry_is_loud_and_its_names_are_its_own(
    script: Script, clock: trio.testing.MockClock
) -> None:
    async def run(sink: Sink) -> None:
        sink.replace([service("a/web", NEAR)])
        sink.synced()
        await trio.sleep(5)
        sink.replace([])
        sink.synced()
        await trio.sleep_forever()

    script["one"] = run
    world = World()
    rename = [{"match": "a/*", "to": "shop/{1}"}]
    async with world.running(spec("one", rename=rename)) as registries:
        await trio.sleep(10)
        (status,) = registries.statuses()
        assert (status.state, status.empty_answers_kept) == (State.KEPT, 1)
        assert status.kept_seconds == 5
        assert world.log.events.count("empty answer is not believed") == 1
        assert addresses(registries.catalog) == ["10.0.0.1"]
        await trio.sleep(600)
        (status,) = registries.statuses()
        assert (status.state, status.kept_seconds) == (State.SYNCED, None)
        assert "empty answer is believed now" in world.log.events
        assert not len(registries.catalog)


async def test_other_rules_do_not_make_the_saved_state_useless(
    script: Script, clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    script["one"] = telling(service("a/web", NEAR))
    async with World(tmp_path).running(spec("one")) as registries:
        await registries.wait_synced()

    async def down(sink: Sink) -> None:
        await trio.sleep_forever()

    script["one"] = down
    rename = [{"match": "a/*", "to": "shop/{1}"}]
    async with World(tmp_path).running(spec("one", rename=rename)) as registries:
        assert addresses(registries.catalog) == ["10.0.0.1"]
        assert registries.statuses()[0].state == State.RESTORED


async def test_given_addresses_outlive_a_restart_whatever_was_there_before(
    script: Script, clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    names = [f"a/s{i}" for i in range(100)]
    vips = ("10.97.0.0/24",)
    script["one"] = telling(*(service(name, NEAR) for name in names))
    async with World(tmp_path).running(spec("one"), vips=vips) as registries:
        await registries.wait_synced()
        first = {s.name: s.vips for s in registries.catalog}
        status = registries.vips()
        assert status is not None
        assert (status.given, status.missing, status.capacity) == (100, 0, 254)
    # In another order, beside others: with a quarter of the places taken some must have met.
    others = [service(f"a/o{i}", FAR) for i in range(100)]
    script["one"] = telling(*others, *(service(name, NEAR) for name in reversed(names)))
    async with World(tmp_path).running(spec("one"), vips=vips) as registries:
        await registries.wait_synced()
        assert {name: registries.catalog.get(name).vips for name in names} == first  # type: ignore[union-attr]
    (tmp_path / "vips.state").write_bytes(b"rubbish")
    world = World(tmp_path)
    async with world.running(spec("one"), vips=vips) as registries:
        assert "saved addresses ignored" in world.log.events
        status = registries.vips()
        assert status is not None
        assert "vips.state" in str(status.problems[0])
    assert vipfile.load(tmp_path / "vips.state") is not None  # replaced


async def test_a_full_network_is_told(script: Script, clock: trio.testing.MockClock) -> None:
    script["one"] = telling(*(service(f"a/s{i}") for i in range(20)))
    async with World().running(spec("one"), vips=("10.97.0.0/29",)) as registries:
        await registries.wait_synced()
        status = registries.vips()
        assert status is not None
        assert (status.given, status.missing) == (6, 14)
        (problem,) = status.problems
        assert "and 4 more: a larger network is needed" in str(problem)


def test_keys_are_checked_with_their_lines(script: Script) -> None:
    options = {
        "pth": "x",
        "priorty": 1,
        "only": [{"label": "a", "value": 1}],
        "locality": {"z": "x"},
    }
    lines = {"only[0].value": 9, "only[0]": 8, "priorty": 11}
    wrong = Spec("one", "scripted", options, ".", "nodeproxy.yaml:7", lines)
    with pytest.raises(SpecError) as caught:
        Registries([wrong], on_change=lambda catalog, changes: None)
    places = {problem.field: problem.line for problem in caught.value.problems}
    assert places == {"pth": 7, "priorty": 11, "only[0].value": 9, "locality.z": 7}
    assert "did you mean 'priority'?" in str(caught.value)
