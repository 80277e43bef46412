"""What tests/bench/registry_etcd.py and registry_zookeeper.py have in common."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
import trio

from registry.catalog import Catalog, Change
from registry.supervise import Registries, Spec
from tests.bench.registry_scale import Stalls, resident

__all__ = ["measure"]


async def measure(
    kind: str,
    options: dict[str, Any],
    endpoints: int,
    change: Callable[[int], Callable[[], object]],
    changes: int,
) -> None:
    """Load the registry, then write ``change(i)`` for each i, in a thread; it has to bring the
    address 10.250.HIGH.LOW of i, port 8080."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    gc.collect()
    gc.freeze()
    before = resident()
    news = trio.Event()

    def on_change(catalog: Catalog, changed: Sequence[Change]) -> None:
        nonlocal news
        news.set()
        news = trio.Event()

    async def until(condition: Callable[[], bool]) -> None:
        with trio.fail_after(300):
            while not condition():
                await news.wait()

    registries = Registries([Spec(kind, kind, options)], on_change=on_change)
    stalls = Stalls()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stalls.measure)
        await trio.sleep(0.2)
        stalls.reset()
        begun = time.perf_counter()
        await nursery.start(registries.run)
        await until(lambda: registries.statuses()[0].endpoints == endpoints)
        load = time.perf_counter() - begun
        (status,) = registries.statuses()
        print(
            f"{kind}: {status.services} services, {status.endpoints} endpoints: load {load:.2f} s,"
            f" longest stall {stalls.longest * 1e3:.1f} ms ({stalls.over5} over 5 ms), of own work"
            f" {stalls.longest_work * 1e3:.1f} ms, largest slice {registries.largest_slice} units,"
            f" memory {resident() - before:.0f} MB, problems {status.problems_total}",
            flush=True,
        )
        await registries.wait_synced()
        await trio.sleep(2)
        stalls.reset()
        took = []
        for i in range(changes):
            act = change(i)
            wanted = (f"10.250.{i >> 8}.{i & 255}", 8080)
            begun = time.perf_counter()
            await trio.to_thread.run_sync(act)
            await until(lambda wanted=wanted: bool(registries.catalog.owners(*wanted)))  # type: ignore[misc]
            took.append(time.perf_counter() - begun)
        took.sort()
        print(
            f"  {changes} changes, from the start of the write to the catalog: p50"
            f" {took[len(took) // 2] * 1e3:.1f} ms, p99 {took[len(took) * 99 // 100] * 1e3:.1f} ms,"
            f" longest {took[-1] * 1e3:.1f} ms; longest stall {stalls.longest * 1e3:.1f} ms"
            f" ({stalls.over5} over 5 ms), of own work {stalls.longest_work * 1e3:.1f} ms",
            flush=True,
        )
        nursery.cancel_scope.cancel()
