"""A proxy in process, scripted back ends and raw clients, all on loopback.

Nothing here waits for time to pass: what shall come true is awaited with a deadline.
"""

from __future__ import annotations

import gc
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import pytest
import trio

from nodeproxy.core.policy import Policy
from nodeproxy.core.record import Record
from nodeproxy.dataplane.lane import Lane, LaneGroup
from nodeproxy.dataplane.listener import listen
from nodeproxy.dataplane.node import Node
from nodeproxy.dataplane.pump import Pipe
from nodeproxy.dataplane.reactor import Reactor
from nodeproxy.dataplane.settings import Settings
from nodeproxy.dataplane.stream import CLIENT, UPSTREAM, Faults, Stream
from nodeproxy.dataplane.upstream import Upstream
from nodeproxy.telemetry.accesslog import AccessLog, AccessLogSettings
from nodeproxy.telemetry.families import Families
from nodeproxy.telemetry.metrics import Metrics
from registry.catalog import Merger
from registry.model import Endpoint, Port, Protocol, Service

PATIENCE = 15.0
"""Seconds until something that must come true is given up."""
NAME = "test/web"


def open_descriptors() -> set[str]:
    """What this process holds open, but for what the interpreter opens at times."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Let others run until ``condition`` holds. Fails after PATIENCE seconds."""
    with trio.move_on_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 (it is about anything, not an event of ours)
            await trio.sleep(0.002)
        return
    raise AssertionError(f"never came true: {what or condition}")


