"""When to look at files again: the kernel tells of changes, and a clock for those that it does
not see. Used by everything that reads a file or folder for as long as the daemon runs."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

import trio

from registry.file.inotify import Watcher
from registry.file.places import Scan, scan

__all__ = ["RESCAN", "Place"]

RESCAN: Final = 30.0
"""Seconds after which files are looked at even if nothing was told: inotify sees nothing of
changes on network file systems made elsewhere."""
SETTLE: Final = 0.02
SETTLE_WRITING: Final = 0.1
"""Seconds without an event before files are read: a folder swap is several events, and an editor
that writes in place is not done with its first write."""
PATIENCE: Final = 1.0
"""But not longer than this: a file that never rests must be read some time."""


class Place:
    """A path that is watched: a file or a folder. Use it as a context manager."""

    def __init__(self, path: str, *, any_name: bool = False) -> None:
        """``path`` is absolute; ``any_name`` as in :func:`registry.file.places.scan`. Raises
        OSError (too many inotify instances)."""
        self.path = path
        self._any_name = any_name
        self._watcher = Watcher()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watcher.close()

    @property
    def failed(self) -> str:
        """Why changes are seen only every ``RESCAN`` seconds; else empty."""
        return self._watcher.failed

    async def look(self) -> Scan:
        """What is there now."""
        while True:
            found = await trio.to_thread.run_sync(scan, self.path, self._any_name)
            # What happened before a watch was there was not told: look again.
            if not self._watcher.watch(found.folders):
                return found

    async def change(self, *, racy: bool) -> None:
        """Until it is time to look again. ``racy``: a file was so fresh that its next change
        could look like none."""
        with trio.move_on_after(1.0 if racy else RESCAN):
            writing = await self._watcher.wait()
            with trio.move_on_after(PATIENCE):
                while True:
                    with trio.move_on_after(SETTLE_WRITING if writing else SETTLE) as quiet:
                        writing |= await self._watcher.wait()
                    if quiet.cancelled_caught:
                        break
