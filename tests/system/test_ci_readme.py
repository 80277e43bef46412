"""What the documents say of commands, files, settings and metrics is so."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeproxy.cli.main import COMMANDS
from nodeproxy.config import load

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = ROOT / ".ci" / "run"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "systemd" / "README.md"]
    + [p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def readme_command(name: str) -> str:
    """As ``.ci/run`` reads it: by its own function."""
    script = re.search(r"^readme_command\(\) \{.*?^\}", RUN.read_text(), re.M | re.DOTALL)
    assert script is not None
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f'{script[0]}\nreadme_command "$1"', "bash", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return done.stdout


def code(page: Path) -> Iterator[str]:
    """What stands in code: the lines of shell blocks, and words in backticks."""
    text = page.read_text()
    for language, block in FENCE.findall(text):
        if language == "sh":
            yield from block.splitlines()
    yield from INLINE.findall(FENCE.sub("", text))


def test_ci_finds_the_two_commands() -> None:
    assert readme_command("demo").rstrip().endswith(".venv/bin/nodeproxy demo")
    assert readme_command("test").rstrip().endswith(".venv/bin/python -m pytest")
    assert readme_command("nothing") == ""


def test_ci_runs_the_two_commands_and_nothing_instead_of_them() -> None:
    script = RUN.read_text()

    assert "demo=$(readme_command demo)" in script
    assert "test=$(readme_command test)" in script
    assert 'bash -euo pipefail -c "$demo"' in script
    assert 'bash -euo pipefail -c "$test"' in script
    assert "pytest" not in re.sub(r"PYTEST_ADDOPTS", "", script)


@pytest.mark.parametrize("command", ["demo", "test"])
def test_the_commands_are_shell(command: str) -> None:
    done = subprocess.run(
        ["bash", "-n"], input=readme_command(command), text=True, check=False, timeout=20
    )

    assert done.returncode == 0


def test_ci_is_a_program_without_errors_of_syntax() -> None:
    assert RUN.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", RUN], check=False, timeout=20).returncode == 0


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files(page: Path) -> None:
    text = FENCE.sub("", page.read_text())

    assert [t for t in LINK.findall(text) if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_commands_of_the_pages_exist(page: Path) -> None:
    said = {
        verb
        for line in code(page)
        for verb in re.findall(r"(?:^|\s|/bin/)nodeproxy ([a-z][a-z-]*)", line)
    }

    assert said - set(COMMANDS) == set()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_metrics_of_the_pages_exist(page: Path) -> None:
    source = "".join(
        p.read_text() for package in ("nodeproxy", "registry", "iptables")
        for p in (ROOT / package).rglob("*.py")
    )  # fmt: skip
    said = {m for line in code(page) for m in re.findall(r"\bnodeproxy_[a-z0-9_]+", line)}
    told = {re.sub(r"_(bucket|sum|count)$", "", m) for m in said}

    assert {m for m in told if m not in source} == set()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_settings_in_the_pages_are_valid(page: Path, tmp_path: Path) -> None:
    blocks = [b for language, b in FENCE.findall(page.read_text()) if language == "yaml"]
    (tmp_path / "services.yaml").write_text("services: []\n")
    for block in blocks:
        if block.startswith("# nodeproxy.yaml"):
            (tmp_path / "nodeproxy.yaml").write_text(block)
            assert load(tmp_path / "nodeproxy.yaml").warnings == ()
