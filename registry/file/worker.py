"""The child process that parses large files. Jobs come on standard input as one MessagePack list,
frames (see :mod:`registry.file.wire`) go to standard output."""

from __future__ import annotations

import os
import sys

import msgspec

from registry.file.wire import Job, Reader, answer

__all__ = ["main"]


def main(reader: Reader) -> int:
    """The process's exit status."""
    # The data plane goes first: a late registry is better than late requests.
    os.nice(5)
    jobs = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=list[Job])
    out = sys.stdout.buffer
    for job in jobs:
        for frame in answer(job, reader):
            out.write(frame)
    out.flush()
    return 0
