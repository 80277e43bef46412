"""The daemon as operators have it: a process with a configuration, and the back ends and clients
around it. The fixtures over these stand in conftest.py."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import pytest

from nodeproxy.admin.client import Client
from nodeproxy.admin.views import ExplainQuery, RegistryView, StatusView
from nodeproxy.demo.lab import Lab

T = TypeVar("T")

PROGRAM = str(Path(sys.executable).with_name("nodeproxy"))
DEADLINE = 20.0
"""Seconds after which what should have happened has not. Nothing here measures time."""
CRASHES = ("Traceback", "crashed", '"exception"')
"""What no log of a daemon may contain."""


def eventually(condition: Callable[[], T], seconds: float = DEADLINE) -> T:
    """The first true value of ``condition``, which may raise AssertionError or OSError until
    then."""
    until = time.monotonic() + seconds
    while True:
        try:
            value = condition()
            if value:
                return value
            why: object = value
        except (AssertionError, OSError, http.client.HTTPException) as error:
            why = error
        if time.monotonic() > until:
            raise AssertionError(f"not so after {seconds:g} s: {why!r}")
        time.sleep(0.01)  # noqa: TID251 - polling in the test's process, which has no loop


# -- back ends and clients ------------------------------------------------------------------


class Backend:
    """An HTTP server that answers every path with its name; ``/held`` only when released, and
    ``/status/503`` with that status. It lives in threads of the test's process."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name = name
        self.host, self.port = sock.getsockname()[:2]
        self.seen: list[str] = []
        self.connections: set[socket.socket] = set()
        self.held = threading.Event()
        """Set while a request for /held waits."""
        self.released = threading.Event()
        sock.listen(128)
        sock.settimeout(None)
        self._sock = sock
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def close(self) -> None:
        """As if the process had died: no listener, connections reset or closed."""
        self.released.set()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        for connection in tuple(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE)
        self._sock.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._sock.accept()
            except OSError:
                return
            self.connections.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection, peer), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, peer: tuple[str, int]) -> None:
        try:
            with connection:
                _Handler(connection, peer, self)  # type: ignore[arg-type]
        except OSError:
            pass
        finally:
            self.connections.discard(connection)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    server: Any

    def do_GET(self) -> None:
        backend: Backend = self.server
        backend.seen.append(self.path)
        if self.path == "/held":
            backend.held.set()
            backend.released.wait(DEADLINE)
        status = int(self.path.rpartition("/")[2]) if "/status/" in self.path else 200
        body = backend.name.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Via", self.headers.get("Via", "-"))
        self.send_header("X-Peer", self.client_address[0])
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str

    @property
    def proxied(self) -> bool:
        """It came by the proxy, which names itself in Via."""
        return "nodeproxy" in self.headers.get("x-via", "") + self.headers.get("via", "")


Connect = Callable[[str, int, float], socket.socket]


def dial(address: str, port: int, timeout: float = 10.0) -> socket.socket:
    return socket.create_connection((address, port), timeout)


def dial_from(lab: Lab, ns: str) -> Connect:
    """Dials from a namespace."""

    def connect(address: str, port: int, timeout: float = 10.0) -> socket.socket:
        made = lab.socket(ns, socket.AF_INET6 if ":" in address else socket.AF_INET)
        made.settimeout(timeout)
        try:
            made.connect((address, port))
        except BaseException:
            made.close()
            raise
        return made

    return connect


class Caller:
    """A client with one keep-alive connection."""

    def __init__(
        self, address: str, port: int, connect: Connect = dial, timeout: float = 10.0
    ) -> None:
        self.sock = connect(address, port, timeout)
        self._http = http.client.HTTPConnection(address, port)
        self._http.sock = self.sock

    def send(self, path: str = "/", method: str = "GET") -> None:
        self._http.request(method, path)

    def answer(self) -> Answer:
        response = self._http.getresponse()
        body = response.read().decode()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, body)

    def ask(self, path: str = "/", method: str = "GET") -> Answer:
        self.send(path, method)
        return self.answer()

    def close(self) -> None:
        self._http.close()
        self.sock.close()


def ask(
    address: str, port: int, path: str = "/", connect: Connect = dial, timeout: float = 10.0
) -> Answer:
    """One request on a connection of its own. Raises OSError or HTTPException."""
    caller = Caller(address, port, connect, timeout)
    try:
        return caller.ask(path)
    finally:
        caller.close()


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


# -- the daemon -----------------------------------------------------------------------------


def service(
    name: str, endpoints: Sequence[Any], vips: Sequence[str] = (), port: int = 80, **more: Any
) -> dict[str, Any]:
    """A service in the file registry's short form."""
    declared = {"name": "http", "port": port, "protocol": "http"}
    return {
        "name": name,
        "vips": list(vips),
        "ports": [declared],
        "endpoints": [e.address if isinstance(e, Backend) else e for e in endpoints],
        **more,
    }


