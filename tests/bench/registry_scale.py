"""How the file registry behaves at scale: ``python tests/bench/registry_scale.py``.

Writes 10,000 services with 100,000 endpoints as one YAML file, one JSON file and a folder of
files, runs the registry on each, and prints: time to load, the longest stall of the loop meanwhile
(a task that does nothing but a checkpoint and looks at the clock, and the same with a system call
that gives up the interpreter lock each time), memory of this process, and the time from a change
of one endpoint to the catalog that has it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog
import trio
import yaml

from registry.catalog import Catalog, Change
from registry.supervise import Registries, Spec


def services(count: int, endpoints: int) -> list[dict[str, Any]]:
    return [
        {
            "name": f"ns{i % 50}/service-{i}",
            "vips": [f"10.96.{i >> 8 & 255}.{i & 255}"],
            "ports": [{"name": "http", "port": 80, "protocol": "http"}],
            "endpoints": [
                {
                    "address": f"10.{128 + (i * endpoints + j >> 16)}"
                    f".{i * endpoints + j >> 8 & 255}.{i * endpoints + j & 255}",
                    "port": 8080,
                    "zone": f"zone-{j % 3}",
                }
                for j in range(endpoints)
            ],
        }
        for i in range(count)
    ]


def write(path: Path, value: Any) -> None:
    text = (
        yaml.dump(value, Dumper=yaml.CSafeDumper) if path.suffix == ".yaml" else json.dumps(value)
    )
    temporary = path.with_name(".new")
    temporary.write_text(text)
    temporary.replace(path)


def resident() -> float:
    """MB of memory in use by this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Stalls:
    """The longest time between two turns of a task that never waits for anything."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.over5 = 0
        self.longest_work = 0.0
        """The same in seconds of this thread's own CPU time: what remains on an idle machine."""

    def reset(self) -> None:
        self.longest = self.longest_work = 0.0
        self.over5 = 0

    async def measure(self) -> None:
        last, worked = time.perf_counter(), time.thread_time()
        fd = os.open("/dev/zero", os.O_RDONLY)
        try:
            while True:
                await trio.sleep(0.0005)
                os.read(fd, 1)
                now = time.perf_counter()
                took = now - last - 0.0005
                self.longest = max(self.longest, took)
                self.over5 += took > 0.005
                work = time.thread_time() - worked
                self.longest_work = max(self.longest_work, work)
                last, worked = time.perf_counter(), time.thread_time()
        finally:
            os.close(fd)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(120):
        while not condition():  # noqa: ASYNC110 - polls on purpose: it must not disturb
            await trio.sleep(0.001)


async def scenario(title: str, path: Path, new: Path, place: Path) -> None:
    """Load ``path``, then rename ``new``, where one endpoint is 10.250.0.1, to ``place``."""
    # What this script itself built is not part of a daemon; without this each full garbage
    # collection would walk it, 100 ms long.
    gc.collect()
    gc.freeze()
    before = resident()
    batches: list[int] = []

    def on_change(catalog: Catalog, changes: Sequence[Change]) -> None:
        batches.append(len(changes))

    registries = Registries(
        [Spec("file", "file", {"path": str(path)})],
        on_change=on_change,
        state_dir=path.parent / f"state-{path.name}",
        log=structlog.get_logger(),
    )
    stalls = Stalls()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stalls.measure)
        await trio.sleep(0.2)
        stalls.reset()
        begun = time.perf_counter()
        await nursery.start(registries.run)
        await registries.wait_synced()
        load = time.perf_counter() - begun
        (status,) = registries.statuses()
        loading = (
            f"longest stall {stalls.longest * 1e3:.1f} ms ({stalls.over5} over 5 ms), of own work"
            f" {stalls.longest_work * 1e3:.1f} ms"
        )
        stalls.reset()
        await trio.sleep(3)  # the file is looked at once more, the state is saved
        saving = stalls.longest
        gc.collect()
        memory = resident() - before
        await trio.sleep(0.1)
        stalls.reset()
        count = len(batches)
        begun = time.perf_counter()
        new.replace(place)  # noqa: ASYNC240 - a rename is the change that is measured
        await until(lambda: bool(registries.catalog.owners("10.250.0.1", 8080)))
        one = time.perf_counter() - begun
        child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
        print(
            f"{title}: {path_size(path):.1f} MB, {status.services} services,"
            f" {status.endpoints} endpoints\n"
            f"  load {load:.2f} s, {loading},"
            f" memory {memory:.0f} MB, largest slice {registries.largest_slice} units\n"
            f"  while the state is saved: longest stall {saving * 1e3:.1f} ms;"
            f" memory of the parsing child at most {child:.0f} MB\n"
            f"  one endpoint changed: in the catalog after {one * 1e3:.0f} ms,"
            f" {sum(batches[count:])} service published, longest stall"
            f" {stalls.longest * 1e3:.1f} ms ({stalls.over5} over 5 ms), of own work"
            f" {stalls.longest_work * 1e3:.1f} ms",
            flush=True,
        )
        nursery.cancel_scope.cancel()


def path_size(path: Path) -> float:
    files = [path] if path.is_file() else list(path.iterdir())
    return sum(file.stat().st_size for file in files) / 1e6


async def main(count: int, endpoints: int, only: str) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    value = {"services": services(count, endpoints)}
    target = value["services"][count // 2]["endpoints"][0]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        old = target["address"]
        for suffix in ("yaml", "json"):
            if only not in ("", suffix):
                continue
            path, new = root / f"services.{suffix}", root / f"new.{suffix}"
            target["address"] = old
            write(path, value)
            target["address"] = "10.250.0.1"
            write(new, value)
            await scenario(f"one {suffix.upper()} file", path, new, path)
        if only in ("", "folder"):
            target["address"] = old
            many = root / "many"
            many.mkdir()
            size = max(1, count // 100)
            for i in range(0, count, size):
                write(many / f"{i:06}.yaml", {"services": value["services"][i : i + size]})
            i = count // 2 // size * size
            target["address"] = "10.250.0.1"
            write(root / "new.yaml", {"services": value["services"][i : i + size]})
            await scenario("a folder of YAML files", many, root / "new.yaml", many / f"{i:06}.yaml")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10, help="of each service")
    parser.add_argument("--only", choices=["yaml", "json", "folder"], default="")
    given = parser.parse_args()
    sys.exit(trio.run(main, given.services, given.endpoints, given.only))
