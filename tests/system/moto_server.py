"""moto's server: a simulator of AWS in a process of its own, on loopback."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

DEADLINE = 60.0


class Moto:
    """Its state is gone when it is killed."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "moto.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        if self._process is not None:
            return
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            said = self._log.read_text(errors="replace")[-3000:]
            assert self._process.poll() is None, f"moto does not start: {said}"
            assert time.monotonic() < until, f"moto does not listen: {said}"
            time.sleep(0.02)  # noqa: TID251 - in a thread of the test

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
