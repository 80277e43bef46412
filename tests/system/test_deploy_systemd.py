"""The systemd files: systemd itself accepts them, and they keep what the documents promise."""

import configparser
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from iptables import names
from nodeproxy.config import Traffic, load

ROOT = Path(__file__).resolve().parent.parent.parent
SYSTEMD = ROOT / "systemd"
PROGRAM = "/opt/nodeproxy/bin/nodeproxy"


class Unit:
    """A unit file; a key may stand several times."""

    def __init__(self, text: str) -> None:
        self.entries: list[tuple[str, str, str]] = []
        section = ""
        for line in text.splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif line and not line.startswith("#"):
                key, _, value = line.partition("=")
                self.entries.append((section, key, value))

    def all(self, key: str, section: str = "Service") -> list[str]:
        return [v for s, k, v in self.entries if (s, k) == (section, key)]

    def one(self, key: str, section: str = "Service") -> str:
        (value,) = self.all(key, section)
        return value


@pytest.fixture
def unit() -> Unit:
    return Unit((SYSTEMD / "nodeproxy.service").read_text())


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Path]:
    """The unit with a program that exists, as systemd-analyze looks for it."""
    program = tmp_path / "nodeproxy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / "nodeproxy.service"
    path.write_text((SYSTEMD / "nodeproxy.service").read_text().replace(PROGRAM, str(program)))
    return path


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_systemd_finds_nothing_to_complain_about(installed: Path) -> None:
    done = run("systemd-analyze", "verify", "--man=no", str(installed))

    ours = [line for line in done.stderr.splitlines() if "nodeproxy" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_sandbox_stays_tight(installed: Path) -> None:
    done = run(
        "systemd-analyze", "security", "--offline=true", "--threshold=25", str(installed)
    )  # the threshold is ten times the exposure: 2.5

    assert done.returncode == 0, done.stdout[-600:]


def test_the_way_is_opened_without_python_and_without_the_sandbox(unit: Unit) -> None:
    posts = unit.all("ExecStopPost")

    assert posts == [f"-+ipset -q flush {name}" for name in (names.OUT_LIVE, names.IN_LIVE)]


def test_the_daemon_is_not_root_and_has_three_capabilities(unit: Unit) -> None:
    wanted = "CAP_NET_ADMIN CAP_NET_RAW CAP_DAC_READ_SEARCH"

    assert unit.one("User") == "nodeproxy"
    assert unit.one("AmbientCapabilities") == wanted
    assert unit.one("CapabilityBoundingSet") == wanted
    assert unit.one("NoNewPrivileges") == "yes"


def test_what_the_third_capability_could_open_is_closed(unit: Unit) -> None:
    closed = unit.one("InaccessiblePaths").split()

    assert {"-/etc/shadow", "-/etc/ssh", "-/etc/ssl/private"} <= set(closed)
    assert unit.one("ProtectHome") == "yes"


def test_the_unit_follows_the_daemon(unit: Unit) -> None:
    assert unit.one("Type") == "notify"
    assert unit.one("NotifyAccess") == "main"
    assert unit.one("WatchdogSec") == "5s"
    assert unit.one("Restart") == "always"
    assert unit.one("StartLimitIntervalSec", "Unit") == "0"
    assert unit.one("ExecStart") == f"{PROGRAM} run --config /etc/nodeproxy/nodeproxy.yaml"
    reloads = unit.all("ExecReload")
    assert reloads == [f"{PROGRAM} validate /etc/nodeproxy/nodeproxy.yaml", "kill -HUP $MAINPID"]


def test_the_example_is_valid(tmp_path: Path) -> None:
    shutil.copy(SYSTEMD / "nodeproxy.yaml", tmp_path)
    shutil.copy(SYSTEMD / "services.yaml", tmp_path)

    config = load(tmp_path / "nodeproxy.yaml")

    assert config.warnings == ()
    assert [r.kind for r in config.registries] == ["file"]


def test_stopping_may_take_longer_than_draining(unit: Unit) -> None:
    assert float(unit.one("TimeoutStopSec").rstrip("s")) > Traffic().drain_timeout + 10


def test_the_folders_of_the_example_are_those_of_the_unit(unit: Unit) -> None:
    settings = (SYSTEMD / "nodeproxy.yaml").read_text()

    assert f"/run/{unit.one('RuntimeDirectory')}/admin.sock" in settings
    assert f"state_dir: /var/lib/{unit.one('StateDirectory')}" in settings


def test_the_page_tells_the_exposure_that_systemd_computes(installed: Path) -> None:
    done = run("systemd-analyze", "security", "--offline=true", str(installed))

    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout[-300:]
    page = (ROOT / "docs" / "deploy" / "systemd.md").read_text()
    told = re.search(r"rates the exposure ([\d.]+)", page)
    assert told is not None
    # Another systemd counts a little differently.
    assert abs(float(found[1]) - float(told[1])) <= 0.5


def test_the_installer_puts_all_in_place_and_keeps_what_is_there(tmp_path: Path) -> None:
    installer = str(SYSTEMD / "install.sh")
    first = run("sh", installer, DESTDIR=str(tmp_path))
    mine = tmp_path / "etc/nodeproxy/services.yaml"
    mine.write_text("services: []  # mine\n")
    second = run("sh", installer, DESTDIR=str(tmp_path))

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert mine.read_text() == "services: []  # mine\n"
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "etc/nodeproxy/nodeproxy.yaml",
        "etc/nodeproxy/services.yaml",
        "etc/systemd/system/nodeproxy.service",
        "etc/sysusers.d/nodeproxy.conf",
        "etc/tmpfiles.d/nodeproxy.conf",
    ]


def test_user_and_lock_are_made(tmp_path: Path) -> None:
    run("sh", str(SYSTEMD / "install.sh"), DESTDIR=str(tmp_path))
    (tmp_path / "run").mkdir()

    users = run("systemd-sysusers", f"--root={tmp_path}")
    files = run("systemd-tmpfiles", f"--root={tmp_path}", "--create")

    assert (users.returncode, files.returncode) == (0, 0), users.stderr + files.stderr
    passwd = configparser.ConfigParser(delimiters=(":",), interpolation=None)
    passwd.read_string("[users]\n" + (tmp_path / "etc/passwd").read_text())
    group = int(passwd["users"]["nodeproxy"].split(":")[2])
    lock = (tmp_path / "run/xtables.lock").stat()
    assert (lock.st_uid, lock.st_gid, lock.st_mode & 0o777) == (0, group, 0o660)
