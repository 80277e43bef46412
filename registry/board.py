"""What a back end that asks service by service has learnt so far, and the telling of it.

Answers come in any order and each at its own time: a long poll for each service, a name's TTL.
A :class:`Board` holds the newest answer to each question, joins those that are about the same
service, and tells the sink of services that changed, in slices. Before all questions have been
answered once it tells nothing, so a start never looks like a registry with few services. A
registry none of whose services has an endpoint counts as empty, and that is told as one whole
answer, which the supervisor may doubt.

Asking, waiting and failing are the back end's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import Final

import msgspec
import trio

from registry.base import Problem, RegistryError, Sink
from registry.bulk import bulk
from registry.model import Endpoint, Service
from registry.naming import ServiceSettings, dressed

__all__ = ["Board", "Part", "together"]

BITE: Final = 200
"""Endpoints that are worked on between two checkpoints."""
LOAD: Final = 500
"""Questions without an answer from which on it is a load, not a change."""


class Part(msgspec.Struct, frozen=True, gc=False):
    """What one answer says of a service."""

    service: str
    """``namespace/name``"""
    endpoints: tuple[Endpoint, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    origin: str = ""


class Board:
    """See the module's text. Made anew for each run of a back end."""

    def __init__(
        self,
        sink: Sink,
        settings: Mapping[str, ServiceSettings],
        *,
        waiting: bool = True,
    ) -> None:
        """``settings``: by ``namespace/name``. ``waiting``: it is not known yet what to ask for
        (:meth:`follow`)."""
        self._sink = sink
        self._settings = settings
        self._questions: dict[Hashable, str] = {}
        """For each question the service that it is about."""
        self._missing: set[Hashable] = set()
        """Questions without an answer."""
        self._stale: set[Hashable] = set()
        """Questions whose answer is older than the last "synced"."""
        self._waiting = waiting
        self._parts: dict[Hashable, Part] = {}
        self._unreadable: set[Hashable] = set()
        self._holders: dict[str, dict[Hashable, None]] = {}
        """For each service the questions about it, in the order of the answers."""
        self._alive: set[Hashable] = set()
        """Questions whose answer has an endpoint."""
        self._problems: dict[Hashable, tuple[Problem, ...]] = {}
        self._problems_told = True
        self._dirty: dict[str, None] = {}
        self._published: dict[str, Service] = {}
        self._was_empty = False
        self._listed = False
        self._kept: frozenset[str] = frozenset()
        self._wake = trio.Event()

    # --- the back end's side: plain calls ---

    def follow(self, questions: Mapping[Hashable, str]) -> None:
        """These are all questions there are, with the services they are about. An answer to any
        other is forgotten."""
        self._waiting = False
        self._listed = True
        for key in [k for k in self._questions if k not in questions]:
            del self._questions[key]
            self._missing.discard(key)
            self._stale.discard(key)
            self._unreadable.discard(key)
            self._put(key, None)
            self._say(key, ())
        for key, service in questions.items():
            if key not in self._questions:
                self._questions[key] = service
                self._missing.add(key)
                self._stale.add(key)
        self._wake.set()

    def unchanged(self) -> None:
        """There are the same questions as before."""
        self._listed = True
        self._wake.set()

    def answer(self, key: Hashable, part: Part | None, problems: Iterable[Problem] = ()) -> None:
        """None: there is no such service."""
        if key not in self._questions:
            return
        self._unreadable.discard(key)
        self._put(key, part)
        self._answered(key, problems)

    def unreadable(self, key: Hashable, problems: Iterable[Problem]) -> None:
        """There is an answer, but none that can be used: what it was about stays as it was."""
        if key not in self._questions:
            return
        self._unreadable.add(key)
        self._answered(key, problems)

    def confirm(self, key: Hashable) -> None:
        """The last answer is still true."""
        if key in self._questions and key not in self._missing:
            self._stale.discard(key)
            self._wake.set()

    def confirm_all(self) -> None:
        """All there is is still so."""
        self._listed = True
        self._stale.intersection_update(self._missing)
        self._wake.set()

    def trouble(self, source: str, problems: Iterable[Problem]) -> None:
        """Problems that belong to no question; replaces what was said before of ``source``."""
        self._say(("", source), tuple(problems))
        self._wake.set()

    def _answered(self, key: Hashable, problems: Iterable[Problem]) -> None:
        self._missing.discard(key)
        self._stale.discard(key)
        self._say(key, tuple(problems))
        self._wake.set()

    def _put(self, key: Hashable, part: Part | None) -> None:
        before = self._parts.get(key)
        if part == before:
            return
        if before is not None and (part is None or part.service != before.service):
            holders = self._holders[before.service]
            del holders[key]
            if not holders:
                del self._holders[before.service]
            self._dirty[before.service] = None
        if part is None:
            del self._parts[key]
            self._alive.discard(key)
            return
        self._parts[key] = part
        self._holders.setdefault(part.service, {})[key] = None
        self._dirty[part.service] = None
        (self._alive.add if part.endpoints else self._alive.discard)(key)

    def _say(self, key: Hashable, problems: tuple[Problem, ...]) -> None:
        if problems == self._problems.get(key, ()):
            return
        self._problems_told = False
        if problems:
            self._problems[key] = problems
        else:
            del self._problems[key]

    # --- telling ---

    async def run(self) -> None:
        """Tell the sink, until cancelled."""
        with ExitStack() as load:
            loading = False
            while True:
                if not loading and len(self._missing) > LOAD:
                    load.enter_context(bulk())
                    loading = True
                await self._report()
                if loading and not self._missing:
                    load.close()
                    loading = False
                await self._wake.wait()
                self._wake = trio.Event()

    async def _report(self) -> None:
        if not self._problems_told:
            self._problems_told = True
            self._sink.problems([p for found in self._problems.values() for p in found])
        if not self._waiting and not (self._missing and not self._published):
            await self._tell()

    async def _tell(self) -> None:
        self._keep()
        if self._alive or self._unreadable:
            if not self._published:
                self._dirty.update(dict.fromkeys(self._holders))
            # After a doubted answer the first word that is said again must be the whole truth.
            await self._changes(whole=self._was_empty)
            self._was_empty = False
        else:
            # Not one by one: that all endpoints are gone at once is for the supervisor to judge.
            self._dirty.clear()
            self._was_empty = True
            if self._published:
                self._published.clear()
                self._sink.replace([])
        if not self._stale and not self._missing and (self._questions or self._listed):
            self._listed = False
            self._stale = set(self._questions)
            self._sink.synced()

    async def _changes(self, *, whole: bool) -> None:
        upserts: list[Service] = []
        removals: list[str] = []
        work = 0
        while self._dirty:
            name, _ = self._dirty.popitem()
            service = self._join(name)
            before = self._published.get(name)
            if service is None:
                if before is not None and name not in self._kept:
                    del self._published[name]
                    removals.append(name)
            elif service != before:
                self._published[name] = service
                upserts.append(service)
                work += len(service.endpoints)
            work += 1
            if work >= BITE:
                work = 0
                if not whole and upserts:
                    self._sink.upsert(upserts)
                    upserts = []
                await trio.lowlevel.checkpoint()
        if whole:
            if upserts:
                self._sink.replace(upserts)
            return
        if upserts:
            self._sink.upsert(upserts)
        if removals:
            self._sink.remove(removals)

    def _keep(self) -> None:
        """Of what cannot be read now only that needs to be named which this run never read."""
        unread = (self._questions[key] for key in self._unreadable if key not in self._parts)
        kept = frozenset(name for name in unread if name not in self._holders)
        if kept != self._kept:
            self._kept = kept
            self._sink.keep(kept)

    def _join(self, name: str) -> Service | None:
        """What all answers say of a service; of endpoints with one key the first stays."""
        holders = self._holders.get(name)
        if not holders:
            return None
        parts = [self._parts[key] for key in holders]
        first = parts[0]
        endpoints = first.endpoints
        if len(parts) > 1:
            parts.sort(key=lambda part: part.origin)
            first = parts[0]
            united: dict[tuple[str, int, str], Endpoint] = {}
            for part in parts:
                for endpoint in part.endpoints:
                    united.setdefault(endpoint.key, endpoint)
            endpoints = tuple(united.values())
        return dressed(
            name, endpoints, self._settings.get(name), labels=first.labels, origin=first.origin
        )


@asynccontextmanager
async def together() -> AsyncIterator[trio.Nursery]:
    """A nursery in which the first task that fails ends them all. Raises its RegistryError, not a
    group of it and its like."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        _, others = group.split(RegistryError)
        if others is not None:
            raise
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
