"""One registry under supervision: its parts, and what an operator is told of it."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator

import msgspec
import trio

from registry.backoff import Backoff
from registry.base import Backend, Problem
from registry.catalog import Merger
from registry.feed import Feed
from registry.plugins import Spec, Supervision
from registry.status import MAX_PROBLEMS, RegistryStatus, State
from registry.transform import Transform

__all__ = ["Member"]


class Member:
    """One registry and all that is known about it."""

    def __init__(
        self,
        spec: Spec,
        options: Supervision,
        backend: Backend,
        *,
        clock: Callable[[], float],
        wake: Callable[[], None],
        rng: random.Random,
    ) -> None:
        self.spec = spec
        self.options = options
        self.backend = backend
        self.clock = clock
        self.transform = Transform(options)
        self.feed = Feed(
            clock=clock,
            wake=wake,
            current=self.transform.raw,
            keep_on_empty=options.keep_on_empty_for if options.keep_on_empty else 0.0,
        )
        self.backoff = Backoff(rng)
        ours = Supervision.__struct_fields__
        source = {key: value for key, value in spec.options.items() if key not in ours}
        self.identity = hashlib.sha256(
            msgspec.json.encode([spec.kind, source], order="deterministic")
        ).hexdigest()
        self.ready = trio.Event()
        self.endpoints = 0
        self.synced = False
        self.from_disk = False
        self.restored_at: float | None = None
        self.restarts = 0
        self.last_error = ""
        self.down = False
        """Its last run has failed and the next one has not begun."""
        self.logged: tuple[Problem, ...] = ()
        self.kept_logged: float | None = None
        # Saving.
        self.dirty = False
        self.confirmed_at: float | None = None
        self.next_save = 0.0
        self.save_failures = 0
        self.save_error = ""

    @property
    def name(self) -> str:
        return self.spec.name

    def status(self, merger: Merger) -> RegistryStatus:
        feed, name = self.feed, self.name
        services = len(merger.services_of(name))
        problems: list[Problem] = []
        total = 0
        for problem in self._problems(merger):
            total += 1
            if total <= MAX_PROBLEMS:
                problems.append(problem)
        # There may be one for each service, and this is asked for at each scrape.
        total += self.transform.troubles
        room = max(0, MAX_PROBLEMS - len(problems))
        problems += itertools.islice(self.transform.problems(), room)
        now = self.clock()
        since = feed.synced_at if feed.synced_at is not None else self.restored_at
        return RegistryStatus(
            name=name,
            kind=self.spec.kind,
            state=self._state(services),
            synced=self.synced,
            age_seconds=None if since is None else max(0.0, now - since),
            services=services,
            endpoints=self.endpoints,
            restarts=self.restarts,
            last_error=self.last_error,
            problems=tuple(problems),
            problems_total=total,
            from_disk=self.from_disk,
            empty_answers_kept=feed.empty_answers_kept,
            kept_seconds=None if feed.kept_since is None else max(0.0, now - feed.kept_since),
            save_failures=self.save_failures,
            save_error=self.save_error,
            priority=self.options.priority,
            services_alone=merger.alone(name),
            services_used=merger.used(name),
        )

    def _problems(self, merger: Merger) -> Iterator[Problem]:
        feed, name = self.feed, self.name
        if feed.kept_since is not None:
            yield Problem(
                "the registry answered with no service at all; its previous services are kept "
                "(keep_on_empty)",
                source=name,
            )
        if self.save_error:
            yield Problem(self.save_error, source=name)
        yield from feed.reported
        yield from merger.problems_of(name)

    def _state(self, services: int) -> State:
        if self.feed.kept_since is not None:
            return State.KEPT
        if self.from_disk:
            return State.RESTORED
        if self.last_error:
            return State.STALE if services or self.synced else State.FAILED
        return State.SYNCED if self.synced else State.STARTING
