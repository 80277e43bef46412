"""Shared by every level of tests.

Under ``CI=true`` a test that is skipped or expected to fail is a failure: a proof with holes is
no proof. The closing summary says how many tests of each level ran, and a run of everything in
which a level is missing fails.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

LEVELS = ("unit", "dataplane", "netns", "system")
HERE = Path(__file__).resolve().parent
IN_CI = os.environ.get("CI") == "true"

ran: pytest.StashKey[Counter[str]] = pytest.StashKey()


class Levels:
    """Counts the tests that ran, also those that ran in other processes (pytest-xdist)."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.counts[level_of(HERE.parent / report.nodeid.partition("::")[0])] += 1


def level_of(path: Path) -> str:
    """The folder of ``tests`` that holds ``path``; empty outside of it."""
    try:
        return path.resolve().relative_to(HERE).parts[0]
    except (ValueError, IndexError):
        return ""


def missing_levels(counts: Counter[str]) -> list[str]:
    """Levels of which no test ran."""
    return [level for level in LEVELS if not counts[level]]


def hole_to_failure(report: pytest.TestReport | pytest.CollectReport) -> None:
    """A skip or an expected failure becomes a failure that gives the reason."""
    if report.outcome != "skipped":
        return
    reason = getattr(report, "wasxfail", None)
    if reason is not None:
        what = f"expected to fail ({reason})" if reason else "expected to fail"
        del report.wasxfail
    else:
        what = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid}: not allowed where CI=true: {what}"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ran] = counts = Counter()
    config.pluginmanager.register(Levels(counts))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IN_CI:
        hole_to_failure(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IN_CI:
        hole_to_failure(report)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return  # one of several processes: the first one sees all reports
    everything = session.config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if (
        IN_CI
        and everything
        and missing_levels(session.config.stash[ran])
        and not session.exitstatus
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    counts = config.stash[ran]
    line = ", ".join(f"{level} {counts[level]}" for level in LEVELS)
    if IN_CI and missing_levels(counts):
        line += f"; no test ran of: {', '.join(missing_levels(counts))}"
    terminalreporter.write_sep("-", f"tests run by level: {line}")
