"""A file or folder of routes, read once or for as long as the daemon runs.

A file counts as a whole: while anything in it is wrong, what it last said stays, and the problems
are reported. (Where it never was right, its good objects count: better some routes than none.) A
file that is deleted takes its objects with it; a path that vanishes as a whole does not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from nodeproxy.core.routing.objects import NOTHING, Key, Loaded, Objects, add, make
from nodeproxy.routes.reading import decode, read_file, routes
from registry.base import Problem
from registry.file import loader, wire
from registry.file.places import Found, Scan, Signature, scan
from registry.file.watching import RESCAN, Place

__all__ = ["RouteFiles", "Routes", "read_path"]

BITE: Final = 50
"""Objects that are worked on between two checkpoints: about 2 ms."""


class Routes(msgspec.Struct, frozen=True):
    """All route objects at one time."""

    objects: Objects = NOTHING
    problems: tuple[Problem, ...] = ()
    generation: int = 0
    """Grows by one with every change."""
    files: int = 0


def read_path(path: str) -> Routes:
    """Read a file or a folder once. Blocks. Raises OSError if there is none."""
    found = scan(os.path.abspath(path))
    if found.missing:
        os.stat(path)
        raise OSError(0, found.missing, path)
    loaded: list[Loaded] = []
    problems: list[Problem] = []
    for file in found.files:
        shown = path if file.path == os.path.abspath(path) else _beside(path, file.path)
        objects, wrong = read_file(shown)
        loaded += objects
        problems += wrong
    made, twice = make(loaded)
    return Routes(made, (*problems, *twice), 1, len(found.files))


def _beside(folder: str, file: str) -> str:
    return os.path.join(folder, os.path.basename(file))


class _File:
    """What one file last said."""

    __slots__ = ("bad", "digest", "objects", "problems", "signature")

    def __init__(self) -> None:
        self.signature: Signature | None = None
        self.digest = b""
        self.objects: dict[str, tuple[bytes, Loaded]] = {}
        self.problems: tuple[Problem, ...] = ()
        self.bad = False


class RouteFiles:
    """Watches a path. ``publish`` is called with every change, and once at the start."""

    def __init__(self, path: str, publish: Callable[[Routes], None]) -> None:
        self.path = os.path.abspath(path)
        self._publish = publish
        self._files: dict[str, _File] = {}
        self.routes = Routes()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; ``started`` after the first reading. Raises OSError if the path
        can't be watched (too many inotify instances)."""
        first = True
        with Place(self.path) as place:
            while True:
                found = await place.look()
                trouble = await self._update(found)
                if place.failed:
                    message = f"changes are seen only every {RESCAN:g} s: {place.failed}"
                    trouble.append(Problem(message, self.path))
                await self._tell(trouble, first)
                if first:
                    first = False
                    task_status.started()
                racy = any(f.signature is None for f in self._files.values())
                await place.change(racy=racy)

    async def _update(self, found: Scan) -> list[Problem]:
        if found.missing:
            # The path as a whole is gone: an accident, until it is there again.
            return [Problem(f"no routes are read: {found.missing}", self.path)]
        here = {f.path for f in found.files}
        for path in [p for p in self._files if p not in here]:
            del self._files[path]
        stale = [f for f in found.files if self._is_stale(f)]
        if stale:
            try:
                await self._read(stale)
            except loader.ReaderDied as error:
                return [Problem(str(error), self.path)]
        return []

    def _is_stale(self, found: Found) -> bool:
        file = self._files.get(found.path)
        return file is None or found.signature is None or file.signature != found.signature

    async def _read(self, stale: list[Found]) -> None:
        jobs = []
        for found in stale:
            file = self._files.setdefault(found.path, _File())
            jobs.append(wire.Job(found.path, found.path, found.size, file.digest))
        todo = iter(stale)
        parts: dict[str, tuple[bytes, Loaded]] = {}
        left = bite = 0
        async with contextlib.aclosing(loader.load(jobs, routes)) as frames:
            async for frame in frames:
                if not left:
                    current = next(todo)
                    head = wire.decode_head(frame)
                    parts = {}
                    left = head.parts
                else:
                    part = wire.decode_part(frame)
                    known = self._files[current.path].objects.get(part.name)
                    if known is None or known[0] != part.digest:
                        known = (part.digest, decode(part.fragment))
                        bite += 1
                    # A name that stands twice in one file keeps both, and is found below.
                    parts[part.name if part.name not in parts else f"{part.name}#{left}"] = known
                    left -= 1
                if not left:
                    self._accept(current, head, parts)
                if bite >= BITE:
                    bite = 0
                    await trio.lowlevel.checkpoint()

    def _accept(
        self, found: Found, head: wire.Head, parts: dict[str, tuple[bytes, Loaded]]
    ) -> None:
        file = self._files[found.path]
        if head.gone:
            file.signature = None
            return  # between looking and reading; the next look decides
        file.signature = found.signature
        if head.digest == file.digest and not head.bad:
            return
        file.problems = head.problems
        file.bad = head.bad or bool(head.problems)
        file.digest = b"" if head.bad else head.digest
        if not file.bad or not file.objects:
            file.objects = parts

    async def _tell(self, trouble: list[Problem], first: bool) -> None:
        by_key: dict[Key, Loaded] = {}
        problems = [p for _, file in sorted(self._files.items()) for p in file.problems]
        bite = 0
        for _, file in sorted(self._files.items()):
            for _, loaded in file.objects.values():
                twice = add(by_key, loaded)
                if twice is not None:
                    problems.append(twice)
                bite += 1
                if bite % 1000 == 0:
                    await trio.lowlevel.checkpoint()
        old = self.routes
        problems += trouble
        same = (
            len(by_key) == len(old.objects)
            and all(old.objects.by_key.get(key) is one for key, one in by_key.items())
            and tuple(problems) == old.problems
        )
        if same and not first:
            return
        self.routes = Routes(Objects(by_key), tuple(problems), old.generation + 1, len(self._files))
        self._publish(self.routes)
