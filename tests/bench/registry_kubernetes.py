"""How the Kubernetes registry behaves at scale: ``python tests/bench/registry_kubernetes.py``.

An API server in a process of its own (tests/dataplane/kube_api.py) has 10,000 services with
100,000 endpoints in 20,000 slices. Printed are the time to load them, the longest stall of the
loop meanwhile and of its own work, memory, and the time from the server's write of one endpoint to
the catalog that has it.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import structlog
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from registry.catalog import Catalog, Change
from registry.supervise import Registries, Spec
from tests.bench.registry_scale import Stalls, resident
from tests.dataplane.kube_api import kube_api
from tests.dataplane.kube_objects import endpoint_object, service_object, slice_object


def address(number: int) -> str:
    return f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


async def serve(pipe: Connection, services: int, endpoints: int) -> None:
    """The API server's process: sends its port, then writes an endpoint for each message."""
    os.nice(5)
    half = max(1, endpoints // 2)
    async with kube_api() as api:
        for i in range(services):
            key = f"ns{i % 50}/service-{i}"
            api.write("services", key, service_object(f"10.96.{i >> 8 & 255}.{i & 255}"))
            for part in range(0, endpoints, half):
                found = slice_object(
                    f"service-{i}",
                    *(
                        endpoint_object(address(i * endpoints + j), zone=f"zone-{j % 3}")
                        for j in range(part, min(part + half, endpoints))
                    ),
                )
                api.write("endpointslices", f"{key}-{part}", found)
        api.compact()
        pipe.send(api.port)
        turn = 0
        while await trio.to_thread.run_sync(pipe.recv):
            turn += 1
            key = f"ns{services // 2 % 50}/service-{services // 2}"
            found = slice_object(f"service-{services // 2}", f"10.250.0.{turn}")
            begun = time.monotonic()
            api.write("endpointslices", f"{key}-new", found)
            pipe.send(begun)
        api.stop()


def server(pipe: Connection, services: int, endpoints: int) -> None:
    trio.run(serve, pipe, services, endpoints)


async def main(services: int, endpoints: int, events: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=server, args=(theirs, services, endpoints), daemon=True
    )
    process.start()
    port = await trio.to_thread.run_sync(ours.recv)
    gc.collect()
    gc.freeze()
    before = resident()
    news = trio.Event()

    def on_change(catalog: Catalog, changes: Sequence[Change]) -> None:
        news.set()

    registries = Registries(
        [Spec("kubernetes", "kubernetes", {"server": f"http://127.0.0.1:{port}"})],
        on_change=on_change,
        log=structlog.get_logger(),
    )
    stalls = Stalls()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stalls.measure)
        await trio.sleep(0.2)
        stalls.reset()
        begun, worked = time.perf_counter(), time.thread_time()
        await nursery.start(registries.run)
        await registries.wait_synced()
        took, work = time.perf_counter() - begun, time.thread_time() - worked
        (status,) = registries.statuses()
        print(
            f"{status.services} services, {status.endpoints} endpoints: loaded in {took:.2f} s"
            f" ({work:.2f} s of own work), longest stall {stalls.longest * 1e3:.1f} ms"
            f" ({stalls.over5} over 5 ms), of own work {stalls.longest_work * 1e3:.1f} ms,"
            f" memory {resident() - before:.0f} MB",
            flush=True,
        )
        if status.last_error:
            raise SystemExit(status.last_error)
        await trio.sleep(0.5)
        gc.collect()
        await trio.sleep(0.1)
        stalls.reset()
        times: list[float] = []
        for turn in range(1, events + 1):
            ours.send(True)
            written = await trio.to_thread.run_sync(ours.recv)
            with trio.fail_after(30):
                while not registries.catalog.owners(f"10.250.0.{turn}", 8080):
                    news = trio.Event()
                    await news.wait()
            times.append(time.monotonic() - written)
        times.sort()
        print(
            f"{events} events, one endpoint each: in the catalog after"
            f" {statistics.median(times) * 1e3:.1f} ms (median),"
            f" {times[int(len(times) * 0.99)] * 1e3:.1f} ms (p99); longest stall"
            f" {stalls.longest * 1e3:.1f} ms, of own work {stalls.longest_work * 1e3:.1f} ms"
        )
        nursery.cancel_scope.cancel()
    ours.send(False)
    process.join(10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10, help="of each service")
    parser.add_argument("--events", type=int, default=200, help="at most 250")
    given = parser.parse_args()
    trio.run(main, given.services, given.endpoints, given.events)
