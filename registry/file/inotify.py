"""inotify(7) for trio: which folders have changed.

The few lines that are needed of it, by ctypes on libc: libraries for it bring an event loop or a
thread of their own.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

import trio

__all__ = ["Watcher"]

IN_MODIFY: Final = 0x2
IN_CLOSE_WRITE: Final = 0x8
IN_ATTRIB: Final = 0x4
_EVENTS: Final = (
    IN_MODIFY
    | IN_ATTRIB
    | IN_CLOSE_WRITE
    | 0x40  # IN_MOVED_FROM
    | 0x80  # IN_MOVED_TO
    | 0x100  # IN_CREATE
    | 0x200  # IN_DELETE
    | 0x400  # IN_DELETE_SELF
    | 0x800  # IN_MOVE_SELF
)
_ONLYDIR: Final = 0x01000000
_IGNORED: Final = 0x8000
_HEADER: Final = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class Watcher:
    """A set of watched folders and one question: has anything happened in them?"""

    def __init__(self) -> None:
        """Raises OSError (too many inotify instances)."""
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _error("inotify")
        self._watches: dict[str, int] = {}
        self.failed: str = ""
        """Why a folder could not be watched, other than that it is not there."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            trio.lowlevel.notify_closing(fd)
            os.close(fd)

    def watch(self, folders: Iterable[str]) -> bool:
        """Watch exactly these folders; those that do not exist are passed over. True if any
        watch is new: what happened there before was not seen, so look again."""
        wanted = dict.fromkeys(folders)
        self.failed = ""
        fresh = False
        found: dict[str, int] = {}
        for folder in wanted:
            # Adding again is how to see that the folder is another one now, by the same name:
            # the kernel gives the old number for the old folder, a new one for a new.
            number = _libc.inotify_add_watch(self._fd, os.fsencode(folder), _EVENTS | _ONLYDIR)
            if number < 0:
                error = _error(folder)
                if not isinstance(error, FileNotFoundError | NotADirectoryError):
                    self.failed = str(error)
                continue
            fresh |= self._watches.get(folder) != number
            found[folder] = number
        for number in set(self._watches.values()) - set(found.values()):
            # Fails if the folder is gone and its watch with it.
            _libc.inotify_rm_watch(self._fd, number)
        self._watches = found
        return fresh

    async def wait(self) -> bool:
        """Until something happens. True if a file may still be being written."""
        writing = False
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            seen = False
            for mask in self._read():
                seen |= not mask & _IGNORED
                writing |= bool(mask & IN_MODIFY)
            if seen:
                return writing

    def _read(self) -> list[int]:
        masks: list[int] = []
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return masks
        at = 0
        while at < len(data):
            _, mask, _, size = _HEADER.unpack_from(data, at)
            masks.append(mask)
            at += _HEADER.size + size
        return masks


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
