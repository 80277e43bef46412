"""The process metrics, from a /proc of our own and from the real one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nodeproxy import __version__
from nodeproxy.telemetry import process
from nodeproxy.telemetry.families import Families
from nodeproxy.telemetry.metrics import Metrics


def shown(proc: Path) -> dict[str, str]:
    metrics = Metrics()
    process.publish(Families(metrics), proc)
    lines = b"".join(metrics.render()).decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_fields_are_found_behind_any_name(tmp_path: Path):
    (tmp_path / "self" / "fd").mkdir(parents=True)
    (tmp_path / "stat").write_text("cpu 1 2 3\nbtime 1700000000\nprocesses 7\n")
    fields = ["S", *map(str, range(4, 53))]
    (tmp_path / "self" / "stat").write_text(f"12 (a ) (b) {' '.join(fields)}\n")
    found = shown(tmp_path)
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGESIZE")
    assert float(found["process_cpu_seconds_total"]) == (14 + 15) / tick
    assert float(found["process_start_time_seconds"]) == 1700000000 + 22 / tick
    assert float(found["process_virtual_memory_bytes"]) == 23
    assert float(found["process_resident_memory_bytes"]) == 24 * page


def test_the_real_process():
    found = shown(Path("/proc"))
    assert 0 < time.time() - float(found["process_start_time_seconds"]) < 86400
    assert float(found["process_resident_memory_bytes"]) > 1 << 20
    assert float(found["process_cpu_seconds_total"]) > 0
    assert any(name.startswith("nodeproxy_build_info") and __version__ in name for name in found)


def test_open_descriptors_follow_what_is_opened():
    before = process.open_descriptors()
    extra = [os.dup(0) for _ in range(5)]
    assert process.open_descriptors() - before == 5
    for fd in extra:
        os.close(fd)


def test_a_proc_without_boot_time(tmp_path: Path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "stat").write_text("1 (x) S" + " 0" * 50)
    (tmp_path / "stat").write_text("cpu 1\n")
    with pytest.raises(ValueError, match="no btime"):
        shown(tmp_path)
