"""Starting a proxy or back end on its core, and ending it, whatever happens in between."""

import os
import random
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

from bench.measure import pinned, process_stat, tree

START_TIMEOUT = 15.0
STOP_TIMEOUT = 5.0


class StartFailed(Exception):
    """The process ended, or did not listen in time; the text ends with its last output."""


def free_port() -> int:
    """A port below the ephemeral range, so that no outgoing connection takes it first."""
    for _ in range(1000):
        port = random.randrange(20000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("0.0.0.0", port))
            return port
    raise OSError("no free port between 20000 and 32000")


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _wait_ready(process: subprocess.Popen[bytes], ports: Sequence[int]) -> None:
    deadline = monotonic() + START_TIMEOUT
    while not all(map(_listens, ports)):
        if monotonic() > deadline:
            raise StartFailed(f"does not listen on {ports} after {START_TIMEOUT:.0f} s")
        with suppress(subprocess.TimeoutExpired):  # a pause that notices the end at once
            raise StartFailed(f"ended with exit code {process.wait(0.05)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    family = tree(process.pid)
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for member in family[1:]:
        now = process_stat(member.pid)
        if now is not None and now.started == member.started:
            with suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGKILL)


@contextmanager
def running(
    name: str, command: Sequence[str], *, core: int, directory: Path, ports: Sequence[int]
) -> Iterator[int]:
    """Starts `command` pinned to `core`, waits until it accepts on all `ports`, gives its pid.

    It must be called from the main thread: Envoy's binary asks for SIGTERM when the thread that
    started it ends. A session of its own keeps the terminal's Ctrl-C for the harness.
    """
    log = directory / f"{name}.log"
    with log.open("wb") as output, pinned(core):
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        try:
            _wait_ready(process, ports)
        except StartFailed as error:
            tail = log.read_text(errors="replace").strip()[-800:]
            raise StartFailed(f"{name} {error}\n{tail}") from None
        yield process.pid
    finally:
        _end(process)
