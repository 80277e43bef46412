"""Tells a sink which services of a table changed, in slices."""

from __future__ import annotations

from typing import Final

from registry.base import Sink
from registry.dirty import tell
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
        batch, removals = await tell(
            self._sink, self._table.dirty, self._table.build, self._published, BITE
        )
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
