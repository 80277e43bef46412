"""A conformance kit: what every registry back end must do, to be called from its own tests.

Write a :class:`Harness` that can change the real registry (or a faithful fake of it), then::

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_conformance(check, harness):
        await check(harness)

Each check is a coroutine that raises AssertionError with a sentence. They run the back end under
the real supervisor, so they test what a node would see. The checks wait for conditions, up to
``Harness.patience`` seconds; nothing in them depends on speed.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

import trio

from registry.base import Backend, Problem, Sink
from registry.feed import Feed
from registry.model import Endpoint, Port, Service

__all__ = ["CHECKS", "Check", "Harness", "Observer", "observe", "sample"]


class Harness(Protocol):
    """The back end under test and the hands on its registry."""

    patience: float
    """Seconds that a change may take to be seen at most."""

    def backend(self) -> Backend:
        """A new back end for this registry."""

    async def put(self, services: Sequence[Service]) -> None:
        """From now on the registry has exactly these services (see :func:`sample`). A registry
        that did not exist or was broken exists and works now."""

    async def garbage(self, services: Sequence[Service]) -> None:
        """These services, and beside them an entry that nobody can read."""

    async def vanish(self) -> None:
        """The registry is gone or does not answer; before the first ``put`` it may never have
        been there."""


def sample(name: str, *addresses: str, port: int = 8080) -> Service:
    """A service as plain as any registry can hold: ``default/<name>``, no virtual address."""
    return Service(
        f"default/{name}",
        ports=(Port(port),),
        endpoints=tuple(Endpoint(address, port) for address in addresses),
    )


class Observer(Sink):
    """A sink that applies at once and remembers what was said."""

    def __init__(self) -> None:
        self.view: dict[str, frozenset[tuple[str, int]]] = {}
        """Service name to its endpoints' addresses and ports."""
        self.publications = 0
        """Upserts, removals and replacements that changed the view or repeated what was known."""
        self.syncs = 0
        self.reported: tuple[Problem, ...] = ()
        self.errors: list[Exception] = []
        self._services: dict[str, Service] = {}
        self._feed = Feed(
            clock=trio.current_time, wake=self._drain, current=self._services, keep_on_empty=0.0
        )
        self._news = trio.Event()

    def upsert(self, services: Iterable[Service]) -> None:
        services = list(services)
        self.publications += len(services)
        self._feed.upsert(services)

    def remove(self, names: Iterable[str]) -> None:
        names = list(names)
        self.publications += len(names)
        self._feed.remove(names)

    def replace(self, services: Iterable[Service]) -> None:
        services = list(services)
        if {s.name: s for s in services} != self._services:
            self.publications += 1
        self._feed.replace(services)

    def keep(self, names: Iterable[str]) -> None:
        self._feed.keep(names)

    def problems(self, problems: Iterable[Problem]) -> None:
        self.reported = tuple(problems)
        self._tell()

    def synced(self) -> None:
        self.syncs += 1
        self._feed.synced()
        self._tell()

    def restart(self) -> None:
        """The back end is run again."""
        self._feed.restart()

    def failed(self, error: Exception) -> None:
        self.errors.append(error)
        self._tell()

    def _drain(self) -> None:
        while self._feed.busy:
            upserts, removals = self._feed.take(1000)
            for name in removals:
                self._services.pop(name, None)
            self._services.update((s.name, s) for s in upserts)
        self.view = {
            s.name: frozenset((e.address, e.port) for e in s.endpoints)
            for s in self._services.values()
        }
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def until(self, condition: Callable[[], bool], what: str, patience: float) -> None:
        """Wait until ``condition`` holds. Raises AssertionError with ``what`` if it does not."""
        with trio.move_on_after(patience):
            while not condition():
                await self._news.wait()
        if not condition():
            raise AssertionError(
                f"{what}; within {patience} s it came to {self.view}, {self.syncs} syncs,"
                f" problems {[str(p) for p in self.reported]}, errors {self.errors}"
            )

    async def sees(self, services: Sequence[Service], patience: float) -> None:
        """Wait until the view is exactly ``services``, and synced."""
        wanted = {s.name: frozenset((e.address, e.port) for e in s.endpoints) for s in services}
        await self.until(
            lambda: self.syncs > 0 and self.view == wanted, f"expected {wanted}", patience
        )


@asynccontextmanager
async def observe(backend: Backend) -> AsyncIterator[Observer]:
    """Run ``backend`` until the block ends, again after each error as a supervisor would."""
    observer = Observer()

    async def supervise() -> None:
        while True:
            observer.restart()
            try:
                await backend.run(observer)
            except Exception as error:
                observer.failed(error)
            else:
                observer.failed(AssertionError("run() returned: it must go on or raise"))
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise)
        yield observer
        nursery.cancel_scope.cancel()


Check = Callable[[Harness], Awaitable[None]]
WEB: Final = sample("web", "10.0.0.1", "10.0.0.2")
API: Final = sample("api", "10.0.0.3", port=9090)


