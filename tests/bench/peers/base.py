"""What every proxy under test is told, and what it must tell."""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Three addresses of one back end: every proxy has something to balance.
ENDPOINTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a proxy listens (always 127.0.0.1), and what stands behind it."""

    directory: Path
    http_port: int
    tcp_port: int
    metrics_port: int
    endpoint_port: int
    max_connections: int  # what the limit of open files allows a proxy with two sockets each
    endpoints: tuple[str, ...] = ENDPOINTS


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy: `files` and `command` are pure, `binary` and `tcp` look at this machine."""

    name: str
    install: str  # what to install when `binary` finds nothing
    binary: Callable[[], str | None]
    version: Callable[[str], str]
    files: Callable[[Site], dict[str, str]]  # file name -> text, to be written to site.directory
    command: Callable[[str, Site], list[str]]
    tcp: Callable[[], str | None] = lambda: None  # None: it relays TCP; else what is missing


def daemon(name: str) -> str | None:
    """A program of /usr/sbin, which is not in everybody's PATH."""
    return shutil.which(name) or shutil.which(f"/usr/sbin/{name}")


def first_version(*command: str) -> str:
    """The first dotted number that a `--version` command prints."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    found = re.search(r"\d+\.\d+[\w.+-]*", ran.stdout + ran.stderr)
    return found[0].rstrip(".") if found else "unknown"