class Daemon:
    """One ``nodeproxy run`` in a folder, which holds its configuration, state, socket and log."""

    def __init__(self, folder: Path, wrap: Callable[[list[str]], list[str]] = list) -> None:
        self.folder = folder
        self.wrap = wrap
        """Puts the command into a namespace, or gives it other rights."""
        self.socket = folder / "admin.sock"
        self.log_path = folder / "log"
        self.services_path = folder / "services.yaml"
        self.metrics_port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.config: dict[str, Any] = {
            "node": {"name": "node-a"},
            "interception": {"mode": "none"},
            "registries": [{"kind": "file", "path": "services.yaml"}],
            "state_dir": "state",
            "admin": {"socket": "admin.sock"},
            "telemetry": {"metrics": f"127.0.0.1:{self.metrics_port}"},
        }

    def configure(self, **sections: Any) -> None:
        """Replace whole sections of the configuration."""
        self.config |= sections
        (self.folder / "nodeproxy.yaml").write_text(json.dumps(self.config, indent=1))

    def listen(self, name: str, port: int = 80, address: str = "127.0.0.1") -> int:
        """Add an explicit listener; its port."""
        number = free_port(address)
        host = f"[{address}]" if ":" in address else address
        self.config.setdefault("listeners", []).append(
            {"bind": f"{host}:{number}", "service": name, "port": port}
        )
        return number

    def serve(self, *services: dict[str, Any]) -> None:
        """Replace the services file as docs/operations.md says."""
        self.replace(json.dumps({"services": list(services)}, indent=1))

    def replace(self, text: str) -> None:
        beside = self.folder / "services.new"
        beside.write_text(text)
        beside.replace(self.services_path)

    def command(self) -> list[str]:
        return self.wrap([PROGRAM, "run", "--config", str(self.folder / "nodeproxy.yaml")])

    def begin(self, *, stderr: int | IO[bytes] | None = None, **options: Any) -> None:
        """Start the process; :meth:`start` also waits until it is ready."""
        self.configure()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log if stderr is None else stderr,
                **options,
            )

    def start(self, **options: Any) -> None:
        self.begin(**options)
        self.wait_ready()

    def wait_ready(self) -> StatusView:
        def ready() -> StatusView | None:
            code = self.running.poll()
            if code is not None:
                pytest.fail(f"the daemon ended with {code}:\n{self.log_path.read_text()}")
            status = self.status()
            return status if status.ready else None

        return eventually(ready, 30)

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def refusal(self, **options: Any) -> tuple[int, str]:
        """Start one that is to end by itself: its exit code and what it printed."""
        self.configure()
        ran = subprocess.run(
            self.command(), capture_output=True, text=True, timeout=30, check=False, **options
        )
        return ran.returncode, ran.stderr

    def signal(self, number: int) -> None:
        self.running.send_signal(number)

    def wait(self, seconds: float = DEADLINE) -> int:
        return self.running.wait(seconds)

    def stop(self) -> int:
        """In order; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def end(self) -> None:
        """However it is, end it; fail if it had crashed."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                self.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        log = self.log_path.read_text() if self.log_path.exists() else ""
        assert not any(word in log for word in CRASHES), log

    # -- what it says

    def client(self) -> Client:
        return Client(self.socket, timeout=10)

    def status(self) -> StatusView:
        try:
            with self.client() as client:
                return client.status()
        except Exception as error:
            raise AssertionError(str(error)) from error

    def registry(self) -> RegistryView:
        return self.status().registries[0]

    def explain(self, url: str, host: str, port: int, source: str = "") -> Any:
        with self.client() as client:
            return client.explain(ExplainQuery("GET", url, "http", host, port, "/", (), source))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of this name that have these labels."""
        total = 0.0
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        with self.client() as client:
            text = b"".join(client.metrics()).decode()
        for line in text.splitlines():
            full, _, value = line.rpartition(" ")
            if full.partition("{")[0] == name and all(want in full for want in wanted):
                total += float(value)
        return total

    def log(self, event: str = "") -> list[dict[str, Any]]:
        """The daemon's log and the access log, as far as it is complete; of one event."""
        lines = []
        for line in self.log_path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return [line for line in lines if not event or line.get("event") == event]

    def cli(self, *args: str, wrap: bool = False) -> subprocess.CompletedProcess[str]:
        """A command of ours as a process, with this daemon's socket."""
        command = [PROGRAM, "--socket", str(self.socket), *args]
        return subprocess.run(
            self.wrap(command) if wrap else command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"COLUMNS": "200"},
        )
