"""The life of the given virtual addresses: from the disk, to the disk, and what is told of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio

from registry import vipfile
from registry.base import Problem
from registry.vips import Allocator

__all__ = ["Addresses", "VipsStatus"]

NAMED = 10
"""Services without an address that are named."""


class VipsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The given addresses as of now."""

    networks: tuple[str, ...]
    given: int
    """Services that have one."""
    kept: int
    """Services that are gone and whose address is kept for them."""
    missing: int
    """Services that have none because a network is full."""
    capacity: int
    """Services for which the smallest network has room."""
    problems: tuple[Problem, ...] = ()


class Addresses:
    """An allocator with its file. Nothing the disk does ends it."""

    def __init__(
        self,
        networks: Sequence[str],
        state_dir: Path | None,
        *,
        wall_clock: Callable[[], float] = time.time,
        log: Any,
    ) -> None:
        """Raises ValueError."""
        self.allocator = Allocator(networks, clock=wall_clock)
        self._path = None if state_dir is None else vipfile.path_in(state_dir)
        self._clock = wall_clock
        self._log = log
        self._saved = 0
        self._error = ""
        self._told = 0

    async def restore(self) -> None:
        """Before any service is there."""
        if self._path is None:
            return
        now = self._clock()
        try:
            given = await trio.to_thread.run_sync(vipfile.load, self._path)
        except (vipfile.BadFile, OSError) as error:
            self._error = str(error)
            self._log.warning("saved addresses ignored", error=self._error)
            return
        if given is not None:
            # Nobody else uses it yet, and thousands of addresses take a while.
            await trio.to_thread.run_sync(self.allocator.restore, given, now)

    async def save(self) -> None:
        """If there is anything new."""
        allocator = self.allocator
        self._tell()
        changes = allocator.changes
        if self._path is None or changes == self._saved:
            return
        try:
            await trio.to_thread.run_sync(vipfile.save, self._path, allocator.keep())
        except OSError as error:
            message = f"given addresses cannot be kept at {self._path}: {error.strerror or error}"
            if message != self._error:
                self._log.error("saving failed", error=message)
            self._error = message
        else:
            self._saved = changes
            self._error = ""

    def status(self) -> VipsStatus:
        allocator = self.allocator
        problems = [Problem(self._error)] if self._error else []
        waiting = list(allocator.waiting)
        if waiting:
            more = f" and {len(waiting) - NAMED} more" if len(waiting) > NAMED else ""
            problems.append(
                Problem(
                    f"no address is left for {', '.join(waiting[:NAMED])}{more}: a larger network "
                    f"is needed (vips: {', '.join(allocator.networks)})"
                )
            )
        return VipsStatus(
            networks=allocator.networks,
            given=allocator.given,
            kept=allocator.kept,
            missing=len(waiting),
            capacity=allocator.capacity,
            problems=tuple(problems),
        )

    def _tell(self) -> None:
        missing = len(self.allocator.waiting)
        if missing and not self._told:
            self._log.error("no address is left", services=missing, example=self._first())
        self._told = missing

    def _first(self) -> str:
        return next(iter(self.allocator.waiting), "")
