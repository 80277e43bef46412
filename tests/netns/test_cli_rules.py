"""``nodeproxy rules`` on a kernel of its own, where no daemon answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns

ROOT = Path(__file__).resolve().parents[2]
INSTALL = """
import trio
from iptables.manager import Interception
from iptables.settings import Backend, Frontend, Settings

async def main():
    with Interception(Settings(vip_cidrs=("10.96.0.0/16",))) as kernel:
        await kernel.install()
        await kernel.sync([Frontend("10.96.0.10", 80, (Backend("10.244.1.11", 8080),), "shop/web")])

trio.run(main)
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Run]:
    """Runs Python in a network namespace that ends with the test."""
    config = tmp_path / "np.yaml"
    config.write_text(
        "interception: {vip_cidrs: [10.96.0.0/16]}\n"
        "registries: [{kind: file, path: services.yaml}]\n"
        "admin: {socket: admin.sock}\n"
    )
    with subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"

        def run(*args: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["nsenter", f"--net=/proc/{holder.pid}/ns/net", sys.executable, *args],
                capture_output=True,
                text=True,
                timeout=60,
                cwd=ROOT,
                env=os.environ | {"NODEPROXY_CONFIG": str(config), "PYTHONPATH": str(ROOT)},
                check=False,
            )

        yield run
        holder.stdin.close()


def test_what_a_killed_daemon_left_is_shown_and_removed(inside: Run) -> None:
    def rules(what: str) -> subprocess.CompletedProcess[str]:
        return inside("-m", "nodeproxy.cli.main", "rules", what)

    empty = rules("show")
    assert (empty.returncode, empty.stdout.count("\n")) == (0, 1), empty
    assert rules("verify").returncode == 1
    installed = inside("-c", INSTALL)
    assert installed.returncode == 0, installed

    shown = rules("show")
    assert shown.returncode == 0
    for part in (
        "no daemon answers",
        ":NP-PRE - [0:0]",
        "-A PREROUTING -m comment --comment nodeproxy -j NP-PRE",
        "add NP-VIP4 10.96.0.10,tcp:80",
        "# nft --terse list table ip nodeproxy",
        "table ip6 nodeproxy {",
        "# ip address: 169.254.171.1 dev lo",
        "# ip route: local 10.96.0.0/16 dev lo",
    ):
        assert part in shown.stdout
    assert "127.0.0.1" not in shown.stdout

    verified = rules("verify")
    assert (verified.returncode, verified.stdout.count("\n")) == (0, 1), verified
    repaired = rules("repair")
    assert repaired.returncode == 1
    assert "no daemon answers" in repaired.stderr

    removed = rules("remove")
    assert removed.returncode == 0, removed
    assert "removed address 169.254.171.1" in removed.stdout
    assert rules("remove").stdout == "there was nothing to remove\n"
    assert rules("show").stdout == empty.stdout
