"""The command line around the commands: the list, help, usage errors, no daemon."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from nodeproxy import __version__
from nodeproxy.cli import output
from nodeproxy.cli.main import COMMANDS, cli
from nodeproxy.config import EXAMPLE

Run = Callable[..., Result]


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its whole name, those of groups too."""
    for name, (module, _) in COMMANDS.items():
        found = getattr(importlib.import_module(f"nodeproxy.cli.{module}"), name.replace("-", "_"))
        yield name, found
        if isinstance(found, click.Group):
            yield from ((f"{name} {part}", sub) for part, sub in found.commands.items())


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_command_has_help(nodeproxy_alone: Run, name: str, command: click.Command) -> None:
    result = nodeproxy_alone(*name.split(), "-h")
    assert result.exit_code == 0
    assert command.help
    assert name.split()[-1] in result.stdout


def test_the_list_of_commands(nodeproxy_alone: Run) -> None:
    result = nodeproxy_alone("--help")
    for name, (_, text) in COMMANDS.items():
        assert name in result.stdout
        assert text[:20] in result.stdout
    assert nodeproxy_alone("--version").stdout == f"nodeproxy {__version__}\n"


def test_help_and_version_import_next_to_nothing() -> None:
    program = (
        "import sys\nfrom nodeproxy.cli.main import main\n"
        "try: main(args=[sys.argv[1]])\nexcept SystemExit: pass\n"
        "heavy = {'trio', 'httpx', 'rich', 'yaml', 'msgspec', 'h11', 'structlog', 'pyroute2'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    for argument in ("--version", "--help"):
        done = subprocess.run(
            [sys.executable, "-c", program, argument], capture_output=True, text=True, check=True
        )
        assert done.stderr == "[]\n"


def test_a_mistyped_command_gets_a_suggestion(nodeproxy_alone: Run) -> None:
    result = nodeproxy_alone("statu")
    assert result.exit_code == 2
    assert 'Did you mean "status"?' in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("status",),
        ("services",),
        ("endpoints",),
        ("routes",),
        ("registries",),
        ("metrics",),
        ("explain", "GET", "http://a/"),
        ("log-level",),
    ],
)
def test_without_a_daemon_each_command_says_what_to_do(
    nodeproxy_alone: Run, tmp_path: Path, args: tuple[str, ...]
) -> None:
    result = nodeproxy_alone(*args, "--socket", str(tmp_path / "admin.sock"))
    assert result.exit_code == 1
    assert f"no daemon answers: there is no socket {tmp_path}/admin.sock" in result.stderr
    assert "systemctl status nodeproxy" in result.stderr
    assert "NODEPROXY_SOCKET" in result.stderr


def test_the_socket_is_found_in_four_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*args: str) -> str:
        return CliRunner().invoke(cli, args).stderr.split("no socket ")[1].split("\n")[0]

    monkeypatch.delenv("NODEPROXY_SOCKET", raising=False)
    monkeypatch.delenv("NODEPROXY_CONFIG", raising=False)
    config = tmp_path / "np.yaml"
    config.write_text("admin: {socket: own.sock}\n")
    assert asked("--config", str(config), "status") == str(tmp_path / "own.sock")
    assert asked("--socket", "/nowhere/a", "status") == "/nowhere/a"
    assert asked("status", "--socket", "/nowhere/b") == "/nowhere/b"
    monkeypatch.setenv("NODEPROXY_SOCKET", "/nowhere/c")
    assert asked("status") == "/nowhere/c"
    assert asked("--socket", "/nowhere/a", "status") == "/nowhere/a"
    assert asked("--socket", "/nowhere/a", "status", "--socket", "/nowhere/b") == "/nowhere/b"


def test_run_without_a_configuration_shows_a_first_one(
    nodeproxy_alone: Run, tmp_path: Path
) -> None:
    result = nodeproxy_alone("run", "--config", str(tmp_path / "np.yaml"))
    assert result.exit_code == 2
    assert f"there is no configuration {tmp_path}/np.yaml" in result.stderr
    for line in EXAMPLE.splitlines():
        assert line in result.stderr


def test_run_shows_every_problem(nodeproxy_alone: Run, tmp_path: Path) -> None:
    path = tmp_path / "np.yaml"
    path.write_text("nodes: {}\nlog: {level: loud}\n")
    result = nodeproxy_alone("run", "--config", str(path))
    assert result.exit_code == 2
    assert f"{path}:1: nodes: unknown key 'nodes'; did you mean 'node'?" in result.stderr
    assert f"{path}:2: log.level" in result.stderr
    path.write_text("registries: [{kind: zookeper}]\n")
    result = nodeproxy_alone("run", "--config", str(path))
    assert result.exit_code == 2
    assert "unknown registry kind 'zookeper'" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(nodeproxy_alone: Run, shell: str) -> None:
    result = nodeproxy_alone("completion", shell)
    assert result.exit_code == 0
    assert "_NODEPROXY_COMPLETE" in result.stdout


@pytest.mark.parametrize("target", ["systemd", "kubernetes"])
def test_install_prints_and_writes_files(nodeproxy_alone: Run, tmp_path: Path, target: str) -> None:
    printed = nodeproxy_alone("install", target)
    assert printed.exit_code == 0
    folder = tmp_path / "new"
    written = nodeproxy_alone("install", target, "--to", str(folder))
    assert written.exit_code == 0
    for path in folder.iterdir():
        assert path.read_text().strip().splitlines()[-1] in printed.stdout
    assert nodeproxy_alone("install", target, "--to", str(folder)).exit_code == 2


def test_the_documentation_lists_every_command_and_option() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    headings = {line.lstrip("# ") for line in text.splitlines() if line.startswith("###")}
    everything = dict(commands())
    assert headings == {f"nodeproxy {name}" for name in everything}
    for name, command in everything.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                longest = max(parameter.opts, key=len)
                assert f"`{longest}" in text, f"{name} {longest}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.0, "0.0s"),
        (9.94, "9.9s"),
        (42.9, "42s"),
        (192, "3m12s"),
        (18120, "5h02m"),
        (1047600, "12d03h"),
    ],
)
def test_spans_are_short(seconds: float | None, text: str) -> None:
    assert output.ago(seconds) == text
