"""A real ZooKeeper on loopback, and hands on its nodes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from kazoo.client import KazooClient

DEADLINE = 30.0
JAR = "/usr/share/java/zookeeper.jar"
POLL = 0.02


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


class ZookeeperServer:
    """One server, or one of an ensemble. It may be started, stopped, killed, frozen and started
    again."""

    def __init__(
        self,
        folder: Path,
        *,
        identity: int = 1,
        ensemble: Sequence[tuple[int, int]] = (),
        heap: str = "128m",
    ) -> None:
        """``ensemble``: two ports for each server; empty for one that stands alone."""
        self.folder = folder / str(identity)
        self.folder.mkdir(parents=True)
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self._identity = identity
        self._heap = heap
        lines = [
            "tickTime=500",
            f"dataDir={self.folder}/data",
            f"clientPort={self.port}",
            "clientPortAddress=127.0.0.1",
            "admin.enableServer=false",
            "4lw.commands.whitelist=ruok,srvr",
            "maxClientCnxns=0",
            "forceSync=no",
        ]
        if ensemble:
            lines += ["initLimit=20", "syncLimit=20"]
            lines += [
                f"server.{i}=127.0.0.1:{one}:{two}" for i, (one, two) in enumerate(ensemble, 1)
            ]
        (self.folder / "zoo.cfg").write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    # --- the process ---

    def begin(self) -> None:
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "data" / "myid").write_text(f"{self._identity}\n")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "java",
                    f"-Xmx{self._heap}",
                    "-XX:TieredStopAtLevel=1",
                    # Without it its fsync of an empty disk would be most of the time.
                    "-Dzookeeper.forceSync=no",
                    *("-cp", f"{self.folder}:{JAR}"),
                    "org.apache.zookeeper.server.quorum.QuorumPeerMain",
                    str(self.folder / "zoo.cfg"),
                ],
                stdout=log,
                stderr=log,
            )

    def start(self) -> None:
        self.begin()
        self.wait()

    def wait(self) -> None:
        """Until it serves."""
        end = time.monotonic() + DEADLINE
        while not self._serves():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError((self.folder / "log").read_text()[-3000:])
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(POLL)

    def _serves(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as sock:
                sock.sendall(b"srvr")
                return b"Mode:" in sock.recv(4096)
        except OSError:
            return False

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, number)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """In order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(number)
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def wipe(self) -> None:
        """A stopped server loses its data."""
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def close(self) -> None:
        self.kill()

    # --- its nodes ---

    @contextlib.contextmanager
    def hands(self) -> contextlib.AbstractContextManager[KazooClient]:  # type: ignore[misc]
        """A client of its own."""
        client = KazooClient(self.address, timeout=20)
        client.start(DEADLINE)
        try:
            yield client
        finally:
            client.stop()
            client.close()
