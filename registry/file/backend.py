"""The back end ``file``.

One cycle: look which files there are, read those that changed, join what all files say about each
service that changed, publish the services whose value differs; then wait for the kernel to tell
of a change. A file that cannot be read keeps what it last said, an entry that cannot be read
keeps what it last was, and in both cases the trouble is reported with file and line.
"""

from __future__ import annotations

import contextlib
import os
from typing import Annotated, ClassVar, Final, Literal

import msgspec
import trio

from registry.base import Context, Problem, RegistryError, Sink
from registry.bulk import bulk
from registry.file import linkerd, loader, wire
from registry.file.fragment import Fragment, join
from registry.file.places import Found, Scan, Signature
from registry.file.watching import RESCAN, Place
from registry.model import Service

__all__ = ["FileBackend", "Options"]

BITE: Final = 200
"""Endpoints that are worked on between two checkpoints."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``{kind: file, path: services.yaml}``"""

    path: Annotated[str, msgspec.Meta(min_length=1)]
    """A file or a folder, relative to the file that configures the registry."""
    format: Literal["auto", "linkerd-fs"] = "auto"
    """``auto``: YAML and JSON, the format recognised for each document. ``linkerd-fs``: the
    folder of Linkerd 1.x, a file for each service with lines ``HOST PORT [* WEIGHT]``."""


class _File:
    """What one file last said."""

    __slots__ = ("bad", "digest", "problems", "services", "signature", "unreadable")

    def __init__(self) -> None:
        self.signature: Signature | None = None
        self.digest = b""
        self.services: dict[str, tuple[bytes, Fragment]] = {}
        self.problems: tuple[Problem, ...] = ()
        self.unreadable: tuple[str, ...] = ()
        self.bad = False


