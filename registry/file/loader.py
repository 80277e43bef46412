"""Reads files without stalling the loop: a little in a thread, a lot in a child process.

Why a child: parsing is Python and C code that holds the interpreter lock. In a thread it gives
the lock up only every 5 ms, and each system call of the loop would wait for it anew: for the
seconds that a large file takes, the data plane would run at a fraction of its speed (measured:
docs/registries.md). A child has a lock of its own, and its memory goes back to the system when it
is done.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import msgspec
import trio

from registry.file import wire
from registry.file.wire import Job, Reader

__all__ = ["SMALL", "ReaderDied", "load"]

SMALL: Final = 32 * 1024
"""Bytes up to which files are parsed in a thread: about 20 ms of work, less than a new
interpreter needs to start."""
_CHUNK: Final = 64 * 1024


class ReaderDied(Exception):
    """The child process did not do its work (killed for its memory, perhaps)."""


async def load(jobs: Sequence[Job], reader: Reader = wire.services) -> AsyncGenerator[bytes, None]:
    """The frames of :func:`registry.file.wire.answer` for all jobs. Raises ReaderDied. Close it
    (``aclosing``) if it is not run to its end."""
    if sum(job.size for job in jobs) <= SMALL:
        for frame in await trio.to_thread.run_sync(_load_here, jobs, reader):
            yield frame
        return
    process = await _start(reader)
    splitter = wire.Splitter()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        # The child reads all jobs before it writes, so this cannot lock up.
        with contextlib.suppress(trio.BrokenResourceError):
            await process.stdin.send_all(msgspec.msgpack.encode(jobs))
        await process.stdin.aclose()
        while chunk := await process.stdout.receive_some(_CHUNK):
            for frame in splitter.feed(bytes(chunk)):
                yield frame
        status = await process.wait()
        if status != 0 or not splitter.clean:
            said = bytes(await process.stderr.receive_some(_CHUNK)).decode(errors="replace")
            last = said.strip().rpartition("\n")[2]
            raise ReaderDied(f"the reader of large files ended with status {status}: {last}")
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            # Killed or at its end: this takes no time, and leaves no zombie and no descriptor.
            await process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    await stream.aclose()


def _load_here(jobs: Sequence[Job], reader: Reader) -> list[bytes]:
    splitter = wire.Splitter()
    frames = (frame for job in jobs for frame in wire.answer(job, reader))
    return [part for frame in frames for part in splitter.feed(frame)]


async def _start(reader: Reader) -> trio.Process:
    # Isolated (-I: no environment, no working folder on the path), with our own path handed
    # over: the child imports exactly the code that we run.
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from {reader.__module__} import {reader.__name__} as reader; "
        "from registry.file.worker import main; sys.exit(main(reader))"
    )
    try:
        return await trio.lowlevel.open_process(
            [sys.executable, "-I", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise ReaderDied(f"no reader for large files could be started: {error}") from None
