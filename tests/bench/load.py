"""The load: wrk for requests, our own client for long bodies and idle connections.

Everything is bounded in time and count, goes to 127.0.0.1 and runs on the caller's core.
"""

import http.client
import selectors
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic, perf_counter

from bench.parse import WrkOutput, parse_wrk
from bench.scenarios import MIB, Scenario

STALL = 10.0  # seconds without a byte after which a load gives up
MAX_BYTES = 64 << 30  # that one connection may ask for


class LoadFailed(Exception):
    """The proxy did not answer as it must."""


def request_head(path: str, port: int, fields: tuple[tuple[str, str], ...] = ()) -> bytes:
    """A request as wrk writes it."""
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name}: {value}" for name, value in fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def probe(scenario: Scenario, port: int) -> None:
    """One request of the scenario; LoadFailed unless status and body length are right."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STALL)
    try:
        connection.request("GET", scenario.path, headers=dict(scenario.fields))
        answer = connection.getresponse()
        length = 0
        while chunk := answer.read(MIB):
            length += len(chunk)
    except (OSError, http.client.HTTPException) as error:
        raise LoadFailed(f"GET {scenario.path}: {error!r}") from None
    finally:
        connection.close()
    if (answer.status, length) != (200, scenario.size):
        raise LoadFailed(
            f"GET {scenario.path}: status {answer.status} and {length} bytes, "
            f"not 200 and {scenario.size}"
        )


def wrk_command(binary: str, scenario: Scenario, port: int, seconds: int) -> list[str]:
    fields = scenario.fields + ((("Connection", "close"),) if scenario.close else ())
    options = ["-t1", f"-c{scenario.connections}", f"-d{seconds}s", "--timeout", "5s", "--latency"]
    for name, value in fields:
        options += ["-H", f"{name}: {value}"]
    return [binary, *options, f"http://127.0.0.1:{port}{scenario.path}"]


def wrk(binary: str, scenario: Scenario, port: int, seconds: int) -> WrkOutput:
    command = wrk_command(binary, scenario, port, seconds)
    limit = seconds + 20
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"wrk did not end within {limit} s") from None
    try:
        return parse_wrk(ran.stdout)
    except ValueError as error:
        raise LoadFailed(f"wrk exit code {ran.returncode}: {error} {ran.stderr[:200]}") from None


@dataclass(slots=True)
class Transfer:
    bytes: int
    durations: list[float]  # microseconds from the request to the last byte of each body


class _Download:
    """One connection that asks for the same body again and again.

    The body is thrown away by the kernel (MSG_TRUNC), so that this client never is what limits
    the proxy.
    """

    def __init__(self, scenario: Scenario, port: int) -> None:
        self.size = scenario.size
        self.request = request_head(scenario.path, port)
        self.socket = socket.create_connection(("127.0.0.1", port), STALL)
        self.scratch = bytearray(MIB)
        self.head = b""
        self.left = 0
        self.asked = 0.0
        self.durations: list[float] = []

    def ask(self) -> None:
        self.asked = perf_counter()
        self.head = b""
        self.left = -1
        self.socket.sendall(self.request)

    def _read_head(self) -> int:
        data = self.socket.recv(65536)
        self.head += data
        end = self.head.find(b"\r\n\r\n")
        if end < 0:
            if not data or len(self.head) > 65536:
                raise LoadFailed("no whole response head")
            return 0
        status, *fields = self.head[:end].lower().split(b"\r\n")
        if not status.startswith(b"http/1.1 200"):
            raise LoadFailed(f"answered {status!r}")
        if b"content-length: %d" % self.size not in fields:
            raise LoadFailed(f"Content-Length is not {self.size}")
        received = len(self.head) - end - 4
        self.left = self.size - received
        return received

    def read(self) -> int:
        """Takes what has come; gives the number of body bytes."""
        if self.left < 0:
            received = self._read_head()
        else:
            most = min(self.left, MIB)
            received = self.socket.recv_into(self.scratch, most, socket.MSG_TRUNC)
            if not received:
                raise LoadFailed(f"the stream ended {self.left} bytes before its end")
            self.left -= received
        if self.left == 0:
            self.durations.append((perf_counter() - self.asked) * 1e6)
        return received


def download(scenario: Scenario, port: int, seconds: float) -> Transfer:
    """Whole bodies over a few connections; none is begun after `seconds` have passed."""
    total = 0
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        start = perf_counter()
        downloads = [_Download(scenario, port) for _ in range(scenario.connections)]
        for one in downloads:
            stack.enter_context(one.socket)
            one.ask()
            selector.register(one.socket, selectors.EVENT_READ, one)
        while selector.get_map():
            ready = selector.select(STALL)
            if not ready:
                raise LoadFailed(f"no byte for {STALL:.0f} s")
            for key, _ in ready:
                one = key.data
                total += one.read()
                if one.left == 0:
                    asked = len(one.durations) * scenario.size
                    if perf_counter() - start < seconds and asked < MAX_BYTES:
                        one.ask()
                    else:
                        selector.unregister(one.socket)
    return Transfer(total, [took for one in downloads for took in one.durations])


def _exchange(peer: socket.socket, request: bytes, size: int) -> None:
    peer.sendall(request)
    data = b""
    while True:
        received = peer.recv(65536)
        data += received
        end = data.find(b"\r\n\r\n")
        if end >= 0 and len(data) - end - 4 >= size:
            break
        if not received:
            raise LoadFailed(f"closed after {data[:60]!r}")
    if not data.startswith(b"HTTP/1.1 200"):
        raise LoadFailed(f"answered {data[:60]!r}")


@contextmanager
def idle_connections(scenario: Scenario, port: int, count: int) -> Iterator[None]:
    """Holds `count` connections which did one request each, and checks a sample before the end."""
    request = request_head(scenario.path, port)
    deadline = monotonic() + 60
    with ExitStack() as stack:
        held = []
        for number in range(count):
            if monotonic() > deadline:
                raise LoadFailed(f"only {number} connections in 60 s")
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), STALL))
            _exchange(peer, request, scenario.size)
            held.append(peer)
        yield
        for peer in held[:: max(1, count // 50)]:
            _exchange(peer, request, scenario.size)