async def initial_sync(harness: Harness) -> None:
    """What is there at the start is published and called synced."""
    await harness.put([WEB, API])
    async with observe(harness.backend()) as observer:
        await observer.sees([WEB, API], harness.patience)
        assert not observer.errors, f"a healthy registry is no error: {observer.errors}"


async def changes_are_seen(harness: Harness) -> None:
    """A new service, changed endpoints, and a service that is gone."""
    await harness.put([WEB])
    async with observe(harness.backend()) as observer:
        for state in (
            [WEB],
            [WEB, API],
            [sample("web", "10.0.0.9"), API],
            [sample("web", "10.0.0.9", "10.0.0.1"), API],
            [API],
            [sample("other", "10.0.0.4")],
        ):
            await harness.put(state)
            await observer.sees(state, harness.patience)


async def no_change_no_publication(harness: Harness) -> None:
    """The same state written again publishes nothing."""
    await harness.put([WEB, API])
    async with observe(harness.backend()) as observer:
        await observer.sees([WEB, API], harness.patience)
        before = observer.publications
        await harness.put([API, WEB])
        # A change that must be seen tells that the one before it has been looked at.
        await harness.put([API, WEB, sample("new", "10.0.0.5")])
        await observer.sees([API, WEB, sample("new", "10.0.0.5")], harness.patience)
        assert observer.publications - before == 1, (
            f"{observer.publications - before} publications for one changed service"
        )


async def absent_at_the_start(harness: Harness) -> None:
    """A registry that is not there yet is an error or a wait, never a crash or an empty answer."""
    await harness.vanish()
    async with observe(harness.backend()) as observer:
        await observer.until(
            lambda: bool(observer.errors or observer.reported),
            "an absent registry must be told",
            harness.patience,
        )
        assert observer.syncs == 0, "an absent registry has not answered"
        await harness.put([WEB])
        await observer.sees([WEB], harness.patience)


async def gone_and_back(harness: Harness) -> None:
    """While the registry is gone its services stay; when it is back its truth counts."""
    await harness.put([WEB, API])
    async with observe(harness.backend()) as observer:
        await observer.sees([WEB, API], harness.patience)
        await harness.vanish()
        await observer.until(
            lambda: bool(observer.errors or observer.reported),
            "a registry that is gone must be told",
            harness.patience,
        )
        assert len(observer.view) == 2, "services must stay while their registry is gone"
        await harness.put([API])
        await observer.sees([API], harness.patience)


async def garbage_is_skipped_and_told(harness: Harness) -> None:
    """An entry that nobody can read harms no other."""
    await harness.garbage([WEB])
    async with observe(harness.backend()) as observer:
        await observer.sees([WEB], harness.patience)
        await observer.until(
            lambda: bool(observer.reported), "the garbage must be told", harness.patience
        )
        problem = observer.reported[0]
        assert problem.message, "a problem needs a message"
        assert problem.source, "a problem needs its source"
        await harness.put([WEB, API])
        await observer.sees([WEB, API], harness.patience)
        assert not observer.reported, "problems that are gone must not be told any more"


async def cancelled_anywhere(harness: Harness) -> None:
    """Cancelled at any of its awaits, the back end leaves no descriptor and no child."""
    await harness.put([WEB, API])
    # Once to its end, so that what is opened once for all is open.
    async with observe(harness.backend()) as observer:
        await observer.sees([WEB, API], harness.patience)
    before = _descriptors()
    rng = random.Random(7)
    synced = False
    for turns in (*range(30), *(rng.randrange(30, 3000) for _ in range(20))):
        backend = harness.backend()
        observer = Observer()
        observer.restart()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(backend.run, observer)
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        synced |= observer.syncs > 0
    # A fake that lives in this process closes its ends a little later.
    with trio.move_on_after(harness.patience):
        while not _descriptors() <= before:  # noqa: ASYNC110 - nothing tells
            await trio.sleep(0.01)
    after = _descriptors()
    assert after <= before, f"descriptors left open: {after - before}"
    async with observe(harness.backend()) as again:
        await again.sees([WEB, API], harness.patience)


def _descriptors() -> set[str]:
    """What is open, but for the ends of pipes and sockets whose numbers come and go."""
    found: set[str] = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}').split(':')[0]}")
        except OSError:
            continue
    return found


async def run_again(harness: Harness) -> None:
    """One back end may be run again after it was stopped, and starts from the registry's truth."""
    await harness.put([WEB])
    backend = harness.backend()
    async with observe(backend) as observer:
        await observer.sees([WEB], harness.patience)
    await harness.put([API])
    async with observe(backend) as observer:
        await observer.sees([API], harness.patience)


CHECKS: Final[tuple[Check, ...]] = (
    initial_sync,
    changes_are_seen,
    no_change_no_publication,
    absent_at_the_start,
    gone_and_back,
    garbage_is_skipped_and_told,
    cancelled_anywhere,
    run_again,
)
"""All checks. A back end passes when each passes."""
