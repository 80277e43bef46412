"""Where the demo plays, as far as it is the same everywhere; :mod:`nodeproxy.demo.places` has the
two places.

A stage starts and ends processes, writes the configuration, and asks the proxy as an operator
would, over its admin socket. It decides nothing about the story, and `close` leaves nothing
behind, from whatever state.
"""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

import msgspec

from nodeproxy.admin.client import AdminError, Client, NoDaemon
from nodeproxy.core.destination import host_port
from nodeproxy.demo.backend import split_address
from nodeproxy.demo.load import Done, Result
from nodeproxy.demo.processes import Span, first_line, kill, naming

__all__ = ["Address", "BackEnd", "Stage", "StageError"]

Address = tuple[str, int]
SERVICE: Final = "shop/web"
PORT: Final = 80
RATE: Final = 100
"""Requests per second of each client."""
TIMEOUT: Final = 5
"""Seconds a client waits. A SYN that the dead proxy's rules hold back is sent again after one
second and after two (older kernels: three)."""
_lines = msgspec.json.Decoder(Result | Done)


class StageError(Exception):
    """A process of the demo did not do what it had to; the text says which, and what it said."""


@dataclass(frozen=True)
class BackEnd:
    name: str
    place: str
    """Namespace (short name), or empty."""
    addresses: tuple[Address, ...]


