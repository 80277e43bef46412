"""Small things to do with processes: to end one at once, hear its first word, find survivors."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Span", "birth", "first_line", "in_namespaces", "kill", "naming"]


class Span(NamedTuple):
    """From the moment a process was told to end until it was seen to be gone."""

    began: float
    ended: float


def kill(process: subprocess.Popen[Any]) -> Span:
    """kill -9. When it has been waited for, the kernel has closed its sockets."""
    began = time.monotonic()
    process.send_signal(signal.SIGKILL)
    process.wait()
    return Span(began, time.monotonic())


def first_line(process: subprocess.Popen[Any], check: Callable[[], None]) -> str:
    """What it prints first; empty if it ends without a word."""
    found: list[bytes] = []
    pipe = process.stdout
    assert pipe is not None
    reader = threading.Thread(target=lambda: found.append(pipe.readline()), daemon=True)
    reader.start()
    deadline = time.monotonic() + 20
    while reader.is_alive() and time.monotonic() < deadline:
        check()
        reader.join(0.05)
    return found[0].decode().strip() if found else ""


def birth(pid: int) -> str:
    """When a process was started, as the kernel counts. OSError if it is gone."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text.rpartition(")")[2].split()[19]


def naming(text: str) -> list[int]:
    """Processes with ``text`` in their command line, except this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text.encode() in path.read_bytes() and int(path.parts[2]) != os.getpid():
                found.append(int(path.parts[2]))
    return found


def in_namespaces(inodes: set[int]) -> set[tuple[int, str]]:
    """Processes in these network namespaces, each with its birth."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            if path.stat().st_ino in inodes:
                pid = int(path.parts[2])
                found.add((pid, birth(pid)))
    return found
