"""Tells a sink which services of a table changed, in slices."""

from __future__ import annotations

from typing import Final

import trio

from registry.base import Sink
from registry.layouts.table import Table
from registry.model import Service

__all__ = ["BITE", "Publisher"]

BITE: Final = 100
"""Services and endpoints that are worked on between two checkpoints."""


class Publisher:
    """One for each run of a back end: the sink has forgotten what it was told before."""

    def __init__(self, sink: Sink, table: Table) -> None:
        self._sink = sink
        self._table = table
        self._published: dict[str, Service] = {}
        self._kept: frozenset[str] = frozenset()
        table.dirty.update(dict.fromkeys(table.services()))
        table.problems_changed = True

    async def publish(self) -> None:
        """What changed since the last time. Not to be run twice at once."""
        removals: list[str] = []
        batch: list[Service] = []
        dirty = self._table.dirty
        work = 0
        while dirty:
            name = next(iter(dirty))
            del dirty[name]
            service = self._table.build(name)
            before = self._published.get(name)
            if service is None:
                if before is not None:
                    del self._published[name]
                    removals.append(name)
            elif service != before:
                self._published[name] = service
                batch.append(service)
                work += len(service.endpoints)
            work += 1
            if work >= BITE:
                work = 0
                if batch:
                    self._sink.upsert(batch)
                    batch = []
                await trio.lowlevel.checkpoint()
        # A list of dead names must not outlive one that is back already.
        removals = [name for name in removals if name not in self._published]
        kept = self._table.unreadable()
        if kept != self._kept:
            self._kept = kept
            self._sink.keep(kept)
        if batch:
            self._sink.upsert(batch)
        if removals and not self._published:
            # Not one by one: that all services are gone at once is for the supervisor to judge.
            self._sink.replace([])
        elif removals:
            self._sink.remove(removals)
        if self._table.problems_changed:
            self._sink.problems(self._table.problems())

    async def synced(self) -> None:
        """All that the registry has is in the table, as of now."""
        await self.publish()
        self._sink.synced()