class Stage(abc.ABC):
    """A place with clients, back ends and a proxy between them."""

    kind: Literal["root", "user"]
    clients: tuple[str, ...]
    host_client: str = ""
    """The client that is a process of the proxy's own node, if interception has one."""
    source: str = ""
    """Address of the client that is a pod."""
    vips: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.folder = _folder()
        self.backends: tuple[BackEnd, ...] = ()
        self.registered: tuple[BackEnd, ...] = ()
        """The back ends that the registry knows."""
        self.results: list[Result] = []
        """Appended to by the threads that read the clients' lines; never changed otherwise."""
        self.done: dict[str, Done] = {}
        self.proxy: subprocess.Popen[Any] | None = None
        """The proxy that ought to be running."""
        self._servers: dict[str, subprocess.Popen[Any]] = {}
        self._loads: dict[str, subprocess.Popen[Any]] = {}
        self._children: list[subprocess.Popen[Any]] = []
        self._readers: list[threading.Thread] = []
        self._logs: list[IO[bytes]] = []

    # -- what differs -----------------------------------------------------------------------

    @abc.abstractmethod
    def build(self) -> None:
        """Make the place."""

    @abc.abstractmethod
    def command(self, place: str, command: Sequence[str]) -> list[str]:
        """The argument list that runs a command at a place."""

    @abc.abstractmethod
    def describe_backends(self) -> tuple[BackEnd, ...]:
        """The back ends to start; port 0 where any free one will do."""

    @abc.abstractmethod
    def settings(self) -> str:
        """What nodeproxy.yaml says of this place."""

    @abc.abstractmethod
    def targets(self) -> tuple[Address, ...]:
        """What the clients dial."""

    @abc.abstractmethod
    def place_of(self, who: str) -> str:
        """Where a client, or the ``proxy``, runs."""

    @abc.abstractmethod
    def dismantle(self) -> None:
        """Remove the place. Called once the processes have ended, perhaps before ``build``."""

    @abc.abstractmethod
    def leftovers_of_place(self) -> list[str]:
        """What is still there after ``dismantle``, in words."""

    # -- back ends and registry ----------------------------------------------------------------

    def start_backends(self, check: Callable[[], None]) -> None:
        """Start them all, and register them. ``check`` is called while waiting."""
        started = []
        wanted = self.describe_backends()
        for backend in wanted:
            arguments = ["--name", backend.name, *map(host_port, backend.addresses)]
            self._servers[backend.name] = self._python(
                backend.place, "nodeproxy.demo.backend", arguments, f"{backend.name}.log"
            )
        for backend in wanted:
            line = first_line(self._servers[backend.name], check)
            if not line:
                raise StageError(
                    f"the back end {backend.name} did not start: {self._said(backend)}"
                )
            addresses = tuple(split_address(word) for word in line.split())
            started.append(BackEnd(backend.name, backend.place, addresses))
        self.backends = tuple(started)
        self.register(self.backends)

    def kill_backend(self, name: str) -> Span:
        return kill(self._servers[name])

    def register(self, backends: Iterable[BackEnd]) -> None:
        """Write services.yaml, as an orchestrator would: whole, and by renaming."""
        self.registered = tuple(backends)
        endpoints = [
            f"      - {{address: '{address}', port: {port}}}"
            for backend in self.registered
            for address, port in backend.addresses
        ]
        vips = ", ".join(f"'{vip}'" for vip in self.vips)
        lines = [
            "services:",
            f"  - name: {SERVICE}",
            *([f"    vips: [{vips}]"] if vips else []),
            "    ports:",
            f"      - {{name: http, port: {PORT}, protocol: http}}",
            "    endpoints:",
            *endpoints,
        ]
        new = self.folder / ".services.yaml.new"
        new.write_text("\n".join(lines) + "\n")
        new.rename(self.folder / "services.yaml")

    def owner(self, address: str) -> str:
        """The name of the back end that has an ``address:port``."""
        for backend in self.backends:
            if address in map(host_port, backend.addresses):
                return backend.name
        return address

    # -- the proxy -----------------------------------------------------------------------------

    @property
    def socket(self) -> Path:
        return self.folder / "admin.sock"

    def write_config(self) -> Path:
        """nodeproxy.yaml, for the proxy at this place."""
        config = self.folder / "nodeproxy.yaml"
        common = (
            "registries: [{kind: file, path: services.yaml}]\n"
            "state_dir: state\n"
            "admin: {socket: admin.sock}\n"
            "log: {format: console}\n"
            # An application dies on both of its addresses: that is 2 of 6 endpoints.
            "traffic: {outlier: {max_ejection_percent: 50}}\n"
        )
        config.write_text(self.settings() + common)
        return config

    def start_proxy(self) -> None:
        """Start it; it is ready when ``ready`` says so."""
        arguments = ["run", "--config", str(self.write_config())]
        self.proxy = self._python(
            self.place_of("proxy"), "nodeproxy.cli.main", arguments, "proxy.log", stdout=True
        )

    def ready(self) -> bool:
        try:
            with self.admin() as client:
                return client.ready().ok and client.status().pid == self.pid
        except AdminError:
            return False

    def kill_proxy(self) -> Span:
        assert self.proxy is not None
        proxy, self.proxy = self.proxy, None
        return kill(proxy)

    @property
    def pid(self) -> int:
        """Of the proxy; 0 while none was started."""
        return self.proxy.pid if self.proxy else 0

    def watch(self) -> None:
        """Raises StageError if something has ended that nobody had ended."""
        if self.proxy is not None and self.proxy.poll() is not None:
            raise StageError(f"the proxy ended with {self.proxy.returncode}")
        for name, child in self._loads.items():
            if child.poll():
                raise StageError(f"the client {name} ended with {child.returncode}")

    def admin(self) -> Client:
        return Client(self.socket, timeout=5)

    def cli(self, *arguments: str) -> str:
        """What a ``nodeproxy`` command prints."""
        done = subprocess.run(
            [sys.executable, "-m", "nodeproxy.cli.main", *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
            env=os.environ | {"NODEPROXY_SOCKET": str(self.socket), "NO_COLOR": "1"},
            start_new_session=True,
        )
        if done.returncode:
            words = (done.stderr or done.stdout).strip()
            raise StageError(f"nodeproxy {' '.join(arguments)}: exit {done.returncode}: {words}")
        return done.stdout

    def ejected(self) -> tuple[str, ...]:
        """``address:port`` of the endpoints that the proxy has taken out."""
        try:
            with self.admin() as client:
                return tuple(e.address for e in client.endpoints(SERVICE) if e.state == "ejected")
        except NoDaemon:
            return ()

    def known(self) -> set[str]:
        """``address:port`` of the endpoints that the proxy knows."""
        with self.admin() as client:
            return {e.address for e in client.endpoints(SERVICE)}

    def metric_lines(self, *starts: str) -> list[str]:
        """Lines of the exposition that begin with one of ``starts`` and count something."""
        with self.admin() as client:
            lines = b"".join(client.metrics()).decode().splitlines()
        return [
            line for line in lines if line.startswith(starts) and float(line.rpartition(" ")[2])
        ]

    def access_lines(self) -> list[str]:
        path = self.folder / "access.log"
        return path.read_text().splitlines() if path.exists() else []

    # -- clients -------------------------------------------------------------------------------

    def start_load(self) -> None:
        for name in self.clients:
            arguments = ["--name", name, f"--rate={RATE}", f"--timeout={TIMEOUT}"]
            arguments += map(host_port, self.targets())
            child = self._python(
                self.place_of(name), "nodeproxy.demo.load", arguments, f"{name}.log"
            )
            self._loads[name] = child
            reader = threading.Thread(target=self._read, args=(child.stdout,), daemon=True)
            reader.start()
            self._readers.append(reader)

    def stop_load(self) -> None:
        """Tell the clients to send no more. They have ended when ``load_ended``."""
        for child in self._loads.values():
            if child.stdin is not None and not child.stdin.closed:
                child.stdin.close()

    def load_ended(self) -> bool:
        return not any(reader.is_alive() for reader in self._readers)

    def _read(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            with contextlib.suppress(msgspec.DecodeError):  # cut off, as its process was ended
                value = _lines.decode(line)
                if isinstance(value, Result):
                    self.results.append(value)
                else:
                    self.done[value.client] = value

    # -- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """End everything and remove it, at once and for good."""
        # The proxy first, orderly, so that it can let its traffic go.
        for child in reversed(self._children):
            if child.stdin is not None:  # ends one that was started with SIGTERM ignored, too
                with contextlib.suppress(OSError):
                    child.stdin.close()
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + 3
        for child in reversed(self._children):
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for reader in self._readers:
            reader.join(1)
        for child in self._children:
            if child.stdout is not None:
                child.stdout.close()
        for log in self._logs:
            log.close()
        try:
            self.dismantle()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def leftovers(self) -> list[str]:
        """What the demo has left on this machine, in words, having looked; empty: nothing."""
        found = [f"process {c.pid}" for c in self._children if c.poll() is None]
        found += [f"process {pid}" for pid in naming(str(self.folder))]
        if self.folder.exists():
            found.append(f"folder {self.folder}")
        return found + self.leftovers_of_place()

    def keep_logs(self, folder: Path) -> None:
        """Copy what everything wrote; the clients' results as one file."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.is_file() and not path.name.startswith("."):
                shutil.copy(path, folder / path.name)
        lines = b"".join(msgspec.json.encode(result) + b"\n" for result in self.results)
        (folder / "requests.jsonl").write_bytes(lines)

    def tail(self, lines: int = 15) -> str:
        """The end of the proxy's log."""
        path = self.folder / "proxy.log"
        text = path.read_text(errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "(nothing)"

    def _said(self, backend: BackEnd) -> str:
        return (self.folder / f"{backend.name}.log").read_text(errors="replace").strip()

    def _python(
        self, place: str, module: str, arguments: Sequence[str], log: str, stdout: bool = False
    ) -> subprocess.Popen[Any]:
        """Start a module with what it says on stderr (and stdout) in a log file. A session of
        its own keeps the terminal's Ctrl-C from it: the demo ends it in its turn."""
        file = (self.folder / log).open("ab")
        self._logs.append(file)
        child = subprocess.Popen(
            self.command(place, [sys.executable, "-m", module, *arguments]),
            stdin=subprocess.DEVNULL if stdout else subprocess.PIPE,
            stdout=file if stdout else subprocess.PIPE,
            stderr=file,
            start_new_session=True,
        )
        self._children.append(child)
        return child


def _folder() -> Path:
    """A temporary folder whose path leaves room for the name of a unix socket (107 bytes)."""
    usual = tempfile.gettempdir()
    parent = usual if len(usual) < 70 else "/tmp"  # noqa: S108  # mkdtemp makes it ours alone
    return Path(tempfile.mkdtemp(prefix="nodeproxy-demo-", dir=parent))
