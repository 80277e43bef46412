"""Building the services that something touched, in slices: shared by back ends that keep a table
of what a registry has and publish what changed in it."""

from __future__ import annotations

from collections.abc import Callable

import trio

from registry.base import Sink
from registry.model import Service

__all__ = ["tell"]


async def tell(
    sink: Sink,
    dirty: dict[str, None],
    build: Callable[[str], Service | None],
    published: dict[str, Service],
    bite: int,
) -> tuple[list[Service], list[str]]:
    """Build every service named in ``dirty``, which may grow meanwhile, and tell the sink of those
    that differ from ``published``.

    Lets the loop go on after each ``bite`` of services and endpoints. Returns what is left to
    tell: the services of the last slice, and the names that are gone.
    """
    removals: list[str] = []
    batch: list[Service] = []
    work = 0
    while dirty:
        name = next(iter(dirty))
        del dirty[name]
        service = build(name)
        before = published.get(name)
        if service is None:
            if before is not None:
                del published[name]
                removals.append(name)
        elif service != before:
            published[name] = service
            batch.append(service)
            work += len(service.endpoints)
        work += 1
        if work >= bite:
            work = 0
            if batch:
                sink.upsert(batch)
                batch = []
            await trio.lowlevel.checkpoint()
    return batch, removals
