"""What the process itself costs, under the names that Prometheus' client libraries use.

Read from /proc at each scrape; see proc(5).
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nodeproxy import __version__
from nodeproxy.telemetry.families import Families
from nodeproxy.telemetry.metrics import Sample

__all__ = ["open_descriptors", "publish", "resident_bytes"]

TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGESIZE")


def publish(families: Families, proc: Path = Path("/proc")) -> None:
    """Have the process metrics and the build shown at each scrape."""
    stat = proc / "self" / "stat"

    def shown(read: Callable[[], float]) -> Callable[[], list[Sample]]:
        return lambda: [((), read())]

    # The start never changes; it is read now, so that a scrape need not.
    ticks = int(_fields(stat)[19])
    start = _boot_time(proc) + ticks / TICKS
    families.process_start.callback(shown(lambda: start))
    families.process_cpu.callback(shown(lambda: _cpu(stat)))
    families.process_virtual.callback(shown(lambda: float(_fields(stat)[20])))
    families.process_rss.callback(shown(lambda: resident_bytes(proc)))
    families.process_open_fds.callback(shown(lambda: open_descriptors(proc)))
    families.process_max_fds.callback(shown(_max_descriptors))
    build = ((__version__, platform.python_version()), 1)
    families.build_info.callback(lambda: [build])


def open_descriptors(proc: Path = Path("/proc")) -> int:
    """How many descriptors are open.

    Since Linux 6.2 the folder's size says so; before that it must be read, which takes
    some milliseconds at 10,000 connections.
    """
    folder = proc / "self" / "fd"
    return os.stat(folder).st_size or len(os.listdir(folder))


def resident_bytes(proc: Path = Path("/proc")) -> int:
    """Memory that is in RAM."""
    return int(_fields(proc / "self" / "stat")[21]) * PAGE


def _fields(stat: Path) -> list[str]:
    """The fields from the third on; the second, the name, may contain anything."""
    return stat.read_text().rpartition(")")[2].split()


def _cpu(stat: Path) -> float:
    fields = _fields(stat)
    return (int(fields[11]) + int(fields[12])) / TICKS


def _boot_time(proc: Path) -> int:
    for line in (proc / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    raise ValueError(f"no btime in {proc / 'stat'}")


def _max_descriptors() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else float(soft)
