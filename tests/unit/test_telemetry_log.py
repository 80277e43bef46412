"""The daemon's log."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator

import pytest
import structlog

from nodeproxy.telemetry import log

Lines = list[bytes]


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield []
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_an_event_is_one_json_object_with_the_common_keys_first(lines: Lines):
    log.configure(write=lines.append, journal=False)
    log.get_logger("registry").warning("stale", name="file", age=3)
    assert len(lines) == 1
    found = json.loads(lines[0])
    assert list(found) == ["timestamp", "level", "component", "event", "name", "age"]
    assert found["timestamp"].endswith("Z")
    assert (found["level"], found["component"], found["age"]) == ("warning", "registry", 3)


def test_what_libraries_log_looks_the_same(lines: Lines):
    log.configure(write=lines.append, journal=False)
    logging.getLogger("some.library").error("lost %s", "it")
    found = json.loads(lines[0])
    assert list(found) == ["timestamp", "level", "component", "event"]
    assert (found["component"], found["event"]) == ("some.library", "lost it")


def test_the_level_changes_at_run_time_for_all(lines: Lines):
    log.configure("warning", write=lines.append, journal=False)
    ours, theirs = log.get_logger("ours"), logging.getLogger("theirs")
    ours.info("no")
    theirs.info("no")
    log.set_level("info")
    ours.info("yes")
    theirs.info("yes")
    ours.debug("no")
    logging.getLogger("httpx").info("no: every request is worth an INFO to it")
    log.set_level("debug")
    ours.debug("yes")
    logging.getLogger("httpx").info("yes")
    assert [json.loads(line)["event"] for line in lines] == ["yes"] * 4
    assert log.current_level() == "debug"


def test_an_unknown_level_is_refused(lines: Lines):
    with pytest.raises(ValueError, match="choose from debug, info, warning, error"):
        log.set_level("loud")


def test_configuring_again_does_not_double_the_lines(lines: Lines):
    first: Lines = []
    log.configure(write=first.append, journal=False)
    log.configure(write=lines.append, journal=False)
    logging.getLogger("theirs").error("once")
    assert (len(first), len(lines)) == (0, 1)


def test_an_exception_carries_its_traceback(lines: Lines):
    log.configure(write=lines.append, journal=False)
    try:
        raise KeyError("gone")
    except KeyError:
        log.get_logger("x").exception("failed")
    found = json.loads(lines[0])
    assert found["level"] == "error"
    assert "KeyError: 'gone'" in found["exception"]
    assert lines[0].count(b"\n") == 1


def test_console_lines_are_plain_and_carry_no_control_codes(lines: Lines):
    log.configure("info", "console", write=lines.append, journal=False, colors=False)
    log.get_logger("x").info("odd\x1b[2J", client="\x9b\nü")
    assert b"\x1b" not in lines[0]
    assert lines[0].count(b"\n") == 1
    assert "ü" in lines[0].decode()
    assert lines[0].startswith(b"20")


@pytest.mark.parametrize(
    ("method", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3)]
)
def test_the_journal_is_told_the_priority_and_not_the_time(
    lines: Lines, method: str, priority: int
):
    log.configure("debug", "console", write=lines.append, journal=True)
    getattr(log.get_logger("x"), method)("event")
    assert lines[0].startswith(b"<%d>[%s" % (priority, method.encode()))
    log.configure("debug", "json", write=lines.append, journal=True)
    getattr(log.get_logger("x"), method)("event")
    assert lines[1].startswith(b'<%d>{"timestamp"' % priority)


def test_the_journal_is_known_by_its_stream(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert not log.is_journal()
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    assert not log.is_journal()
    found = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    assert log.is_journal()


def test_without_a_writer_lines_go_to_standard_error(
    lines: Lines, capsys: pytest.CaptureFixture[str]
):
    log.configure(journal=False)
    log.get_logger("x").info("here")
    assert json.loads(capsys.readouterr().err)["event"] == "here"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def said(lines: Lines) -> list[tuple[str, int]]:
    return [(e["event"], e.get("suppressed", 0)) for e in map(json.loads, lines)]


def test_a_repeated_event_is_said_once_per_interval(lines: Lines):
    log.configure(write=lines.append, journal=False)
    clock = Clock()
    throttle = log.Throttle(log.get_logger("x"), 60, clock)
    for second in range(130):
        clock.now = second
        throttle.warning("disk", "full", path="/x")
    assert said(lines) == [("full", 0), ("full", 59), ("full", 59)]


def test_keys_are_apart_and_levels_are_kept(lines: Lines):
    log.configure(write=lines.append, journal=False)
    throttle = log.Throttle(log.get_logger("x"), 60, Clock())
    throttle.info("a", "one")
    throttle.error("b", "two")
    throttle.warning("a", "one")
    assert [(e["event"], e["level"]) for e in map(json.loads, lines)] == [
        ("one", "info"),
        ("two", "error"),
    ]


def test_the_memory_for_keys_is_bounded(lines: Lines):
    log.configure(write=lines.append, journal=False)
    throttle = log.Throttle(log.get_logger("x"), 60, Clock(), max_keys=2)
    for key in ("a", "b", "c", "b", "c", "a"):
        throttle.info(key, key)
    assert [event for event, _ in said(lines)] == ["a", "b", "c", "a"]


def test_a_disk_that_stays_full_is_told_once_a_minute(lines: Lines):
    log.configure(write=lines.append, journal=False)
    clock = Clock()
    failed = log.write_failures(log.get_logger("accesslog"), clock)
    for second in range(100):
        clock.now = second
        failed(OSError(errno.ENOSPC, "No space left on device"))
    told = [json.loads(line) for line in lines]
    assert [one.get("suppressed", 0) for one in told] == [0, 59]
    assert all("No space left" in one["error"] and one["level"] == "warning" for one in told)