class FileBackend:
    """See the module's text. What was read is kept between runs, so that a new run after an
    error starts from the last good state of each file."""

    kind: ClassVar[str] = "file"
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options, context: Context) -> None:
        self.path = os.path.abspath(os.path.join(context.base_dir, options.path))
        self._any_name = options.format == "linkerd-fs"
        self.reader: wire.Reader = linkerd.reading if self._any_name else wire.services
        """What reads a file; set before the first run, if at all."""
        self._files: dict[str, _File] = {}
        self._holders: dict[str, tuple[str, ...]] = {}
        """For each service the files that speak of it, sorted."""
        self._told = ""
        """The trouble of which the supervisor knows."""
        self.parsed = 0
        """Files that were parsed, for tests and status."""

    async def run(self, sink: Sink) -> None:
        """See :class:`registry.base.Backend`."""
        try:
            place = Place(self.path, any_name=self._any_name)
        except OSError as error:
            raise RegistryError(f"{self.path} cannot be watched: {error}") from None
        published: dict[str, Service] = {}
        first = True
        with place:
            while True:
                found = await place.look()
                changed = await self._update(found)
                if first:
                    changed = dict.fromkeys(self._holders)
                trouble = self._trouble(found)
                self._report(sink, place)
                upserts, removals = await self._joined(changed, published)
                self._keep(sink)
                await self._publish(sink, upserts, removals, bool(published))
                first = False
                if not trouble:
                    self._told = ""
                    sink.synced()
                elif trouble != self._told:
                    # Once, so that it shows as this registry's error; the next run waits for
                    # the repair without failing again.
                    self._told = trouble
                    raise RegistryError(trouble)
                racy = any(f.signature is None and not f.bad for f in self._files.values())
                await place.change(racy=racy)

    # --- reading ---

    async def _update(self, found: Scan) -> dict[str, None]:
        """Read what changed. The services of which something is said anew, or no more."""
        changed: dict[str, None] = {}
        if found.missing:
            # The path as a whole is gone: an accident, until it is there again.
            return changed
        here = {f.path: f for f in found.files}
        for path in [p for p in self._files if p not in here]:
            self._forget(path, changed)
        stale = [f for f in found.files if self._is_stale(f)]
        new = sum(f.size for f in stale if f.path not in self._files)
        if new > loader.SMALL:
            with bulk():
                await self._read(stale, changed)
        elif stale:
            await self._read(stale, changed)
        return changed

    def _is_stale(self, found: Found) -> bool:
        file = self._files.get(found.path)
        return file is None or found.signature is None or file.signature != found.signature

    async def _read(self, stale: list[Found], changed: dict[str, None]) -> None:
        jobs = []
        for found in stale:
            file = self._files.setdefault(found.path, _File())
            jobs.append(wire.Job(found.path, self._source(found.path), found.size, file.digest))
        todo = iter(stale)
        parts: dict[str, tuple[bytes, Fragment]] = {}
        left = 0
        bite = 0
        try:
            async with contextlib.aclosing(loader.load(jobs, self.reader)) as frames:
                async for frame in frames:
                    if not left:
                        current = next(todo)
                        head = wire.decode_head(frame)
                        parts = {}
                        left = head.parts
                    else:
                        bite += self._take(
                            self._files[current.path], wire.decode_part(frame), parts
                        )
                        left -= 1
                    if not left:
                        # As a whole or not at all, even if we are cancelled meanwhile.
                        with trio.CancelScope(shield=True):
                            await self._accept(current, head, parts, changed)
                        bite += 1
                    if bite >= BITE:
                        bite = 0
                        await trio.lowlevel.checkpoint()
        except loader.ReaderDied as error:
            raise RegistryError(f"{self.path}: {error}") from None

    def _take(self, file: _File, part: wire.Part, parts: dict[str, tuple[bytes, Fragment]]) -> int:
        """Decode a service if it differs from what the file said before; the work done."""
        known = file.services.get(part.name)
        if known is not None and known[0] == part.digest:
            parts[part.name] = known
            return 1
        fragment = wire.decode_fragment(part.fragment)
        parts[part.name] = (part.digest, fragment)
        return 1 + len(fragment.service.endpoints)

    async def _accept(
        self,
        found: Found,
        head: wire.Head,
        parts: dict[str, tuple[bytes, Fragment]],
        changed: dict[str, None],
    ) -> None:
        """A file has been read; ``parts`` is all that it says now."""
        file = self._files[found.path]
        if head.gone:
            file.signature = None
            return  # between looking and reading; the next look decides
        file.signature = found.signature
        if head.digest == file.digest and not head.bad:
            return
        self.parsed += 1
        file.problems = head.problems
        file.bad = head.bad
        # A bad file's digest is not kept: where an old text comes back, it is read again.
        file.digest = b"" if head.bad else head.digest
        if head.bad:
            return
        # A truncated file, or one without a single good entry, says nothing of what it had;
        # `services: []` does.
        emptied = not head.parts and bool(head.problems)
        stay = file.services.keys() - parts.keys()
        if not (head.partial or emptied):
            stay &= set(head.unreadable)
        for name in stay:
            parts[name] = file.services[name]
        file.unreadable = head.unreadable
        for i, (name, part) in enumerate(parts.items()):
            if i % 1000 == 999:
                await trio.lowlevel.checkpoint()
            if file.services.get(name) is part:
                continue
            changed[name] = None
            holders = self._holders.get(name, ())
            if found.path not in holders:
                self._holders[name] = tuple(sorted((*holders, found.path)))
        for name in file.services.keys() - parts.keys():
            self._drop(name, found.path, changed)
        file.services = parts

    def _forget(self, path: str, changed: dict[str, None]) -> None:
        for name in self._files.pop(path).services:
            self._drop(name, path, changed)

    def _drop(self, name: str, path: str, changed: dict[str, None]) -> None:
        holders = tuple(p for p in self._holders[name] if p != path)
        if holders:
            self._holders[name] = holders
        else:
            del self._holders[name]
        changed[name] = None

    # --- telling ---

    async def _joined(
        self, changed: dict[str, None], published: dict[str, Service]
    ) -> tuple[list[Service], list[str]]:
        """Of the services that may have changed those that have; ``published`` follows."""
        upserts: list[Service] = []
        removals: list[str] = []
        bite = 0
        for name in changed:
            holders = self._holders.get(name)
            before = published.get(name)
            if holders is None:
                if before is not None:
                    del published[name]
                removals.append(name)
                bite += 1
            else:
                service = join([self._files[path].services[name][1] for path in holders])
                if service != before:
                    published[name] = service
                    upserts.append(service)
                bite += 1 + len(service.endpoints)
            if bite >= BITE:
                bite = 0
                await trio.lowlevel.checkpoint()
        return upserts, removals

    def _keep(self, sink: Sink) -> None:
        names = {n for file in self._files.values() for n in file.unreadable}
        sink.keep(n for n in names if n not in self._holders)

    async def _publish(
        self, sink: Sink, upserts: list[Service], removals: list[str], any_left: bool
    ) -> None:
        if removals and not any_left:
            # Not one by one: that all services are gone at once is for the supervisor to judge.
            sink.replace([])
            return
        if removals:
            sink.remove(removals)
        for at in range(0, len(upserts), 1000):
            sink.upsert(upserts[at : at + 1000])
            await trio.lowlevel.checkpoint()

    def _trouble(self, found: Scan) -> str:
        """Why what we know may not be all there is; empty if it is."""
        if found.missing:
            return found.missing
        bad = [file for _, file in sorted(self._files.items()) if file.bad]
        if not bad:
            return ""
        more = f" (and {len(bad) - 1} more files)" if len(bad) > 1 else ""
        return f"{bad[0].problems[0]}{more}"

    def _report(self, sink: Sink, place: Place) -> None:
        problems = [p for _, file in sorted(self._files.items()) for p in file.problems]
        if place.failed:
            message = f"changes are seen only every {RESCAN:g} s: {place.failed}"
            problems.append(Problem(message, self.path))
        sink.problems(problems)

    def _source(self, path: str) -> str:
        return path
