"""What is only seen on a terminal, completion, and commands that must keep their hands off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from nodeproxy.admin import views
from nodeproxy.cli import kernel, output
from nodeproxy.cli.main import cli
from nodeproxy.cli.session import Session

Run = Callable[..., Result]
COLUMNS: list[output.Column[tuple[str, str]]] = [
    output.Column("NAME", lambda row: row[0]),
    output.Column("COUNT", lambda row: row[1], right=True),
    output.Column("NOTHING", lambda row: ""),
]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables think that they are seen, by somebody with 40 columns."""
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_folded_cells_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output.table([("[red]a[/red]", "1"), ("b" * 60, "22")], COLUMNS)
    out = click.unstyle(capsys.readouterr().out)
    assert "[red]a[/red]" in out
    assert "NOTHING" not in out
    assert max(map(len, out.splitlines())) <= 40
    assert out.count("b") == 60  # folded, not cut


@pytest.mark.usefixtures("terminal")
def test_very_long_listings_are_not_laid_out(capsys: pytest.CaptureFixture[str]) -> None:
    output.table([("x" * 50, str(i)) for i in range(2000)], COLUMNS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2001
    assert lines[0].split() == ["NAME", "COUNT"]
    assert lines[-1] == f"{'x' * 50}  {'1999':>5}"


def completions(transport: httpx.BaseTransport | None, words: list[str], last: str) -> list[str]:
    session = Session(socket="/nowhere", transport=transport)
    shell = ShellComplete(cli, {"obj": session}, "nodeproxy", "_NODEPROXY_COMPLETE")
    return [item.value for item in shell.get_completions(words, last)]


def test_completion_knows_commands_and_services(fake_daemon: httpx.BaseTransport) -> None:
    assert completions(None, [], "val") == ["validate"]
    assert completions(fake_daemon, ["endpoints"], "shop/w") == ["shop/web"]
    assert completions(None, ["endpoints"], "shop/w") == []  # no daemon: no noise either


@pytest.mark.parametrize("command", ["show", "verify", "remove"])
def test_a_daemon_that_does_not_answer_keeps_its_rules(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    # It may be stuck, and its rules must not be touched behind its back.
    def stuck(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("stuck")

    def touched(*args: Any) -> Any:
        raise AssertionError("the kernel was asked")

    for name in ("show", "verify", "remove"):
        monkeypatch.setattr(kernel, name, touched)
    session = Session(socket="/x", transport=httpx.MockTransport(stuck))
    result = CliRunner().invoke(cli, ["rules", command], obj=session)
    assert result.exit_code == 1
    assert "did not answer in time" in result.stderr


def test_without_a_daemon_the_kernel_is_asked(
    monkeypatch: pytest.MonkeyPatch, nodeproxy_alone: Run, tmp_path: Path
) -> None:
    nothing = views.VerifyView(False, (views.DriftView("no jump", "jump", "iptables -t nat"),))
    shown = views.RulesView(views.InterceptionView("iptables", True, last_error="left"), "*nat\n")
    monkeypatch.setattr(kernel, "verify", lambda config: nothing)
    monkeypatch.setattr(kernel, "show", lambda config: shown)
    monkeypatch.setattr(kernel, "remove", lambda config: ("address 169.254.171.1",))
    where = ("--socket", str(tmp_path / "s"))
    assert nodeproxy_alone("rules", "show", *where).stdout == "# interception: left\n*nat\n"
    assert nodeproxy_alone("rules", "verify", *where).exit_code == 1
    removed = nodeproxy_alone("rules", "remove", *where)
    assert (removed.exit_code, removed.stdout) == (0, "removed address 169.254.171.1\n")
    repaired = nodeproxy_alone("rules", "repair", *where)
    assert repaired.exit_code == 1
    assert "nodeproxy rules remove" in repaired.stderr


def test_the_story_leaves_out_what_says_nothing(fake_view: Any, nodeproxy: Run) -> None:
    result = nodeproxy("explain", "GET", "tcp://10.96.0.20:5432")
    assert "What is spoken" not in result.stdout
    assert "If that one can't be reached" not in result.stdout


def test_every_choice_of_output_is_offered() -> None:
    listing = cli.get_command(click.Context(cli), "services")
    assert listing is not None
    (option,) = [p for p in listing.params if p.name == "format_"]
    assert option.opts == ["-o", "--output"]
