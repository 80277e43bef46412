"""Runs the registries, whatever they do, and keeps the catalog.

For each registry a trio task runs its back end and, when that fails, runs it again after a
back-off; the registry's services stay as they were. One more task applies what the back ends
said, in slices: between two slices the loop does everything else. A third writes last good states
to disk, in a worker thread and at a limited rate. At the start the states on disk are
applied first, so a node serves with every registry down.

Nothing a registry or the disk does ends these tasks; an exception from ``on_change`` does, as it
is ours.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from registry import store
from registry.addresses import Addresses, VipsStatus
from registry.base import Context, Problem, RegistryError
from registry.bulk import bulk
from registry.catalog import DEFAULTS, Catalog, Change, Merger
from registry.member import Member
from registry.plugins import Spec, SpecError, Supervision, check, make
from registry.status import RegistryStatus, State
from registry.transform import defaults

__all__ = ["Registries", "RegistryStatus", "Spec", "SpecError", "State", "Supervision", "check"]

SLICE: Final = 512
"""Units of work (one for each service and endpoint) between two checkpoints. Measured at 2 to
4 microseconds a unit with everything that follows; tests/bench/registry_scale.py."""
BULK: Final = 500
"""Services waiting to be applied from which on it is a load, not a change."""
LOGGED: Final = 10
"""Problems that are logged one by one when they appear."""
SAVE_INTERVAL: Final = 10.0
"""Seconds at least between two saves of one registry; longer where a save takes long."""
SAVE_SHARE: Final = 50
"""A save of t seconds is followed by SAVE_SHARE * t seconds without one."""


class Registries:
    """All registries of a node. ``await run()`` in a nursery; the rest are plain calls."""

    def __init__(
        self,
        specs: Sequence[Spec],
        *,
        on_change: Callable[[Catalog, Sequence[Change]], None],
        state_dir: Path | None = None,
        node: str = "",
        zone: str = "",
        mark: int = 0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        log: Any = None,
        vips: Sequence[str] = (),
    ) -> None:
        """``on_change`` is called on the loop with each new catalog and at most about SLICE
        changes, after ``catalog`` has been set; it must be quick. ``state_dir``: None to keep
        nothing on disk. ``vips``: networks of the addresses that are given to services that have
        none. Raises SpecError with the problems of all specs together."""
        self._on_change = on_change
        self._state_dir = state_dir
        self._clock = clock
        self._wall = wall_clock
        self._log = structlog.get_logger("registry") if log is None else log
        self._work = trio.Event()
        self._addresses: Addresses | None = None
        if vips:
            self._addresses = Addresses(vips, state_dir, wall_clock=wall_clock, log=self._log)
        self._members: list[Member] = []
        self.largest_slice = 0
        """The most units of work ever done between two checkpoints."""
        rng = rng or random.Random()
        problems: list[Problem] = []
        names: set[str] = set()
        for spec in specs:
            try:
                if spec.name in names:
                    raise SpecError(
                        [Problem(f"two registries are called {spec.name!r}", spec.origin)]
                    )
                names.add(spec.name)
                context = Context(spec.name, node, zone, spec.base_dir, mark)
                ours, backend = make(spec, context)
            except SpecError as error:
                problems += error.problems
                continue
            member = Member(spec, ours, backend, clock=clock, wake=self._wake, rng=rng)
            self._members.append(member)
        if problems:
            raise SpecError(problems)
        self._defaults = defaults(member.options for member in self._members)
        self._merger = Merger(
            [*(member.name for member in self._members), DEFAULTS],
            priorities=[*(float(member.options.priority) for member in self._members), inf],
            allocator=self._addresses.allocator if self._addresses is not None else None,
            unallocated=[m.name for m in self._members if not m.options.allocate_vips],
        )

    @property
    def catalog(self) -> Catalog:
        """The newest catalog."""
        return self._merger.catalog

    def registries_of(self, name: str) -> tuple[str, ...]:
        """The registries that have the service called ``name``, the most trusted first."""
        return self._merger.registries_of(name)

    def vips(self) -> VipsStatus | None:
        """Of the given addresses; None if none are given."""
        return None if self._addresses is None else self._addresses.status()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Reports started when the states on disk are in the catalog."""
        if self._addresses is not None:
            await self._addresses.restore()
        catalog, changes = self._merger.apply(DEFAULTS, self._defaults, ())
        if changes:
            self._on_change(catalog, changes)
        await self._restore()
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._apply_forever)
            for member in self._members:
                nursery.start_soon(self._supervise, member)
            if self._state_dir is not None:
                nursery.start_soon(self._save_forever)
            nursery.start_soon(self._expire_forever)

    async def wait_synced(self) -> None:
        """Until each registry has synced, or serves its last good state, or has failed once."""
        for member in self._members:
            await member.ready.wait()

    def statuses(self) -> tuple[RegistryStatus, ...]:
        """All registries, in configured order."""
        return tuple(member.status(self._merger) for member in self._members)

    # --- back ends ---

    async def _supervise(self, member: Member) -> None:
        log = self._log.bind(registry=member.spec.name, kind=member.spec.kind)
        while True:
            begun = self._clock()
            member.feed.restart()
            member.down = False
            try:
                await member.backend.run(member.feed)
                error: BaseException = RegistryError("the back end ended by itself")
            except Exception as raised:
                error = _only(raised)
            member.last_error = str(error) or type(error).__name__
            member.down = True
            # Healthy means answering: a back end that waits an hour for a time-out is not.
            worked = self._clock() - begun if member.feed.synced_in_run else 0.0
            delay = member.backoff.failed(worked)
            expected = isinstance(error, RegistryError)
            log.warning(
                "registry failed",
                error=member.last_error,
                retry_in=round(delay, 1),
                **({} if expected else {"exc_info": error}),
            )
            member.ready.set()
            await trio.sleep(delay)
            member.restarts += 1

    # --- applying ---

    def _wake(self) -> None:
        self._work.set()

    async def _apply_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work = trio.Event()
            if sum(member.feed.backlog for member in self._members) > BULK:
                with bulk():
                    await self._drain()
            else:
                await self._drain()

    async def _drain(self) -> None:
        while any(member.feed.busy for member in self._members):
            # One slice each in turn, so that a huge registry does not hold up a small one.
            for member in self._members:
                if member.feed.busy:
                    await self._apply_slice(member)
        for member in self._members:
            feed = member.feed
            if feed.reported is not member.logged:
                self._log_problems(member)
            if feed.kept_since != member.kept_logged:
                member.kept_logged = feed.kept_since
                if feed.kept_since is not None:
                    self._log.warning(
                        "empty answer is not believed",
                        registry=member.name,
                        services=len(member.transform.raw),
                        for_seconds=float(member.options.keep_on_empty_for),
                    )
            if feed.synced_in_run and not feed.busy:
                # What a run said before it failed is applied after it, and repairs nothing.
                if not member.down:
                    if not member.synced or member.last_error:
                        self._log.info(
                            "registry synced",
                            registry=member.spec.name,
                            services=len(self._merger.services_of(member.spec.name)),
                            endpoints=member.endpoints,
                        )
                    member.last_error = ""
                member.synced = True
                # While an empty answer is doubted, what is served may still be from disk.
                member.from_disk &= feed.kept_since is not None
                member.ready.set()

    def _log_problems(self, member: Member) -> None:
        """Those that are new; all of them are in the status."""
        before, member.logged = set(member.logged), member.feed.reported
        new = [problem for problem in member.logged if problem not in before]
        for problem in new[:LOGGED]:
            self._log.warning(
                "registry entry not usable", registry=member.spec.name, problem=str(problem)
            )
        if len(new) > LOGGED:
            self._log.warning(
                "more registry entries not usable",
                registry=member.spec.name,
                more=len(new) - LOGGED,
            )

    async def _apply_slice(self, member: Member) -> None:
        name = member.spec.name
        upserts, removals = member.transform.apply(*member.feed.take(SLICE))
        said = self._merger.services_of(name)
        for gone in removals:
            known = said.get(gone)
            member.endpoints -= len(known.endpoints) if known else 0
        for service in upserts:
            known = said.get(service.name)
            member.endpoints -= len(known.endpoints) if known else 0
        steps = self._merger.steps(name, upserts, removals)
        work = 0
        while True:
            try:
                work += next(steps)
            except StopIteration as done:
                catalog, changes = done.value
                break
            self.largest_slice = max(self.largest_slice, work)
            if work >= SLICE:
                await trio.lowlevel.checkpoint()
                work = 0
        for service in upserts:
            member.endpoints += len(said[service.name].endpoints)
        if changes:
            member.dirty = True
            self._on_change(catalog, changes)
        await trio.lowlevel.checkpoint()

    async def _expire_forever(self) -> None:
        """Kept answers are few and their limits are minutes: once a second is enough."""
        while True:
            for member in self._members:
                kept = member.feed.kept_since is not None
                if kept and member.feed.expire() == inf:
                    self._log.warning("empty answer is believed now", registry=member.spec.name)
            await trio.sleep(1)

    # --- the last good state on disk ---

    async def _restore(self) -> None:
        for member in self._members:
            if self._state_dir is None:
                break
            name = member.spec.name
            path = store.state_file(self._state_dir, name)
            try:
                saved = await trio.to_thread.run_sync(store.load, path, name, member.identity)
            except (store.Bad, OSError) as error:
                member.save_error = str(error)
                self._log.warning("saved state ignored", registry=name, error=str(error))
                continue
            if saved is None:
                continue
            age = max(0.0, self._wall() - saved.synced_at)
            member.restored_at = self._clock() - age
            member.from_disk = True
            member.confirmed_at = -inf
            member.feed.upsert(saved.services)
            self._log.info(
                "saved state in use", registry=name, services=len(saved.services), age=round(age)
            )
        with bulk():
            await self._drain()
        for member in self._members:
            member.dirty = False
            if member.from_disk:
                member.ready.set()

    async def _save_forever(self) -> None:
        try:
            while True:
                for member in self._members:
                    if self._clock() >= member.next_save:
                        await self._save(member)
                if self._addresses is not None:
                    await self._addresses.save()
                await trio.sleep(1)
        finally:
            # An orderly end keeps what the rate limit held back.
            with trio.CancelScope(shield=True):
                for member in self._members:
                    await self._save(member)
                if self._addresses is not None:
                    await self._addresses.save()

    async def _save(self, member: Member) -> None:
        """Write what is not on disk yet, if it is worth keeping."""
        feed, name = member.feed, member.spec.name
        if self._state_dir is None or feed.synced_at is None or feed.kept_since is not None:
            return
        if feed.busy:
            return
        if not member.dirty and feed.synced_at == member.confirmed_at:
            return
        path = store.state_file(self._state_dir, name)
        synced_at = feed.synced_at
        at = self._wall() - (self._clock() - synced_at)
        begun = self._clock()
        dirty, member.dirty = member.dirty, False
        try:
            if dirty or member.confirmed_at is None:
                services = tuple(member.transform.raw.values())
                await trio.to_thread.run_sync(store.save, path, name, member.identity, services, at)
            else:
                await trio.to_thread.run_sync(store.confirm, path, at)
        except OSError as error:
            member.dirty = True
            member.confirmed_at = None
            member.save_failures += 1
            message = f"the last good state cannot be kept at {path}: {error.strerror or error}"
            if message != member.save_error:
                self._log.error("saving failed", registry=name, error=message)
            member.save_error = message
        else:
            member.confirmed_at = synced_at
            member.save_error = ""
        took = self._clock() - begun
        member.next_save = self._clock() + max(SAVE_INTERVAL, took * SAVE_SHARE)


def _only(error: Exception) -> BaseException:
    """The one exception inside nested groups: a back end's nursery wraps it."""
    found: BaseException = error
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found
