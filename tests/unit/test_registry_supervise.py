"""Supervision: what a node serves while its registries fail, come back and lie."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from registry import plugins, store
from registry.backoff import Backoff
from registry.base import Context, Problem, RegistryError, Sink
from registry.catalog import Catalog, Change
from registry.model import Endpoint, Port, Service
from registry.status import MEANING, State
from registry.supervise import SLICE, Registries, Spec, SpecError


def service(name: str, *endpoints: str) -> Service:
    return Service(
        f"default/{name}",
        ports=(Port(80),),
        endpoints=tuple(Endpoint(address, 8080) for address in endpoints),
    )


WEB = service("web", "10.0.0.1")
API = service("api", "10.0.0.2", "10.0.0.3")


class Options(msgspec.Struct, forbid_unknown_fields=True):
    path: str = ""


class Scripted:
    """A back end whose run is given by the test."""

    kind: ClassVar[str] = "scripted"
    options_type: ClassVar[type[Options]] = Options
    script: ClassVar[dict[str, Callable[[Sink], Awaitable[None]]]] = {}

    def __init__(self, options: Options, context: Context) -> None:
        self.name = context.name

    async def run(self, sink: Sink) -> None:
        await self.script[self.name](sink)


class Log:
    """Takes the place of a structlog logger."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def bind(self, **_: Any) -> Log:
        return self

    def info(self, event: str, **fields: Any) -> None:
        self.events.append((event, str(fields)))

    warning = error = info

    def said(self, event: str) -> int:
        return sum(1 for e, _ in self.events if e == event)


class World:
    """Registries that run, and all that they have told."""

    def __init__(self, tmp_path: Path | None) -> None:
        self.state_dir = tmp_path
        self.changes: list[Change] = []
        self.batches: list[int] = []
        self.log = Log()

    def on_change(self, catalog: Catalog, changes: Sequence[Change]) -> None:
        assert catalog.generation
        self.batches.append(len(changes))
        self.changes.extend(changes)

    @asynccontextmanager
    async def running(self, *specs: Spec) -> AsyncIterator[Registries]:
        registries = Registries(
            specs,
            on_change=self.on_change,
            state_dir=self.state_dir,
            clock=trio.current_time,
            wall_clock=lambda: 1_700_000_000 + trio.current_time(),
            rng=random.Random(1),
            log=self.log,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(registries.run)
            yield registries
            nursery.cancel_scope.cancel()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Sink], Awaitable[None]]]:
    monkeypatch.setattr(plugins, "load", lambda kind, origin="": Scripted)
    monkeypatch.setattr(Scripted, "script", {})
    return Scripted.script


def spec(name: str = "one", **options: Any) -> Spec:
    return Spec(name, "scripted", options, ".", "nodeproxy.yaml:7")


def telling(*services: Service) -> Callable[[Sink], Awaitable[None]]:
    async def run(sink: Sink) -> None:
        sink.replace(services)
        sink.synced()
        await trio.sleep_forever()

    return run


async def failing(sink: Sink) -> None:
    raise RegistryError("no answer from 127.0.0.1:1")


