"""The lab keeps its promises: names, addresses, and nothing left."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from signal import SIGKILL
from subprocess import PIPE

import pytest

from nodeproxy.demo.lab import NETNS, Lab, LabError, obstacle, remove_leftovers


def mine() -> list[str]:
    return [path.name for path in NETNS.glob(f"np{os.getpid()}-*")]


@pytest.mark.parametrize("layout", ["bridge", "routed"])
def test_everybody_reaches_everybody(layout: str):
    with Lab(2, 2, layout) as lab:  # type: ignore[arg-type]
        targets = [*lab.nodes, *lab.node(1).pods, *lab.node(2).pods]
        for target in targets:
            for address in (target.address4, target.address6):
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                with lab.socket(target.name, family) as listener:
                    listener.bind((address, 80))
                    listener.listen()
                    for ns in ("node1", "pod1-1", "pod2-2"):
                        with lab.socket(ns, family) as client:
                            client.settimeout(3)
                            client.connect((address, 80))
    assert mine() == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error_or_an_interruption(error: type[BaseException]):
    children = []

    def use() -> None:
        with Lab(1, 1) as lab:
            child = lab.popen(
                "pod1-1", "sh", "-c", "trap '' TERM; echo; sleep 1000 & wait", stdout=PIPE
            )
            children.append(child)
            assert child.stdout
            child.stdout.readline()
            assert mine()
            raise error

    with pytest.raises(error):
        use()
    assert children[0].returncode == -SIGKILL
    assert mine() == []


def test_commands_speak():
    with Lab(1, 0) as lab:
        assert lab.run("node1", "cat", input="words") == "words"
        with pytest.raises(LabError, match=r"node1: sh -c exit 3: exit 3"):
            lab.run("node1", "sh", "-c", "exit 3")
        with pytest.raises(LabError, match=r"no end after 0\.1 s"):
            lab.run("node1", "sleep", "5", timeout=0.1)
        with pytest.raises(FileNotFoundError):
            lab.socket("node7")
        assert "192.168.100.1" in lab.run("node1", "ip", "address", "show", "dev", "lo")
        assert lab.inside("node1", lambda: len(socket.if_nameindex())) == 2  # lo, br0


def test_leftovers_of_a_killed_process_are_removed():
    code = (
        "import os, signal; from nodeproxy.demo.lab import Lab; lab = Lab(1, 1).__enter__();"
        "lab.popen('pod1-1', 'sleep', '1000'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root) as killed:
        killed.wait()
    left = {path.name for path in NETNS.glob(f"np{killed.pid}-*")}
    assert len(left) == 2
    assert left <= set(remove_leftovers())
    assert not list(NETNS.glob(f"np{killed.pid}-*"))


def test_an_obstacle_is_named():
    assert obstacle() is None
    assert "missing programs: nonsense" in (obstacle(["nonsense"]) or "")
