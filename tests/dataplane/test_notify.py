"""What systemd hears, on real datagram sockets."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeproxy.notify import Notifier


@contextlib.contextmanager
def systemd(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(address)
        yield sock


@contextlib.contextmanager
def notifier(**environ: str) -> Iterator[Notifier]:
    made = Notifier(environ)
    try:
        yield made
    finally:
        made.close()


def test_each_message_is_one_datagram(tmp_path: Path):
    path = str(tmp_path / "notify")
    with systemd(path) as heard, notifier(NOTIFY_SOCKET=path) as told:
        told.send("READY=1", "STATUS=3 services")
        told.alive()
        assert heard.recv(100) == b"READY=1\nSTATUS=3 services"
        assert heard.recv(100) == b"WATCHDOG=1"


def test_an_abstract_socket():
    name = f"nodeproxy-test-{os.getpid()}"
    with systemd("\0" + name) as heard, notifier(NOTIFY_SOCKET="@" + name) as told:
        told.send("STOPPING=1")
        assert heard.recv(100) == b"STOPPING=1"


def test_nobody_listens_any_more(tmp_path: Path):
    path = str(tmp_path / "notify")
    with systemd(path), notifier(NOTIFY_SOCKET=path) as told:
        pass
    with notifier(NOTIFY_SOCKET=path) as told:
        told.send("READY=1")
        assert told.watchdog is None


def test_a_full_socket_blocks_nobody(tmp_path: Path):
    path = str(tmp_path / "notify")
    with systemd(path) as heard, notifier(NOTIFY_SOCKET=path) as told:
        for _ in range(10_000):
            told.alive()
        assert heard.recv(100) == b"WATCHDOG=1"


def test_without_systemd_nothing_happens():
    with notifier() as told:
        told.send("READY=1")
        told.alive()
        assert told.watchdog is None


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("5000000", "", 5.0),
        ("5000000", "our own", 5.0),
        ("5000000", "1", None),
        ("", "", None),
        ("0", "", None),
        ("soon", "", None),
    ],
)
def test_how_often_systemd_wants_to_hear_from_us(
    tmp_path: Path, usec: str, pid: str, expected: float | None
):
    path = str(tmp_path / "notify")
    environ = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": usec}
    if pid:
        environ["WATCHDOG_PID"] = pid.replace("our own", str(os.getpid()))
    with systemd(path), notifier(**environ) as told:
        assert told.watchdog == expected