@pytest.fixture
def clock(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> trio.testing.MockClock:
    """Time that jumps when all wait. It knows nothing of threads, so their work is done here."""

    async def run_sync(work: Callable[..., Any], *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return work(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    return autojump_clock


Script = dict[str, Callable[[Sink], Awaitable[None]]]


async def test_a_registry_syncs(script: Script, clock: trio.testing.MockClock) -> None:
    script["one"] = telling(WEB, API)
    world = World(None)
    async with world.running(spec()) as registries:
        assert registries.statuses()[0].state == State.STARTING
        await registries.wait_synced()
        (status,) = registries.statuses()
        assert (status.state, status.synced, status.services, status.endpoints) == (
            State.SYNCED,
            True,
            2,
            3,
        )
        await trio.sleep(5)
        assert registries.statuses()[0].age_seconds == pytest.approx(5, abs=1)
        assert registries.catalog.get("default/web") == WEB


async def test_a_failing_registry_keeps_its_services_and_is_tried_again(
    script: Script, clock: trio.testing.MockClock
) -> None:
    runs = 0
    fourth = trio.Event()

    async def flaky(sink: Sink) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            sink.replace([WEB, API])
            sink.synced()
            await trio.sleep(1)
            raise RegistryError("gone")
        if runs < 4:
            raise RegistryError("still gone")
        fourth.set()
        # The new run names what there is now, one by one; the rest is gone once it is complete.
        sink.upsert([WEB])
        await trio.sleep(1)
        sink.synced()
        await trio.sleep_forever()

    script["one"] = flaky
    world = World(None)
    async with world.running(spec()) as registries:
        await trio.sleep(1.2)
        (status,) = registries.statuses()
        assert status.state == State.STALE
        assert status.last_error == "gone"
        assert status.services == 2
        await fourth.wait()
        assert registries.statuses()[0].services == 2
        await trio.sleep(2)
        (status,) = registries.statuses()
        assert (status.state, status.services, status.restarts) == (State.SYNCED, 1, 3)
        assert status.last_error == ""
        assert status.endpoints == 1


@pytest.mark.parametrize("error", [ValueError("bug"), ExceptionGroup("", [RegistryError("in")])])
async def test_whatever_a_back_end_raises_harms_only_itself(
    script: Script, clock: trio.testing.MockClock, error: Exception
) -> None:
    async def broken(sink: Sink) -> None:
        raise error

    async def ends(sink: Sink) -> None:
        return

    script.update(one=broken, two=telling(WEB), three=ends)
    async with World(None).running(spec(), spec("two"), spec("three")) as registries:
        await registries.wait_synced()
        one, two, three = registries.statuses()
        assert one.state == State.FAILED
        assert one.last_error in ("bug", "in")
        assert two.state == State.SYNCED
        assert "ended" in three.last_error


async def test_an_empty_answer_is_doubted_for_a_limited_time(
    script: Script, clock: trio.testing.MockClock
) -> None:
    async def emptied(sink: Sink) -> None:
        sink.replace([WEB])
        sink.synced()
        await trio.sleep(1)
        sink.replace([])
        sink.synced()
        await trio.sleep_forever()

    script["one"] = emptied
    async with World(None).running(spec(keep_on_empty_for="1m")) as registries:
        await trio.sleep(31)
        (status,) = registries.statuses()
        assert (status.state, status.services, status.empty_answers_kept) == (State.KEPT, 1, 1)
        assert "keep_on_empty" in status.problems[0].message
        assert status.age_seconds == pytest.approx(31, abs=1)
        await trio.sleep(35)
        (status,) = registries.statuses()
        assert (status.state, status.services, status.problems) == (State.SYNCED, 0, ())


async def test_after_an_empty_answer_what_is_named_is_all_there_is(
    script: Script, clock: trio.testing.MockClock
) -> None:
    async def emptied(sink: Sink) -> None:
        sink.replace([WEB, API])
        sink.synced()
        await trio.sleep(1)
        sink.replace([])
        await trio.sleep(1)
        sink.upsert([API])
        await trio.sleep_forever()

    script["one"] = emptied
    async with World(None).running(spec()) as registries:
        await trio.sleep(3)
        assert [s.name for s in registries.catalog] == ["default/api"]


@pytest.mark.parametrize("believe", [True, False])
async def test_named_removals_and_disabled_doubt_empty_at_once(
    script: Script, clock: trio.testing.MockClock, believe: bool
) -> None:
    async def emptied(sink: Sink) -> None:
        sink.replace([WEB])
        sink.synced()
        await trio.sleep(1)
        if believe:
            sink.replace([])
        else:
            sink.remove(["default/web"])
        await trio.sleep_forever()

    script["one"] = emptied
    async with World(None).running(spec(keep_on_empty=not believe)) as registries:
        await trio.sleep(2)
        assert len(registries.catalog) == 0


async def test_a_node_starts_with_its_registry_down(
    script: Script, clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    script["one"] = telling(WEB, API)
    async with World(tmp_path).running(spec()) as registries:
        await registries.wait_synced()
    script["one"] = failing
    world = World(tmp_path)
    async with world.running(spec()) as registries:
        await registries.wait_synced()
        assert registries.catalog.get("default/api") == API
        await trio.sleep(100)
        (status,) = registries.statuses()
        assert (status.state, status.from_disk, status.synced) == (State.RESTORED, True, False)
        assert status.age_seconds is not None
        assert status.age_seconds >= 100
        assert "no answer" in status.last_error
    # A state of other options is another registry's; our own options do not count.
    async with World(tmp_path).running(spec(path="other")) as registries:
        assert len(registries.catalog) == 0
    async with World(tmp_path).running(spec(keep_on_empty=False)) as registries:
        assert len(registries.catalog) == 2


async def test_an_emptied_registry_at_the_start_keeps_the_saved_services(
    script: Script, clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    script["one"] = telling(WEB)
    async with World(tmp_path).running(spec()) as registries:
        await registries.wait_synced()
    script["one"] = telling()
    async with World(tmp_path).running(spec()) as registries:
        await registries.wait_synced()
        await trio.sleep(30)
        (status,) = registries.statuses()
        assert (status.state, status.from_disk, status.services) == (State.KEPT, True, 1)


async def test_services_that_left_while_we_were_down_go_at_the_first_sync(
    script: Script, clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    script["one"] = telling(WEB, API)
    async with World(tmp_path).running(spec()) as registries:
        await registries.wait_synced()

    async def one_by_one(sink: Sink) -> None:
        sink.upsert([WEB])
        sink.synced()
        await trio.sleep_forever()

    script["one"] = one_by_one
    async with World(tmp_path).running(spec()) as registries:
        await trio.sleep(1)
        (status,) = registries.statuses()
        assert (status.state, status.from_disk, status.services) == (State.SYNCED, False, 1)


async def test_a_full_disk_is_told_and_harms_nothing(
    script: Script, clock: trio.testing.MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    real = store.save
    monkeypatch.setattr(store, "save", full)
    script["one"] = telling(WEB)
    world = World(tmp_path)
    async with world.running(spec()) as registries:
        await registries.wait_synced()
        await trio.sleep(60)
        (status,) = registries.statuses()
        assert status.state == State.SYNCED
        assert status.save_failures > 2
        assert "No space left" in status.save_error
        assert any("No space left" in p.message for p in status.problems)
        assert world.log.said("saving failed") == 1
        monkeypatch.setattr(store, "save", real)
        await trio.sleep(30)
        assert registries.statuses()[0].save_error == ""


async def test_a_damaged_state_is_named_and_ignored(
    script: Script, clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    store.state_file(tmp_path, "one").write_bytes(b"garbage")
    script["one"] = failing
    async with World(tmp_path).running(spec()) as registries:
        await registries.wait_synced()
        (status,) = registries.statuses()
        assert status.state == State.FAILED
        assert str(store.state_file(tmp_path, "one")) in status.problems[0].message


async def test_problems_are_in_the_status_and_logged_once(
    script: Script, clock: trio.testing.MockClock
) -> None:
    async def troubled(sink: Sink) -> None:
        sink.replace([WEB])
        problems = [Problem("wrong", "services.yaml", i + 1) for i in range(300)]
        sink.problems(problems[:1])
        sink.synced()
        await trio.sleep(1)
        sink.problems(problems)
        await trio.sleep_forever()

    script["one"] = troubled
    world = World(None)
    async with world.running(spec()) as registries:
        await trio.sleep(0.5)
        assert world.log.said("registry entry not usable") == 1
        assert "services.yaml:1: wrong" in str(registries.statuses()[0].problems[0])
        await trio.sleep(1)
        (status,) = registries.statuses()
        assert (len(status.problems), status.problems_total) == (200, 300)
        assert world.log.said("registry entry not usable") == 11
        assert world.log.said("more registry entries not usable") == 1


async def test_what_cannot_be_read_now_stays(script: Script, clock: trio.testing.MockClock) -> None:
    async def partly(sink: Sink) -> None:
        sink.replace([WEB, API])
        sink.synced()
        await trio.sleep(1)
        sink.keep(["default/web"])
        sink.replace([])
        sink.synced()
        await trio.sleep_forever()

    script["one"] = partly
    async with World(None).running(spec()) as registries:
        await trio.sleep(2)
        assert [s.name for s in registries.catalog] == ["default/web"]


async def test_saves_are_few(
    script: Script, clock: trio.testing.MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves: list[float] = []
    real = store.save

    def counted(*args: Any) -> int:
        saves.append(0)
        return real(*args)

    monkeypatch.setattr(store, "save", counted)

    async def busy(sink: Sink) -> None:
        for i in range(60):
            sink.upsert([service("web", f"10.0.0.{i + 1}")])
            sink.synced()
            await trio.sleep(1)
        for _ in range(60):
            sink.synced()
            await trio.sleep(1)
        await trio.sleep_forever()

    script["one"] = busy
    async with World(tmp_path).running(spec()):
        await trio.sleep(59)
        assert 4 <= len(saves) <= 8
        await trio.sleep(100)
        assert len(saves) <= 9  # what is only confirmed is not written again


async def test_no_slice_is_large_and_the_loop_breathes_between(
    script: Script, clock: trio.testing.MockClock
) -> None:
    many = [
        service(f"s{i}", *(f"10.{i >> 8}.{i & 255}.{j}" for j in range(1, 6))) for i in range(1000)
    ]
    script["one"] = telling(
        *many, service("huge", *(f"11.0.{j >> 8}.{j & 255}" for j in range(1, 3000)))
    )
    world = World(None)
    breaths = 0

    async def breathe() -> None:
        nonlocal breaths
        while True:
            await trio.lowlevel.checkpoint()
            breaths += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(breathe)
        async with world.running(spec()) as registries:
            await registries.wait_synced()
            assert len(registries.catalog) == 1001
            assert registries.statuses()[0].endpoints == 5000 + 2999
            assert max(world.batches) <= SLICE
            # One service is the smallest portion: the huge one counts as a whole.
            assert registries.largest_slice <= 2 * (SLICE + 3000)
            assert breaths >= 9000 // SLICE
        nursery.cancel_scope.cancel()


def test_a_wrong_spec_is_refused_with_all_its_problems(script: Script) -> None:
    with pytest.raises(SpecError) as caught:
        Registries(
            [spec(pth="x", keep_on_emty=1), spec(), spec("two", keep_on_empty_for="soon")],
            on_change=lambda catalog, changes: None,
        )
    text = str(caught.value)
    assert text.count("nodeproxy.yaml:7") == 4
    for part in ("'pth'; did you mean 'path'?", "keep_on_emty", "two registries", "'soon'"):
        assert part in text


def test_every_state_has_a_sentence() -> None:
    assert set(MEANING) == set(State)
    assert all(sentence.endswith(".") for sentence in MEANING.values())


# --- back-off ---


def test_backoff_grows_to_its_cap_and_starts_over_after_a_healthy_time() -> None:
    backoff = Backoff(random.Random(0), base=1, cap=30, healthy=60)
    delays = [backoff.failed(0) for _ in range(40)]
    for i, delay in enumerate(delays):
        assert min(30, 2**i) / 2 <= delay <= min(30, 2**i)
    assert backoff.failed(59) >= 15
    assert backoff.failed(60) <= 1
    assert len(set(delays)) == len(delays)


# --- the state file ---


def saved(path: Path) -> bytes:
    store.save(path, "one", "id", [WEB, API], 1000.0)
    return path.read_bytes()


def test_a_state_is_read_as_it_was_saved(tmp_path: Path) -> None:
    path = store.state_file(tmp_path / "new" / "folder", "a/../b")
    assert path.parent == tmp_path / "new" / "folder"
    saved(path)
    state = store.load(path, "one", "id")
    assert state == store.Saved((WEB, API), 1000.0)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]
    store.confirm(path, 2000.0)
    again = store.load(path, "one", "id")
    assert again is not None
    assert again.synced_at == 2000.0
    assert store.load(tmp_path / "none", "one", "id") is None
    for other in (("two", "id"), ("one", "other")):
        with pytest.raises(store.Bad, match="other options"):
            store.load(path, *other)


@given(data=st.data())
def test_no_damaged_state_is_ever_used(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("state") / "x.state"
    good = saved(path)
    at = data.draw(st.integers(0, len(good) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    if kind == "flip":
        bad = good[:at] + bytes([good[at] ^ (1 << data.draw(st.integers(0, 7)))]) + good[at + 1 :]
    elif kind == "cut":
        bad = good[:at]
    else:
        bad = good[:at] + b"\x00" + good[at:]
    path.write_bytes(bad)
    with pytest.raises(store.Bad, match=r"damaged|version"):
        store.load(path, "one", "id")


def test_a_failed_save_leaves_the_old_state_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "x.state"
    good = saved(path)
    with pytest.raises(TypeError):
        store.save(path, "one", "id", [object()], 1.0)  # type: ignore[list-item]
    assert path.read_bytes() == good
    assert os.listdir(tmp_path) == ["x.state"]


# --- plug-ins ---


class Point:
    """An entry point as importlib.metadata gives it."""

    def __init__(self, name: str, value: str, what: Any) -> None:
        self.name, self.value, self.what = name, value, what
        self.dist = type("Dist", (), {"name": f"dist-{value}", "version": "1.0"})()

    def load(self) -> Any:
        if isinstance(self.what, Exception):
            raise self.what
        return self.what


def test_plug_ins_are_found_by_kind_and_named_when_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = [
        Point("good", "a", Scripted),
        Point("bad", "b", ImportError("no kazoo")),
        Point("twice", "c", Scripted),
        Point("twice", "d", Scripted),
        Point("odd", "e", object),
    ]

    def entry_points(*, group: str, name: str | None = None) -> list[Point]:
        assert group == "nodeproxy.registries"
        return [p for p in points if name in (None, p.name)]

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    assert plugins.load("good") is Scripted

    def refusal(kind: str) -> str:
        with pytest.raises(SpecError) as caught:
            plugins.load(kind, "n.yaml:3")
        return str(caught.value)

    assert refusal("goud") == "n.yaml:3: kind: unknown registry kind 'goud'; did you mean 'good'?"
    assert "dist-b 1.0 cannot be imported: ImportError: no kazoo" in refusal("bad")
    assert "dist-c 1.0 and by dist-d 1.0" in refusal("twice")
    assert "not a registry back end (no kind, options_type, run)" in refusal("odd")
    assert [p.message for p in plugins.check(Spec("x", "nix"))]
    assert plugins.check(Spec("x", "good")) == []
    assert isinstance(plugins.check(Spec("x", "good", {"a": 1}))[0], Problem)