class Talk:
    """A raw connection, of a client or of a back end: what is sent and read is exact."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self.data = b""
        """Bytes that were read and not yet taken."""
        self.refused = False
        """It was reset before we knew that it was accepted."""

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        with trio.fail_after(PATIENCE), memoryview(data) as left:
            while left:
                left = left[await self.sock.send(left) :]

    async def trickle(self, data: bytes, turns: int = 3) -> None:
        """One byte at a time, others running between."""
        for byte in data:
            await self.send(bytes([byte]))
            for _ in range(turns):
                await trio.lowlevel.checkpoint()

    async def some(self, limit: int = 65536) -> bytes:
        """What comes next: bytes, or b"" at the end."""
        if self.data:
            data, self.data = self.data[:limit], self.data[limit:]
            return data
        with trio.fail_after(PATIENCE):
            return await self.sock.recv(limit)

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and with ``mark``."""
        while mark not in self.data:
            with trio.fail_after(PATIENCE):
                more = await self.sock.recv(65536)
            assert more, f"ended before {mark!r}: {self.data!r}"
            self.data += more
        end = self.data.index(mark) + len(mark)
        data, self.data = self.data[:end], self.data[end:]
        return data

    async def exactly(self, size: int) -> bytes:
        parts = [self.data[:size]]
        self.data = self.data[size:]
        left = size - len(parts[0])
        while left:
            with trio.fail_after(PATIENCE):
                more = await self.sock.recv(min(left, 1 << 20))
            assert more, f"ended {left} bytes too early"
            parts.append(more)
            left -= len(more)
        return b"".join(parts)

    async def rest(self) -> bytes:
        """Everything to the orderly end."""
        data, self.data = [self.data], b""
        with trio.fail_after(PATIENCE):
            while more := await self.sock.recv(65536):
                data.append(more)
        return b"".join(data)

    async def head(self) -> tuple[bytes, dict[bytes, bytes]]:
        """A head's first line, and its fields with lower-case names."""
        lines = (await self.until(b"\r\n\r\n"))[:-4].split(b"\r\n")
        pairs = (line.split(b":", 1) for line in lines[1:])
        return lines[0], {name.lower(): value.strip() for name, value in pairs}

    async def request(self) -> tuple[bytes, dict[bytes, bytes]]:
        return await self.head()

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, fields and body (by Content-Length, chunked as it came, or to the end)."""
        line, fields = await self.head()
        status = int(line.split()[1])
        if status in (204, 304) or status < 200:
            return status, fields, b""
        if b"content-length" in fields:
            return status, fields, await self.exactly(int(fields[b"content-length"]))
        if b"transfer-encoding" in fields:
            return status, fields, await self.until(b"0\r\n\r\n")
        return status, fields, await self.rest()

    async def is_reset(self) -> bool:
        """Read to the end. Whether that was a reset."""
        if self.refused:
            return True
        try:
            await self.rest()
        except ConnectionResetError:
            return True
        return False

    def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        if self.sock.fileno() < 0:
            return
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


Script = Callable[[Talk], Awaitable[None]]


class Backend:
    """A listening socket whose connections are each handled by ``script``."""

    def __init__(self, script: Script, sock: socket.socket) -> None:
        self.script = script
        self.sock = trio.socket.from_stdlib_socket(sock)
        self.address: tuple[str, int] = sock.getsockname()[:2]
        self.endpoint = Endpoint(*self.address)
        self.accepted = 0
        self.open: set[Talk] = set()

    async def run(self, nursery: trio.Nursery) -> None:
        with suppress(OSError, trio.ClosedResourceError):  # the end of die()
            while True:
                sock, _ = await self.sock.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.accepted += 1
                nursery.start_soon(self._serve, Talk(sock))

    async def _serve(self, talk: Talk) -> None:
        self.open.add(talk)
        try:
            await self.script(talk)
        except (OSError, AssertionError, trio.ClosedResourceError):
            pass  # what the proxy does to a back end is checked at the client or by the script
        finally:
            self.open.discard(talk)
            talk.close()

    def die(self) -> None:
        """Stop listening and reset all connections, as a killed process does."""
        self.sock.close()
        for talk in list(self.open):
            talk.reset()


class Harness:
    """A Reactor and a Node under trio, with what is needed to look into them."""

    def __init__(self, nursery: trio.Nursery, settings: Settings) -> None:
        self.nursery = nursery
        self.crashes: list[BaseException] = []
        self.records: list[Record] = []
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.reactor = Reactor()
        self.reactor.on_crash = self.crashes.append
        self.metrics = Metrics()
        self.lines: list[bytes] = []
        log = AccessLog(AccessLogSettings(mode="all"), self.lines.append, rng=Random(1))
        self.node = Node(
            settings,
            self.reactor,
            Families(self.metrics),
            log,
            rng=Random(1),
            log=lambda event, **fields: self.logged.append((event, fields)),
        )
        emit = self.node.emit

        def keep(record: Record, series: Any) -> None:
            assert not any(record is r for r in self.records), "a record is emitted once"
            self.records.append(record)
            emit(record, series)

        self.node.emit = keep  # type: ignore[method-assign]
        self.merger = Merger(["test"])
        self.backends: list[Backend] = []
        self.clients: list[Talk] = []
        self.upstreams: list[Upstream] = []

    until = staticmethod(until)
    descriptors = staticmethod(open_descriptors)

    # -- what is proxied -----------------------------------------------------------------

    async def backend(self, script: Script, host: str = "127.0.0.1") -> Backend:
        backend = Backend(script, listen((host, 0)))
        self.backends.append(backend)
        self.nursery.start_soon(backend.run, self.nursery)
        return backend

    def know(self, *services: Service, gone: Iterable[str] = ()) -> None:
        """The registry says so."""
        self._remember()
        self.node.update(*self.merger.apply("test", services, list(gone)))
        self._remember()

    def _remember(self) -> None:
        self.upstreams += [u for u in self.node.upstreams.values() if u not in self.upstreams]

    def service(
        self,
        *endpoints: Backend | Endpoint,
        protocol: Protocol = "http",
        name: str = NAME,
        port: int = 80,
        vips: tuple[str, ...] = (),
    ) -> Service:
        found = tuple(e.endpoint if isinstance(e, Backend) else e for e in endpoints)
        return Service(name, vips, (Port(port, "main", protocol),), found)

    def serve(
        self,
        *endpoints: Backend | Endpoint,
        protocol: Protocol = "http",
        name: str = NAME,
        port: int = 80,
    ) -> tuple[str, int]:
        """A service with these endpoints behind a new explicit listener."""
        self.know(self.service(*endpoints, protocol=protocol, name=name, port=port))
        return self.node.serve_port(listen(("127.0.0.1", 0)), name, port).address

    def upstream(self, name: str = NAME, port: int = 80) -> Upstream:
        return self.node.upstreams[name, port]

    # -- who calls -----------------------------------------------------------------------

    async def client(self, address: tuple[str, int], *, buffer: int = 0) -> Talk:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        talk = Talk(sock)
        self.clients.append(talk)
        try:
            with trio.fail_after(PATIENCE):
                await sock.connect(address)
        except ConnectionResetError:
            talk.refused = True
        return talk

    async def get(
        self, address: tuple[str, int], target: str = "/"
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """One GET on a connection of its own."""
        client = await self.client(address)
        await client.send(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target.encode())
        answer = await client.answer()
        client.close()
        return answer

    async def record(self, count: int = 1) -> Record:
        """Wait until so many records have come in all, no more; the last one."""
        await until(lambda: len(self.records) >= count, f"{count} records")
        assert len(self.records) == count
        return self.records[-1]

    # -- the end -------------------------------------------------------------------------

    async def settle(self) -> None:
        """Everybody leaves; then every account has to be balanced."""
        for talk in self.clients:
            talk.close()
        for backend in self.backends:
            backend.die()
        self._remember()
        await until(lambda: not self.node.lanes.lanes, "no lanes")
        assert self.crashes == []
        for upstream in self.upstreams:
            pools = [t.pool for t in upstream.targets.values()]
            assert [t.load for t in upstream.targets.values()] == [0] * len(pools)
            assert [(p.leased, p.connecting) for p in pools] == [(0, 0)] * len(pools)
            await until(
                lambda u=upstream: (
                    u.connections  # type: ignore[misc]
                    == sum(len(t.pool.idle) for t in u.targets.values())
                ),
                "upstream.connections equals the idle ones",
            )
            assert upstream.series.active.value == 0


@pytest.fixture
def make_harness() -> Callable[..., Any]:
    @asynccontextmanager
    async def make(**changes: Any) -> AsyncIterator[Harness]:
        policy = Policy(**changes.pop("policy", {}))
        check = changes.pop("check", True)
        gc.collect()
        before = open_descriptors()
        async with trio.open_nursery() as nursery:
            harness = Harness(nursery, Settings(policy=policy, **changes))
            await nursery.start(harness.reactor.run)
            try:
                yield harness
                if check:
                    await harness.settle()
            finally:
                harness.node.close()
                harness.reactor.tick()
                for talk in harness.clients:
                    talk.close()
                for backend in harness.backends:
                    backend.sock.close()
                nursery.cancel_scope.cancel()
        assert harness.reactor.watched == 0
        assert len(harness.reactor.wheel) == 0
        harness.reactor.close()
        while Pipe._spare:
            Pipe._spare.pop().give_back(empty=False)
        after = open_descriptors()
        if check:
            assert after <= before, f"left open: {after - before}"

    return make


@pytest.fixture
async def harness(make_harness: Callable[..., Any]) -> AsyncIterator[Harness]:
    async with make_harness() as harness:
        yield harness


@pytest.fixture
def redirected(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[str, int] | None], None]:
    """Say what redirected connections had dialled."""

    def say(destination: tuple[str, int] | None) -> None:
        monkeypatch.setattr(
            "nodeproxy.dataplane.node.original_destination", lambda _sock: destination
        )

    return say


class Lanes:
    """A bare reactor for tests of lanes, with a group, and sockets in pairs."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.group = LaneGroup()
        self.crashes: list[BaseException] = []
        reactor.on_crash = self.crashes.append

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Two ends of one TCP connection on loopback, non-blocking."""
        server = listen(("127.0.0.1", 0))
        one = socket.create_connection(server.getsockname())
        server.setblocking(True)
        other, _ = server.accept()
        server.close()
        for sock in (one, other):
            sock.setblocking(False)
        return one, other

    def spawn(self, coro: Any) -> Lane:
        return self.reactor.spawn(coro, self.group)

    def turn(self, times: int = 1) -> None:
        """Sweep and tick by hand."""
        for _ in range(times):
            while self.reactor.sweep():
                pass
            self.reactor.tick()

    def turn_until(self, condition: Callable[[], object]) -> None:
        end = self.reactor._clock() + PATIENCE
        while not condition():
            assert self.reactor._clock() < end, "never came true"
            self.turn()


class Ends:
    """A stream on the reactor and the peer's plain socket."""

    def __init__(self, lanes: Lanes, faults: Faults = UPSTREAM) -> None:
        mine, self.peer = lanes.pair()
        self.stream = Stream(lanes.reactor, mine, faults)

    def close(self) -> None:
        self.stream.close()
        self.peer.close()

    def fill(self) -> None:
        """Until the kernel takes no more of what the stream sends."""
        self.stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        try:
            while True:
                self.stream.sock.send(bytes(65536))
        except BlockingIOError:
            pass


@pytest.fixture
def ends(lanes: Lanes) -> Iterable[list[Ends]]:
    both = [Ends(lanes), Ends(lanes, CLIENT)]
    yield both
    for end in both:
        end.close()


@pytest.fixture
def lanes() -> Iterable[Lanes]:
    before = open_descriptors()
    reactor = Reactor()
    lanes = Lanes(reactor)
    yield lanes
    lanes.group.cancel()
    reactor.tick()
    assert not lanes.group.lanes
    reactor.close()
    gc.collect()
    assert open_descriptors() <= before
