"""The order in which traffic is taken over and given back, told by a kernel that notes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from iptables.errors import InterceptionError
from iptables.settings import Frontend, Settings
from nodeproxy.intercepting import FULL_SYNC, Intercepting
from registry.catalog import Change, Merger
from registry.model import Endpoint, Port, Service


class Kernel:
    """Notes what it is told; its sets are a table."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.told: list[str] = []
        self.table: dict[tuple[str, int], Frontend] = {}
        self.during: Callable[[], None] = lambda: None
        """Called in the middle of a sync."""
        self.refuses = False

    def status(self) -> Any:
        return SimpleNamespace(families=(4, 6))

    async def install(self) -> None:
        self.told.append("install")

    async def sync(self, frontends: Iterable[Frontend]) -> None:
        new = {f.key: f for f in frontends}
        await trio.lowlevel.checkpoint()
        self.during()
        if self.refuses:
            raise InterceptionError("no")
        self.table = new
        self.told.append("sync")

    async def update(self, upserts: Iterable[Frontend], removals: Iterable[Any]) -> None:
        if self.refuses:
            raise InterceptionError("no")
        for key in removals:
            self.table.pop(key, None)
        self.table |= {f.key: f for f in upserts}
        self.told.append("update")

    def beat(self) -> None:
        self.told.append("beat")

    def release(self) -> None:
        self.told.append("release")

    async def watch(self) -> None:
        self.told.append("watch")
        await trio.sleep_forever()

    async def remove(self) -> None:
        self.told.append("remove")
        self.table = {}

    async def repair(self) -> tuple[str, ...]:
        return ("a difference",)


class Bench:
    """Interception over a kernel of notes and a catalog that tests change."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.merger = Merger(["file"])
        self.open: list[Any] = []
        self.accepting = True
        self.part = Intercepting(
            self.kernel,  # type: ignore[arg-type]
            catalog=lambda: self.merger.catalog,
            listen=self.listen,
            accepting=lambda: self.accepting,
            log=structlog.get_logger(),
        )

    def listen(self, address: Any) -> None:
        self.kernel.told.append("listen")
        self.open.append(address)

    def set(self, number: int, *backends: int) -> None:
        endpoints = tuple(Endpoint(f"10.244.0.{b}", 8080) for b in backends)
        service = Service(f"shop/s{number}", (f"10.96.0.{number}",), (Port(80),), endpoints)
        self.change(self.merger.apply("file", [service], ())[1])

    def unset(self, number: int) -> None:
        self.change(self.merger.apply("file", [], [f"shop/s{number}"])[1])

    def change(self, changes: tuple[Change, ...]) -> None:
        self.part.follow(changes)

    def serving(self) -> dict[str, int]:
        return {address: len(f.backends) for (address, _), f in self.kernel.table.items()}


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_traffic_comes_last(bench: Bench, nursery: trio.Nursery):
    bench.set(1, 1, 2)
    await nursery.start(bench.part.run)
    assert bench.kernel.told[:5] == ["install", "listen", "listen", "sync", "beat"]
    assert bench.open == [("169.254.171.1", 15001), ("fd0d:4e50::1", 15001)]
    assert bench.serving() == {"10.96.0.1": 2}


async def test_the_kernel_follows_the_catalog(bench: Bench, nursery: trio.Nursery):
    await nursery.start(bench.part.run)
    bench.set(1, 1)
    bench.set(2, 1)
    bench.set(1, 1, 2)
    await wait_all_tasks_blocked()
    assert bench.serving() == {"10.96.0.1": 2, "10.96.0.2": 1}
    bench.unset(2)
    await wait_all_tasks_blocked()
    assert bench.serving() == {"10.96.0.1": 2}
    assert bench.kernel.told.count("sync") == 1


@pytest.mark.parametrize("moment", ["start", "resume"])
async def test_what_changes_meanwhile_is_not_forgotten(
    bench: Bench, nursery: trio.Nursery, moment: str
):
    """While the kernel is told of everything, an endpoint comes and a service goes."""
    bench.set(1, 1)
    bench.set(2, 1)

    def meanwhile() -> None:
        bench.kernel.during = lambda: None
        bench.set(1, 1, 2)
        bench.unset(2)

    if moment == "resume":
        await nursery.start(bench.part.run)
        await bench.part.stop()
    bench.kernel.during = meanwhile
    if moment == "resume":
        await bench.part.resume()
    else:
        await nursery.start(bench.part.run)
    await wait_all_tasks_blocked()
    assert bench.serving() == {"10.96.0.1": 2}


async def test_a_refusal_is_made_good(
    bench: Bench, nursery: trio.Nursery, autojump_clock: MockClock
):
    await nursery.start(bench.part.run)
    bench.kernel.refuses = True
    bench.set(1, 1)
    await wait_all_tasks_blocked()
    assert bench.serving() == {}
    bench.kernel.refuses = False
    await trio.sleep(2)
    assert bench.serving() == {"10.96.0.1": 1}


async def test_many_changes_are_sent_as_a_whole(bench: Bench, nursery: trio.Nursery):
    await nursery.start(bench.part.run)
    for _ in range(FULL_SYNC // 2 + 1):
        bench.set(1, 1)
        bench.set(1, 1, 2)
    await wait_all_tasks_blocked()
    assert bench.kernel.told.count("sync") == 2
    assert bench.serving() == {"10.96.0.1": 2}


async def test_the_switch_is_held_while_connections_are_accepted(
    bench: Bench, nursery: trio.Nursery
):
    bench.part.beat()
    assert bench.kernel.told == []  # not before the rules are there
    await nursery.start(bench.part.run)
    bench.accepting = False
    bench.part.beat()
    assert bench.kernel.told.count("beat") == bench.part.beats == 1
    bench.accepting = True
    bench.part.release()
    bench.part.beat()
    assert bench.kernel.told.count("beat") == 1
    bench.part.release()
    assert bench.kernel.told.count("release") == 1


async def test_out_of_the_path_and_back(bench: Bench, nursery: trio.Nursery):
    bench.set(1, 1)
    await nursery.start(bench.part.run)
    await bench.part.stop()
    await wait_all_tasks_blocked()
    assert not bench.part.on
    bench.set(2, 1)
    await wait_all_tasks_blocked()
    assert bench.serving() == {}  # nobody puts it back behind the operator's back
    assert await bench.part.resume() == 0
    bench.set(3, 1)
    await wait_all_tasks_blocked()
    assert bench.part.on
    assert set(bench.serving()) == {"10.96.0.1", "10.96.0.2", "10.96.0.3"}
    assert await bench.part.resume() == 1  # it was never away: it only repairs
