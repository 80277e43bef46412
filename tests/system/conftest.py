"""Fixtures: daemons, back ends and clients (daemon_kit.py).

Tests that take interception stand in network namespaces of their own and need root. Without
root they are deselected and the reason is printed; where they must run (CI=true, or
NODEPROXY_REQUIRE_ROOT=1) they fail instead.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodeproxy.demo.lab import obstacle, remove_leftovers
from tests.system.daemon_kit import (
    Backend,
    Caller,
    Daemon,
    ask,
    dial,
    dial_from,
    eventually,
    free_port,
    service,
)

HERE = Path(__file__).parent
PROGRAMS = ("ip", "nsenter", "ipset", "nft", "iptables-nft-save", "iptables-legacy-save")


def reason() -> str | None:
    found = obstacle(PROGRAMS)
    return found and f"tests/system: {found}; apt-get install iptables ipset nftables"


def required() -> bool:
    environment = os.environ
    return (
        environment.get("CI", "").lower() in ("1", "true")
        or environment.get("NODEPROXY_REQUIRE_ROOT") == "1"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rooted = [i for i in items if i.path.is_relative_to(HERE) and i.get_closest_marker("netns")]
    why = reason() if rooted else None
    if why is None:
        if rooted:
            remove_leftovers()
    elif not required():
        config.hook.pytest_deselected(items=rooted)
        items[:] = [item for item in items if item not in rooted]
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"{len(rooted)} tests deselected: {why}", yellow=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.path.is_relative_to(HERE) and item.get_closest_marker("netns"):
        why = reason()
        if why is not None:
            pytest.fail(why, pytrace=False)


@pytest.fixture
def kit() -> Iterator[SimpleNamespace]:
    """What tests need besides the daemon; the callers are closed at the end."""
    callers: list[Caller] = []

    def caller(*args: Any, **options: Any) -> Caller:
        callers.append(Caller(*args, **options))
        return callers[-1]

    yield SimpleNamespace(
        Caller=caller,
        ask=ask,
        dial=dial,
        dial_from=dial_from,
        eventually=eventually,
        free_port=free_port,
        service=service,
    )
    for made in callers:
        made.close()


@pytest.fixture
def backends() -> Iterator[Callable[..., Backend]]:
    """``backends("one")``: a back end on loopback; ``backends("one", sock)``: on that socket."""
    made: list[Backend] = []

    def make(name: str, sock: socket.socket | None = None) -> Backend:
        if sock is None:
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
        made.append(Backend(name, sock))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def make_daemon(backends: object, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """``make_daemon()``, ``make_daemon(wrap=...)``: a daemon that is not started yet."""
    made: list[Daemon] = []

    def make(wrap: Callable[[list[str]], list[str]] = list) -> Daemon:
        folder = tmp_path / f"d{len(made)}"
        folder.mkdir()
        made.append(Daemon(folder, wrap))
        return made[-1]

    yield make
    for daemon in made:
        daemon.end()


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon that is not started yet."""
    return make_daemon()


@pytest.fixture
def web(daemon: Daemon, backends: Callable[..., Backend]) -> tuple[Daemon, int, list[Backend]]:
    """A running daemon with shop/web behind an explicit listener: daemon, port, two back ends."""
    two = [backends("one"), backends("two")]
    port = daemon.listen("shop/web")
    daemon.serve(service("shop/web", two, vips=["10.96.0.10"]))
    daemon.start()
    return daemon, port, two


@pytest.fixture
def single(daemon: Daemon, backends: Callable[..., Backend]) -> tuple[Daemon, int, Backend]:
    """A running daemon with shop/web behind an explicit listener: daemon, port, one back end."""
    one = backends("one")
    port = daemon.listen("shop/web")
    daemon.serve(service("shop/web", [one], vips=["10.96.0.10"]))
    daemon.start()
    return daemon, port, one
