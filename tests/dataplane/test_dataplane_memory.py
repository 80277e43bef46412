"""What an idle connection costs, measured from outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("idle_connections.py")


def start(*args: Any):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROGRAM.parents[2],
        env={"PYTHONPATH": str(PROGRAM.parents[2]), "PATH": "/usr/bin:/bin"},
    )


def say(process: Any, text: Any):
    process.stdin.write(text + "\n")
    process.stdin.flush()


def resident(process: Any):
    """Bytes of anonymous memory in RAM."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


@pytest.mark.parametrize(
    ("protocol", "count", "limit"), [("http", 10_000, 1536), ("tcp", 3_000, 6144)]
)
def test_an_idle_connection_costs_little(
    protocol: Any, count: Any, limit: Any, record_property: Any
):
    load = start("load", str(count))
    proxy = None
    try:
        proxy = start("proxy", load.stdout.readline().strip(), protocol)
        say(load, proxy.stdout.readline().strip())
        assert load.stdout.readline() == "warm\n"
        before = resident(proxy)
        say(load, "go")
        assert load.stdout.readline() == "idle\n"
        each = (resident(proxy) - before) / count
        record_property("bytes_per_connection", round(each))
        print(f"{protocol}: {each:.0f} bytes per idle connection")
        assert each <= limit
    finally:
        for process in (load, proxy):
            if process is not None:
                process.kill()
                process.communicate()
