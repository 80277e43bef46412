"""The daemon at scale: ``python tests/bench/daemon_scale.py [--services N] [--endpoints N]``.

With ``--intercept`` (root) the node stands in a network namespace and programs the kernel, too.

Starts ``nodeproxy run`` with explicit listeners on a services file of 10,000 services with
100,000 endpoints, while a client sends requests all the time, and prints: time to ready, the
longest stall of the loop (as the daemon measures it, and as the client feels it), memory, time
from a change of one endpoint in the file to the first request on the new endpoint, and how the
file is loaded a second time into the running daemon. Stalls are wall-clock time, so on a busy
machine they count what others took: the time for which the daemon's thread was ready to run and
had no CPU stands beside them. Without ``--intercept`` no root, loopback only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nodeproxy.admin.client import AdminError, Client
from nodeproxy.admin.views import StatusView
from nodeproxy.demo.lab import Lab

SOCKET_FILE = "admin.sock"


class Answers(threading.Thread):
    """A back end that answers each request with its name, over and over."""

    def __init__(self, name: str, lab: Lab | None) -> None:
        super().__init__(daemon=True)
        body = name.encode()
        self._answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        self._sock = socket.socket() if lab is None else lab.socket("node1")
        self._sock.bind(("127.0.0.1", 0))
        self._sock.listen(64)
        self.port = int(self._sock.getsockname()[1])
        self.start()

    def run(self) -> None:
        while True:
            connection, _ = self._sock.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while connection.recv(65536):
                connection.sendall(self._answer)


class Requests(threading.Thread):
    """A client on one keep-alive connection; the time that each request took."""

    def __init__(self, port: int, lab: Lab | None, pause: float = 0.001) -> None:
        super().__init__(daemon=True)
        self._sock = socket.socket() if lab is None else lab.socket("node1")
        self._sock.connect(("127.0.0.1", port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pause = pause
        self._end = threading.Event()
        self.times: list[float] = []
        self.last = b""
        self.start()

    def run(self) -> None:
        while not self._end.wait(self._pause):
            began = time.perf_counter()
            self._sock.sendall(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
            answer = self._sock.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the proxy answered {answer[:100]!r}")
            self.times.append(time.perf_counter() - began)
            self.last = answer.rpartition(b"\r\n\r\n")[2]

    def stop(self) -> list[float]:
        self._end.set()
        self.join(10)
        self._sock.close()
        return self.times


class Node:
    """The daemon in a folder of its own."""

    def __init__(self, folder: Path, port: int, lab: Lab | None = None) -> None:
        self.folder = folder
        self.port = port
        self.lab = lab
        interception: dict[str, Any] = {"mode": "none"}
        if lab is not None:
            interception = {"mode": "iptables", "vip_cidrs": ["10.96.0.0/16"]}
        (folder / "nodeproxy.yaml").write_text(
            json.dumps(
                {
                    "interception": interception,
                    "listeners": [{"bind": f"127.0.0.1:{port}", "service": "shop/web", "port": 80}],
                    "registries": [{"kind": "file", "path": "services.json"}],
                    "state_dir": "state",
                    "admin": {"socket": SOCKET_FILE},
                    "telemetry": {"metrics": "off"},
                }
            )
        )

    def write(self, services: list[dict[str, Any]]) -> None:
        beside = self.folder / "services.new"
        beside.write_text(json.dumps({"services": services}))
        beside.replace(self.folder / "services.json")

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        program = Path(sys.executable).with_name("nodeproxy")
        command = [str(program), "run", "--config", str(self.folder / "nodeproxy.yaml")]
        if self.lab is not None:
            command = self.lab.command("node1", *command)
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)

    def status(self) -> StatusView:
        with Client(self.folder / SOCKET_FILE) as client:
            return client.status()

    def until(self, condition: Any, seconds: float = 120) -> StatusView:
        end = time.perf_counter() + seconds
        while True:
            with contextlib.suppress(AdminError):
                status = self.status()
                if condition(status):
                    return status
            if time.perf_counter() > end:
                raise RuntimeError("it did not come to that; see the log")
            time.sleep(0.02)  # noqa: TID251 - this process has no loop


def services(count: int, endpoints: int, web: list[int], generation: int) -> list[dict[str, Any]]:
    """``count`` services of ``endpoints`` endpoints each; the first one is really there."""
    made: list[dict[str, Any]] = [
        {
            "name": "shop/web",
            "vips": ["10.96.255.1"],
            "ports": [{"port": 80, "protocol": "http"}],
            "endpoints": [f"127.0.0.1:{port}" for port in web],
        }
    ]
    for i in range(count - 1):
        first = i * endpoints + generation
        made.append(
            {
                "name": f"ns{i % 50}/service-{i}",
                "vips": [f"10.96.{i >> 8 & 255}.{i & 255}"],
                "ports": [{"port": 80, "protocol": "http"}],
                "endpoints": [
                    f"10.{128 + (n >> 16)}.{n >> 8 & 255}.{n & 255}:8080"
                    for n in range(first, first + endpoints)
                ],
            }
        )
    return made


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def line(what: str, value: str) -> None:
    print(f"{what:<62} {value:>12}", flush=True)


def felt(times: list[float]) -> str:
    return f"{max(times) * 1000:.1f} ms" if times else "none sent"


def measure(folder: Path, count: int, endpoints: int, rounds: int, lab: Lab | None) -> None:
    old, new = Answers("old", lab), Answers("new", lab)
    node = Node(folder, free_port(), lab)

    node.write(services(count, endpoints, [old.port], 0))
    began = time.perf_counter()
    with node.running() as process:
        node.until(lambda s: s.ready)
        line("empty state: time to ready", f"{time.perf_counter() - began:.2f} s")
        state = folder / "state" / "registry-file.state"
        node.until(lambda _: state.exists())
        status = node.status()
        line("  longest stall of the loop meanwhile", stall(status))
        line("  time ready to run without a CPU, in all", without_cpu(process.pid))
        line("  resident set", f"{status.loop.memory_bytes / 1e6:.0f} MB")

    began = time.perf_counter()
    with node.running() as process:
        node.until(lambda s: s.ready)
        line("state on disk: time to ready", f"{time.perf_counter() - began:.2f} s")
        node.until(lambda s: s.registries[0].state == "synced")
        line("  until the registry has answered", f"{time.perf_counter() - began:.2f} s")
        line("  longest stall of the loop meanwhile", stall(node.status()))
        line("  time ready to run without a CPU, in all", without_cpu(process.pid))

        client = Requests(node.port, lab)
        waits = []
        for _ in range(rounds):
            for backend in (new, old):
                text = services(count, endpoints, [backend.port], 0)
                node.write(text)
                began = time.perf_counter()
                name = b"new" if backend is new else b"old"
                while client.last != name:
                    time.sleep(0.001)  # noqa: TID251 - this process has no loop
                waits.append(time.perf_counter() - began)
        times = client.stop()
        line(
            "one endpoint changed: file to first request, median",
            f"{statistics.median(waits) * 1000:.0f} ms",
        )
        line("  the longest of them", f"{max(waits) * 1000:.0f} ms")
        line("  longest request meanwhile, as the client felt it", felt(times))

        client = Requests(node.port, lab)
        cpu = cpu_seconds(process.pid)
        generation = node.status().generation
        began = time.perf_counter()
        node.write(services(count, endpoints, [old.port], 1))
        status = node.until(
            lambda s: s.generation > generation and s.registries[0].state == "synced"
            and (s.registries[0].age_seconds or 0) < time.perf_counter() - began
        )  # fmt: skip
        took = time.perf_counter() - began
        times = client.stop()
        line("every endpoint changed: time until all are in use", f"{took:.2f} s")
        line("  CPU of the daemon for it", f"{cpu_seconds(process.pid) - cpu:.2f} s")
        line("  longest request meanwhile, as the client felt it", felt(times))
        line("longest stall of the loop since the start", stall(node.status()))
        line("time ready to run without a CPU, in all", without_cpu(process.pid))
        line("resident set", f"{node.status().loop.memory_bytes / 1e6:.0f} MB")


def stall(status: StatusView) -> str:
    return f"{status.loop.worst_stall_seconds * 1000:.1f} ms"


def without_cpu(pid: int) -> str:
    """For how long the main thread was ready to run and another one ran, since its start."""
    waited = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]
    return f"{int(waited) / 1e6:.0f} ms"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10, help="of each service")
    parser.add_argument("--rounds", type=int, default=5, help="changes of one endpoint, twice")
    parser.add_argument("--intercept", action="store_true", help="with the kernel (root)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab(nodes=1, pods=1)) if given.intercept else None
        measure(Path(folder), given.services, given.endpoints, given.rounds, lab)


if __name__ == "__main__":
    main()
