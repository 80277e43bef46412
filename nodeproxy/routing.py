"""Routes of the moment: from files and the catalog to the table that the data plane asks.

New objects mean a new table, made in slices beside the traffic; a service whose ports change
means the next table, made from the last one. Either takes the old one's place in one assignment,
so a request sees one table from its first look to its last. A file that is broken changes
nothing (see :mod:`nodeproxy.routes`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import trio

from nodeproxy.core.routing.attach import Attached
from nodeproxy.core.routing.compile import Compiler
from nodeproxy.core.routing.objects import NOTHING
from nodeproxy.core.routing.table import NO_ROUTES, RouteTable
from nodeproxy.core.routing.uncarried import uncarried_of
from nodeproxy.routes import RouteFiles, Routes
from registry.base import Problem
from registry.bulk import bulk
from registry.catalog import Catalog, Change

if TYPE_CHECKING:
    from nodeproxy.telemetry.families import Families

__all__ = ["Routing"]

SLICE: Final = 0.002
"""Seconds of work at a time."""
WARNED: Final = 20
"""Lines in the log about what has no effect; `nodeproxy validate` tells of all."""


class Routing:
    """What the routes of a node are, and how far they are in force."""

    def __init__(
        self,
        path: str,
        *,
        catalog: Callable[[], Catalog],
        apply: Callable[[RouteTable], None],
        log: Any,
    ) -> None:
        """``apply`` is given each table that is in force from now on."""
        self.path = path
        self.routes = Routes()
        """As they were read last; their table may still be in the making."""
        self.table: RouteTable = NO_ROUTES
        self.largest_slice = 0.0
        """Seconds."""
        self._files = RouteFiles(path, self.publish)
        self._catalog = catalog
        self._apply = apply
        self._log = log
        self._compiler = Compiler(self.routes.objects)
        self._stale: set[str] = set()
        """Services that changed while a table was in the making."""
        self._work: Generator[None, None, RouteTable] | None = None
        self._load: ExitStack | None = None
        self._news = trio.Event()
        self._warned: set[Problem] = set()
        self._doubted = NOTHING
        self._started = False

    @property
    def settled(self) -> bool:
        """What was read last is in force."""
        return self._work is None and self.table.generation == self.routes.generation

    async def read(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the files until cancelled; ``started`` after the first reading. Raises OSError
        if the path can't be watched."""
        await self._files.run(task_status=task_status)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; ``started`` when the first table is in force. Call it when files and
        registries have been heard."""
        self._started = True
        self._begin()
        try:
            while True:
                while self._work is not None:
                    self._slice()
                    await trio.lowlevel.checkpoint()
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await self._doubt()
                await self._news.wait()
                self._news = trio.Event()
        finally:
            self._end()

    async def _doubt(self) -> None:
        """Say in the log what has no effect, once."""
        objects = self.routes.objects
        if objects is self._doubted:
            return
        self._doubted = objects
        for i, loaded in enumerate(objects.all):
            if i % 250 == 249:
                await trio.lowlevel.checkpoint()
            for doubt in uncarried_of(loaded):
                if doubt not in self._warned and len(self._warned) < WARNED:
                    self._warned.add(doubt)
                    self._log.warning("a part of the routes has no effect", what=str(doubt))

    # -- what changes --------------------------------------------------------------------

    def publish(self, routes: Routes) -> None:
        """The files say so now."""
        for problem in routes.problems:
            if problem not in self.routes.problems:
                self._log.warning("a route file has a problem", problem=str(problem))
        self.routes = routes
        if self._started:
            self._begin()

    def follow(self, catalog: Catalog, changes: Sequence[Change]) -> None:
        """The catalog has changed. What concerns few rules is in force when this returns."""
        if not self._started:
            return  # the first table is made of the whole catalog
        self._stale.update(change.name for change in changes)
        if self._work is None:
            self._next(catalog)
            self._slice()

    def _begin(self) -> None:
        """Begin a table of all routes; what was in the making is of no more use."""
        self._end()
        self._stale.clear()
        self._compiler = Compiler(self.routes.objects, self.routes.generation)
        self._load = ExitStack()
        self._load.enter_context(bulk())
        self._work = self._compiler.build(self._catalog())
        self._news.set()

    def _next(self, catalog: Catalog) -> None:
        """Begin the table after this one: some services have changed."""
        names, self._stale = list(self._stale), set()
        self._work = self._compiler.update(self.table, catalog, names)
        self._news.set()

    def _slice(self) -> None:
        """Some work on the next table; when it is done, it is in force."""
        work = self._work
        if work is None:
            return
        began = now = time.perf_counter()
        try:
            while now - began < SLICE:
                next(work)
                now = time.perf_counter()
        except StopIteration as done:
            self._end()
            self._accept(done.value)
        self.largest_slice = max(self.largest_slice, time.perf_counter() - began)

    def _accept(self, table: RouteTable) -> None:
        if table is not self.table:
            renewed = table.generation != self.table.generation
            self.table = table
            self._apply(table)
            if renewed:
                objects, files = len(self.routes.objects), self.routes.files
                self._log.info("routes in force", objects=objects, files=files)
        if self._stale:
            self._next(self._catalog())

    def _end(self) -> None:
        self._work = None
        if self._load is not None:
            self._load.close()
            self._load = None

    # -- what is shown -------------------------------------------------------------------

    def attached(self, service: str) -> Sequence[Attached]:
        """The parentRefs that name a service, whatever comes of them."""
        return self._compiler.attached(service)

    def named(self) -> Iterable[str]:
        """The services that parentRefs name."""
        return self._compiler.named()

    def publish_metrics(self, families: Families) -> None:
        families.routes_generation.callback(lambda: [((), float(self.table.generation))])
        families.routes_objects.callback(lambda: [((), float(len(self.routes.objects)))])
        families.routes_problems.callback(lambda: [((), float(len(self.routes.problems)))])
