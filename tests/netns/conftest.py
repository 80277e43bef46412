"""The level that needs root: real kernels' iptables, in network namespaces of our own.

Without root, or with a program missing, these tests are deselected and the reason is printed. Where
they must run (CI=true, or NODEPROXY_REQUIRE_ROOT=1) they fail instead.
"""

import errno
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trio

from iptables.host import Host
from iptables.manager import Interception
from iptables.settings import Backend, Frontend, Settings
from nodeproxy.demo.lab import Lab, Node, obstacle, remove_leftovers

HERE = Path(__file__).parent
PROGRAMS = ("ip", "nsenter", "ipset", "nft", "iptables-nft-save", "iptables-legacy-save")
SO_ORIGINAL_DST = 80
IP_FREEBIND = 15
VIP4, VIP6 = "10.96.0.10", "fd00:96::10"
CIDRS = ("10.96.0.0/16", "fd00:96::/112")


def reason() -> str | None:
    found = obstacle(PROGRAMS)
    return found and f"tests/netns: {found}"


def required() -> bool:
    environment = os.environ
    return (
        environment.get("CI", "").lower() in ("1", "true")
        or environment.get("NODEPROXY_REQUIRE_ROOT") == "1"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mine = [item for item in items if item.path.is_relative_to(HERE)]
    for item in mine:
        item.add_marker("netns")
    why = reason() if mine else None
    if why is None:
        if mine:
            remove_leftovers()
    elif not required():
        config.hook.pytest_deselected(items=mine)
        items[:] = [item for item in items if item not in mine]
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"{len(mine)} tests deselected: {why}", yellow=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.path.is_relative_to(HERE):
        why = reason()
        if why is not None:
            pytest.fail(why, pytrace=False)


class LabHost(Host):
    """A host of the lab: its programs and sockets are in that namespace."""

    def __init__(self, lab: Lab, ns: str) -> None:
        self.lab = lab
        self.ns = ns
        self.without: set[str] = set()

    def has(self, program: str) -> bool:
        return program not in self.without and super().has(program)

    def command(self, command: Sequence[str]) -> list[str]:
        return self.lab.command(self.ns, *command)

    def socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        return self.lab.socket(self.ns, family, kind, protocol)


class World:
    """A lab whose node1 intercepts; with listeners that say who they are."""

    def __init__(self, lab: Lab, nursery: trio.Nursery) -> None:
        self.lab = lab
        self.nursery = nursery
        self.host = LabHost(lab, "node1")
        self.opened: list[Interception] = []

    @property
    def node(self) -> Node:
        return self.lab.node(1)

    def interception(self, backend: str = "nft", **options: object) -> Interception:
        settings = Settings(backend=backend, **{"vip_cidrs": CIDRS, **options})
        made = Interception(settings, host=self.host)
        self.opened.append(made)
        return made

    def frontends(self, *pods: tuple[int, int], port: int = 80) -> list[Frontend]:
        """The service web on VIP4 and VIP6, with pods as endpoints."""
        chosen = [self.lab.pod(*pod) for pod in pods]
        return [
            Frontend(VIP4, port, tuple(Backend(pod.address4, 8080) for pod in chosen), "web"),
            Frontend(VIP6, port, tuple(Backend(pod.address6, 8080) for pod in chosen), "web"),
        ]

    async def listen(self, ns: str, address: str, port: int, name: str) -> trio.CancelScope:
        """Answer connections with "name peer original-destination", until the scope is cancelled.

        The address need not exist yet (the proxy's comes with the rules).
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        raw = self.lab.socket(ns, family)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        raw.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        raw.bind((address, port))
        raw.listen(128)
        scope = trio.CancelScope()

        async def serve() -> None:
            with scope, trio.socket.from_stdlib_socket(raw) as listener:
                while True:
                    client, peer = await listener.accept()
                    with client:
                        words = f"{name} {peer[0]} {original(client, family)}"
                        with suppress(OSError):
                            await client.send(words.encode())

        self.nursery.start_soon(serve)
        return scope

    async def listen_all(self) -> list[trio.CancelScope]:
        """The proxy's listeners on node1 and one of each pod; the proxy's scopes are returned."""
        scopes = [
            await self.listen("node1", address, 15001, "proxy")
            for address in (Settings().address4, Settings().address6)
        ]
        for node in self.lab.nodes:
            for pod in node.pods:
                for address in (pod.address4, pod.address6):
                    await self.listen(pod.name, address, 8080, pod.name)
        return scopes

    async def dial(self, ns: str, address: str, port: int = 80, timeout: float = 5) -> list[str]:
        """Connect from a namespace: the words of who answers, or one of "refused", "timeout",
        "unreachable", "reset".
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with trio.socket.from_stdlib_socket(self.lab.socket(ns, family)) as client:
            try:
                with trio.fail_after(timeout):
                    await client.connect((address, port))
                    return (await client.recv(1000)).decode().split() or ["closed"]
            except trio.TooSlowError:
                return ["timeout"]
            except OSError as error:
                names = {
                    errno.ECONNREFUSED: "refused",
                    errno.ECONNRESET: "reset",
                    errno.ETIMEDOUT: "timeout",
                }
                return [names.get(error.errno or 0, "unreachable")]

    async def settle(self, condition: Callable[[], object], seconds: float = 10) -> None:
        """Wait until a condition holds."""
        with trio.fail_after(seconds):
            while not condition():  # noqa: ASYNC110
                await trio.sleep(0.01)

    @contextmanager
    def beating(self, interception: Interception) -> Iterator[None]:
        """Hold the switch as the proxy's loop does."""
        scope = trio.CancelScope()

        async def beat() -> None:
            with scope:
                while True:
                    interception.beat()
                    await trio.sleep(0.2)

        interception.beat()
        self.nursery.start_soon(beat)
        try:
            yield
        finally:
            scope.cancel()

    def state(self) -> dict[str, list[str]]:
        """All that interception could leave on node1, without what changes by itself."""
        commands = (
            "iptables-nft-save",
            "ip6tables-nft-save",
            "iptables-legacy-save",
            "ip6tables-legacy-save",
            "ipset save",
            "nft list ruleset",
            "ip address show dev lo",
            "ip route show table all",
            "ip -6 route show table all",
        )
        found = {}
        for command in commands:
            lines = self.lab.run("node1", *command.split()).splitlines()
            found[command] = [_COUNTER.sub("counter", line) for line in lines if _telling(line)]
        return found


_COUNTER = re.compile(r"counter packets \d+ bytes \d+")


def _telling(line: str) -> bool:
    """Legacy tables stay once they were used, as empty as they were; comments bear the time."""
    return not (
        line.startswith(("#", "*", "COMMIT")) or (line.startswith(":") and "ACCEPT" in line)
    )


def original(client: trio.socket.SocketType, family: int) -> str:
    """The destination before interception, as the proxy will learn it; "-" if there is none."""
    try:
        if family == socket.AF_INET:
            raw = client.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
            return f"{socket.inet_ntoa(raw[4:8])}:{struct.unpack_from('>H', raw, 2)[0]}"
        raw = client.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        port = struct.unpack_from(">H", raw, 2)[0]
        return f"[{socket.inet_ntop(socket.AF_INET6, raw[8:24])}]:{port}"
    except OSError:
        return "-"


@pytest.fixture
def make_world() -> Callable[..., object]:
    """`async with make_world(layout="routed") as world:` (arguments as of Lab)."""

    @asynccontextmanager
    async def make(**options: object) -> AsyncIterator[World]:
        with Lab(**options) as lab:  # type: ignore[arg-type]
            async with trio.open_nursery() as nursery:
                world = World(lab, nursery)
                try:
                    yield world
                finally:
                    for opened in world.opened:
                        opened.close()
                    nursery.cancel_scope.cancel()

    return make


@pytest.fixture
def lab_with_host() -> Iterator[tuple[Lab, LabHost]]:
    """One node without pods, and the host that enters it."""
    with Lab(nodes=1, pods=0) as lab:
        yield lab, LabHost(lab, "node1")
