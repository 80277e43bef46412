"""CPU and memory of a process with all its threads and children, and of its core."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from bench.parse import ProcessStat, parse_core_busy, parse_process_stat, parse_resident

TICK = 1 / os.sysconf("SC_CLK_TCK")


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """The caller, and whatever it starts inside, runs on `core` only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def process_stat(pid: int) -> ProcessStat | None:
    """None when the process has ended."""
    try:
        return parse_process_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None


def tree(pid: int) -> list[ProcessStat]:
    """The process and its descendants, parents first."""
    every = [process_stat(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    children: dict[int, list[ProcessStat]] = {}
    found: list[ProcessStat] = []
    for stat in every:
        if stat is not None:
            children.setdefault(stat.parent, []).append(stat)
            if stat.pid == pid:
                found.append(stat)
    for stat in found:  # grows while it is walked
        found.extend(children.get(stat.pid, ()))
    return found


def cpu_seconds(pid: int) -> float:
    """A child that ends meanwhile moves its time into its parent's `reaped_ticks`."""
    return sum(stat.ticks + stat.reaped_ticks for stat in tree(pid)) * TICK


def resident_bytes(pid: int) -> int:
    return sum(
        parse_resident(Path(f"/proc/{stat.pid}/smaps_rollup").read_text()) for stat in tree(pid)
    )


@dataclass(slots=True)
class Usage:
    """Filled in when its `with` block ends. All in seconds."""

    wall: float = 0.0
    cpu: float = 0.0
    foreign: float = 0.0  # what others took of the proxy's core


@contextmanager
def usage(pid: int, core: int) -> Iterator[Usage]:
    result = Usage()
    stat = Path("/proc/stat")
    busy, cpu, start = parse_core_busy(stat.read_text(), core), cpu_seconds(pid), perf_counter()
    yield result
    result.wall = perf_counter() - start
    result.cpu = cpu_seconds(pid) - cpu
    total = (parse_core_busy(stat.read_text(), core) - busy) * TICK
    result.foreign = max(0.0, total - result.cpu)
