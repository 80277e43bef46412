"""The thread that writes: slow readers, full disks, rotation."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Thread

import pytest

from nodeproxy.telemetry.writer import LineWriter

LINE = b"x" * 99 + b"\n"


def drain(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    os.close(fd)
    return b"".join(parts)


def test_lines_of_several_threads_are_kept_apart(tmp_path: Path):
    path = tmp_path / "both.log"
    writer = LineWriter(path)

    def work(name: bytes) -> None:
        for _ in range(2000):
            writer.write(name * 50 + b"\n")

    threads = [Thread(target=work, args=(name,)) for name in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.close(30)
    assert sorted(path.read_bytes().splitlines()) == [b"a" * 50] * 2000 + [b"b" * 50] * 2000
    assert writer.waiting == 0


def test_lines_reach_the_file_in_order(tmp_path: Path):
    path = tmp_path / "access.log"
    writer = LineWriter(path)
    lines = [b"%d\n" % n for n in range(5000)]
    for line in lines:
        writer.write(line)
    assert writer.close(30)
    assert path.read_bytes() == b"".join(lines)
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()
    assert (writer.dropped_full, writer.dropped_error, writer.waiting) == (0, 0, 0)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_file_is_appended_to(tmp_path: Path):
    path = tmp_path / "access.log"
    path.write_bytes(b"old\n")
    writer = LineWriter(path)
    writer.write(b"new\n")
    assert writer.close(30)
    assert path.read_bytes() == b"old\nnew\n"


@pytest.mark.parametrize("blocking", [True, False])
def test_a_pipe_that_nobody_reads_blocks_nobody_and_costs_lines(blocking: bool):
    reader, stream = os.pipe()
    os.set_blocking(stream, blocking)
    writer = LineWriter(stream, limit=20_000)
    for _ in range(5000):
        writer.write(LINE)
        assert writer.waiting <= 20_000
    lost = writer.dropped_full
    assert lost > 0
    # Somebody reads at last: all that was not counted as lost arrives.
    assert not writer.close(0)
    chunks = b""
    while len(chunks) < (5000 - lost) * len(LINE):
        chunks += os.read(reader, 1 << 16)
    assert writer.close(30)
    os.close(stream)
    assert chunks + drain(reader) == LINE * (5000 - lost)
    assert writer.dropped_error == 0


def test_a_named_pipe_that_nobody_reads_does_not_keep_us_from_closing(tmp_path: Path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    errors: list[OSError] = []
    writer = LineWriter(path, failed=errors.append)
    for _ in range(5000):
        writer.write(LINE)
    assert writer.close(30)
    os.set_blocking(reader, True)
    assert drain(reader).count(b"\n") + writer.dropped_error == 5000
    assert writer.dropped_error > 0
    assert {error.errno for error in errors} == {errno.ETIMEDOUT}


def test_a_named_pipe_without_a_reader_is_an_error_at_the_start(tmp_path: Path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(OSError, match="fifo") as caught:
        LineWriter(path)
    assert caught.value.errno == errno.ENXIO


def test_a_reader_who_left_costs_lines_only():
    reader, stream = os.pipe()
    os.close(reader)
    errors: list[OSError] = []
    writer = LineWriter(stream, failed=errors.append)
    for _ in range(10):
        writer.write(LINE)
    assert writer.close(30)
    os.close(stream)
    assert writer.dropped_error == 10
    assert {error.errno for error in errors} == {errno.EPIPE}


def test_a_full_disk_costs_lines_only():
    errors: list[OSError] = []
    writer = LineWriter(Path("/dev/full"), failed=errors.append)
    for _ in range(100):
        writer.write(LINE)
    assert writer.close(30)
    assert writer.dropped_error == 100
    assert writer.waiting == 0
    assert {error.errno for error in errors} == {errno.ENOSPC}


def test_half_a_line_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "access.log"
    writer = LineWriter(path)
    real = os.write
    room = [len(LINE) + 30]  # the disk has room for one line and a bit, and later for all

    def write(fd: int, data: memoryview) -> int:
        if room[0] <= 0:
            room[0] = 1 << 20
            raise OSError(errno.ENOSPC, "no space")
        sent = real(fd, data[: room[0]])
        room[0] -= sent
        return sent

    monkeypatch.setattr("nodeproxy.telemetry.writer.os.write", write)
    writer._write_out([LINE, LINE, LINE], 300)
    writer._write_out([b"after\n"], 6)
    writer._write_out([b"later\n"], 6)
    assert writer.close(30)
    assert writer.dropped_error == 2
    assert path.read_bytes() == LINE + b"x" * 30 + b"\n" + b"after\n" + b"later\n"


def test_rotation(tmp_path: Path):
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    writer = LineWriter(path)
    writer.write(b"before\n")
    path.rename(old)
    writer.write(b"between\n")
    writer.reopen()
    writer.write(b"after\n")
    assert writer.close(30)
    assert old.read_bytes() == b"before\nbetween\n"
    assert path.read_bytes() == b"after\n"


def test_a_rotation_that_fails_goes_on_with_the_old_file(tmp_path: Path):
    folder = tmp_path / "logs"
    folder.mkdir()
    errors: list[OSError] = []
    writer = LineWriter(folder / "access.log", failed=errors.append)
    moved = folder.rename(tmp_path / "moved")
    writer.reopen()
    writer.write(b"line\n")
    assert writer.close(30)
    assert (moved / "access.log").read_bytes() == b"line\n"
    assert [error.errno for error in errors] == [errno.ENOENT]


def test_a_stream_is_left_open_and_never_reopened():
    reader, stream = os.pipe()
    writer = LineWriter(stream)
    writer.reopen()
    writer.write(b"line\n")
    assert writer.close(30)
    os.write(stream, b"ours\n")
    os.close(stream)
    assert drain(reader) == b"line\nours\n"


def test_what_comes_after_the_end_is_counted(tmp_path: Path):
    writer = LineWriter(tmp_path / "access.log")
    assert writer.close(30)
    assert writer.close(30)
    writer.write(LINE)
    writer.reopen()
    assert writer.dropped_full == 1
