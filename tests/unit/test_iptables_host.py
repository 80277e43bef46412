"""A machine short of descriptors: the interception says so and goes on."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Never

import pytest
import trio

from iptables.detect import Backend, Detected
from iptables.errors import HostError, InterceptionError
from iptables.host import Host
from iptables.manager import Interception
from iptables.netlink import Heart, IpSets, Links
from iptables.saved import Ruleset
from iptables.settings import Settings
from iptables.watch import RuleEvents


class Exhausted(Host):
    """Neither a program nor a socket can be had."""

    def has(self, program: str) -> bool:
        return True

    def socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        raise full()


def full() -> OSError:
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_process(*args: object, **kwargs: object) -> Never:
        raise full()

    monkeypatch.setattr(trio, "run_process", run_process)


async def test_a_program_that_cannot_be_run():
    with pytest.raises(HostError, match="iptables-save cannot be run: Too many open files"):
        await Exhausted().run("iptables-save")


@pytest.mark.parametrize("open_", [IpSets, Links, RuleEvents, lambda host: Heart(host, (), 2)])
def test_a_socket_that_cannot_be_opened(open_: Any):
    with pytest.raises(InterceptionError, match="Too many open files"):
        open_(Exhausted())


async def test_the_watch_outlives_it(autojump_clock: trio.testing.MockClock):
    said: list[str] = []

    class Log:
        def info(self, event: str, **fields: object) -> None:
            said.append(event)

        warning = error = info

    with Interception(Settings(), Log(), host=Exhausted()) as kernel:
        # As after an installation.
        nft = Backend("nft", {4: "iptables-nft-save"}, {4: "iptables-nft-restore"})
        kernel._detected = Detected(nft, None, "", kube_proxy=False, seen=Ruleset())
        with trio.move_on_after(60):
            await kernel.watch()
    assert said.count("interception could not be checked") > 2
    assert said.count("changes of rules are looked for, not told") > 2
