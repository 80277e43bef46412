"""Lines to a file or a stream, without the loop ever waiting for it.

A slow disk, a full pipe or a stopped reader blocks whoever writes, and a stream such as
standard error must not be made non-blocking: the open file is shared with other processes.
So a thread writes. It is handed lines through a queue of bounded size; what does not fit, or
cannot be written, is counted and lost. Traffic is worth more than its log.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Final

__all__ = ["LineWriter"]

LIMIT: Final = 4 << 20
"""Bytes that may wait to be written."""
BATCH: Final = 64 << 10
"""Bytes that are written by one call."""
PATIENCE: Final = 200
"""Milliseconds between two looks at whether the writer is being closed."""

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK


class _Reopen:
    """In the queue: go on with a new file; all lines before it go to the old one."""


class _Close:
    """In the queue: nothing comes after it."""


class LineWriter:
    """Writes lines to ``target``: a path, or the number of an open descriptor.

    ``failed(error)`` is called on the writer's thread at each failed write or opening; it
    should limit its own rate. Raises OSError when the file cannot be opened at the start.
    """

    def __init__(
        self,
        target: Path | int,
        *,
        failed: Callable[[OSError], None] = lambda _: None,
        limit: int = LIMIT,
    ) -> None:
        self._target = target
        self._failed = failed
        self._limit = limit
        self._queue: SimpleQueue[bytes | type[_Reopen] | type[_Close]] = SimpleQueue()
        self._lock = Lock()  # any thread may write a line; held for a few instructions
        self._put = 0
        self._full = 0
        self._done = 0
        self._lost = 0
        self._closed = False
        self._torn = False
        self._fd = target if isinstance(target, int) else _open(target)
        self._thread = Thread(target=self._run, name="line-writer", daemon=True)
        self._thread.start()

    @property
    def dropped_full(self) -> int:
        """Lines lost because the queue was full."""
        return self._full

    @property
    def dropped_error(self) -> int:
        """Lines lost because they could not be written."""
        return self._lost

    @property
    def waiting(self) -> int:
        """Bytes in the queue."""
        return self._put - self._done

    def write(self, line: bytes) -> None:
        """Queue one line, which ends in a newline; or count it as lost. Never waits for the
        target. Lines of several threads are kept apart."""
        size = len(line)
        with self._lock:
            if self._put - self._done + size > self._limit or self._closed:
                self._full += 1
                return
            self._put += size
        self._queue.put(line)

    def reopen(self) -> None:
        """Go on with the file that now has the path (after a rotation). Nothing for streams."""
        if not isinstance(self._target, int) and not self._closed:
            self._queue.put(_Reopen)

    def close(self, timeout: float = 1.0) -> bool:
        """Write what is queued, for at most ``timeout`` seconds. False: something was left.

        This call waits: it is for the end of the process, or for another thread.
        """
        if not self._closed:
            self._closed = True
            self._queue.put(_Close)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            lines: list[bytes] = []
            size = 0
            while isinstance(item, bytes):
                lines.append(item)
                size += len(item)
                if size >= BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except Empty:
                    break
            if lines:
                self._write_out(lines, size)
            if item is _Reopen:
                self._reopen()
            elif item is _Close:
                if not isinstance(self._target, int):
                    os.close(self._fd)
                return

    def _write_out(self, lines: list[bytes], size: int) -> None:
        # After half a line got through, the next one must not be glued to it.
        data = memoryview((b"\n" if self._torn else b"") + b"".join(lines))
        sent = 0
        try:
            while sent < len(data):
                sent += self._write_some(data[sent:])
            self._torn = False
        except OSError as error:
            whole = bytes(data[:sent])
            self._lost += len(lines) - max(0, whole.count(b"\n") - self._torn)
            if sent:
                self._torn = not whole.endswith(b"\n")
            self._failed(error)
        self._done += size

    def _write_some(self, data: memoryview) -> int:
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                # Ours is a named pipe, or somebody else made a shared stream non-blocking.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                if not poll.poll(PATIENCE) and self._closed:
                    raise TimeoutError(errno.ETIMEDOUT, "nobody reads the log") from None

    def _reopen(self) -> None:
        assert isinstance(self._target, Path)
        try:
            fresh = _open(self._target)
        except OSError as error:
            self._failed(error)
            return
        os.close(self._fd)
        self._fd = fresh


def _open(path: Path) -> int:
    # Non-blocking for the sake of named pipes: without a reader the opening fails at once.
    return os.open(path, _FLAGS, 0o640)
