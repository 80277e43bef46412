"""``nodeproxy demo`` as a user runs it: the whole story, stopped in the middle, and gone wrong.

As root both stages are played; without root (see conftest.py) only the one that needs none.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
IS_ROOT = os.geteuid() == 0
MODES = [pytest.param("root", marks=pytest.mark.netns), "user"]
COMMAND = [sys.executable, "-m", "nodeproxy.cli.main", "demo"]
PATIENCE = 150
"""Seconds. It says itself how long it took; an overloaded machine is no failure."""
NOBODY = 65534


def started(*arguments: str, command: list[str] | None = None, **options: Any) -> Demo:
    return Demo([*(command or COMMAND), *arguments], **options)


class Demo:
    """One run in a session of its own, as a terminal would have it."""

    def __init__(self, command: list[str], env: Mapping[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def read_until(self, text: str) -> str:
        """The first line with ``text``; the test's own time limit is that of the demo's."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return line
        self.process.wait()
        raise AssertionError(f"no line with {text!r}:\n{self.output}")

    def end(self) -> int:
        output, _ = self.process.communicate(timeout=PATIENCE)
        self.lines.append(output)
        return self.process.returncode

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def leftovers(self) -> list[str]:
        """Looked for in another way than the demo does."""
        session = self.process.pid
        found = [str(path) for path in Path("/run/netns").glob(f"np{session}-*")]
        listed = subprocess.run(
            ["ps", "-eo", "pid,args"], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        folders = set(re.findall(r"/\S*nodeproxy-demo-\w+", self.output))
        found += [line for line in listed if any(folder in line for folder in folders)]
        found += [line for line in listed if f"np{session}-" in line]
        return found + [folder for folder in folders if Path(folder).exists()]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demo puts its folder: nobody else's is there."""
    folder = Path(tempfile.mkdtemp(prefix="npd-", dir="/tmp"))  # a short path
    folder.chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    left = list(folder.iterdir())
    shutil.rmtree(folder)
    assert not left


def requests(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.usefixtures("temporary")
def test_the_whole_story(mode: str, tmp_path: Path) -> None:
    demo = started("--mode", mode, "--keep-logs", str(tmp_path / "logs"))
    code = demo.end()
    assert code == 0, demo.output
    assert "NOT HELD" not in demo.output
    assert "Everything held" in demo.output
    assert "nothing is left" in demo.output
    assert "\x1b" not in demo.output
    assert [line for line in demo.output.splitlines() if line != line.rstrip()] == []
    assert re.search(r"10\.244\.2\.11:8080 +http +ejected|:\d+ +http +ejected", demo.output)
    assert "nodeproxy_retries_total{" in demo.output
    assert '"response_code":200' in demo.output
    assert demo.leftovers() == []
    done = requests(tmp_path / "logs")
    assert any(r.get("via") for r in done)
    if mode == "root":
        assert "=> shop/web port 80 -> " in demo.output
        assert "--match-set NP-OUT-LIVE" in demo.output
        pod = [r for r in done if r["client"] == "pod1-1"]
        assert {r["outcome"] for r in pod} <= {"ok", "reset", "closed", "status"}
        # Each client was carried past the dead proxy, in both families.
        direct = {
            (r["client"], r["target"]) for r in done if r["outcome"] == "ok" and not r.get("via")
        }
        assert len(direct) == 4
    else:
        assert "Left out without root" in demo.output
        assert all(r.get("via") for r in done if r["outcome"] == "ok")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("number", "when"),
    [
        (signal.SIGINT, "== 1."),
        (signal.SIGTERM, "== 2."),
        (signal.SIGINT, "== 4."),
        (signal.SIGHUP, "== 5."),
    ],
)
@pytest.mark.usefixtures("temporary")
def test_a_signal_in_the_middle(mode: str, number: signal.Signals, when: str) -> None:
    demo = started("--mode", mode)
    demo.read_until(when)
    # To the whole group, as a terminal does, and once more, as the impatient do.
    os.killpg(demo.process.pid, number)
    demo.read_until("removing everything")
    os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.end() == 128 + number, demo.output
    assert "nothing is left" in demo.output
    assert "Traceback" not in demo.output
    assert demo.leftovers() == []


@pytest.mark.usefixtures("temporary")
def test_what_nobody_had_planned_is_a_failure() -> None:
    demo = started("--mode", "user")
    line = demo.read_until("nodeproxy is ready")
    pid = re.search(r"pid (\d+)", line)
    assert pid is not None
    demo.read_until("== 2.")
    os.kill(int(pid[1]), signal.SIGKILL)
    assert demo.end() == 1, demo.output
    assert "NOT HELD  the story came to its end: the proxy ended with -9" in demo.output
    assert "--keep-logs" in demo.output
    assert demo.leftovers() == []


def test_where_there_is_no_place_for_it() -> None:
    demo = started("--mode", "root", env=os.environ | {"PATH": "/nowhere"})
    assert demo.end() == 1
    assert "root" in demo.output or "missing programs" in demo.output


def unprivileged() -> list[str]:
    """The demo's command as a user without any right, if that user can read an interpreter
    and the checkout; else as ourselves."""
    if not IS_ROOT:
        return COMMAND
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    paths = os.pathsep.join([str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))])
    drop = [*become, "env", f"PYTHONPATH={paths}", "HOME=/nonexistent"]
    for python in (sys.executable, *Path("/usr/bin").glob("python3.[0-9]*[0-9]")):
        command = [*drop, str(python)]
        tried = [*command, "-c", "import nodeproxy.daemon, nodeproxy.demo.story"]
        if subprocess.run(tried, check=False, capture_output=True, cwd="/").returncode == 0:
            return [*command, "-m", "nodeproxy.cli.main", "demo"]
    return [*COMMAND, "--mode", "user"]


@pytest.mark.usefixtures("temporary")
def test_without_any_right() -> None:
    command = unprivileged()
    demo = started(command=command)
    assert demo.end() == 0, demo.output
    assert "Left out without root" in demo.output
    if "user" not in command:
        assert "need root" in demo.output
    assert demo.leftovers() == []
