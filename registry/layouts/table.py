"""What all keys of a prefix say now, joined to services.

A key whose value cannot be read keeps what it last said, as long as it is there, and is
reported. The cost of a change is that of the services that it touches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from registry.base import Problem
from registry.layouts.entry import Entry, Layout, Parts, Unusable
from registry.layouts.shape import Shape
from registry.model import Service

__all__ = ["MAX_PROBLEMS", "Table"]

MAX_PROBLEMS: Final = 1000
"""Problems that are told one by one; the rest is a number."""


class _Row(msgspec.Struct, gc=False):
    """One key."""

    service: str
    digest: int
    """Of the value; a value that is the same again is not decoded again."""


class Table:
    """See the module's text. Only book-keeping."""

    def __init__(self, layout: Layout, shape: Shape, origin: str) -> None:
        """``origin``: of services, for people; the registry and the prefix."""
        self._layout = layout
        self._shape = shape
        self._origin = origin
        self._rows: dict[str, _Row] = {}
        self._said: dict[str, dict[str, Entry]] = {}
        """Service name to what its keys say."""
        self._bad: dict[str, set[str]] = {}
        """Service name to its keys that cannot be read."""
        self._problems: dict[str, Problem] = {}
        self.problems_changed = False
        self.dirty: dict[str, None] = {}
        """Services of which something is said anew, or no more."""
        self.decoded = 0
        """Values that were decoded, for tests."""

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def services(self) -> Iterator[str]:
        """All that are known, also those that cannot be read."""
        yield from self._said
        yield from (name for name in self._bad if name not in self._said)

    def unreadable(self) -> frozenset[str]:
        """Services of which not one key can be read."""
        return frozenset(name for name in self._bad if name not in self._said)

    def put(self, key: str, parts: Parts, value: bytes) -> None:
        """``key`` has this value now. ``key`` is what problems name as their source."""
        digest = hash(value)
        row = self._rows.get(key)
        if row is not None and row.digest == digest:
            return
        self.decoded += 1
        try:
            plain = self._layout.service(parts) if parts else None
            name = self._shape.qualified(plain) if plain else ""
        except Unusable as error:
            self._rows[key] = _Row("", digest)
            self._tell(key, Problem(str(error), key))
            return
        self._rows[key] = _Row(name, digest)
        if not name:
            return
        entry = self._layout.read(key, parts, value)
        if isinstance(entry, Problem):
            self._tell(key, entry)
            self._bad.setdefault(name, set()).add(key)
            return
        self._heal(key, name)
        said = self._said.get(name)
        if entry is None:
            if said is not None and said.pop(key, None) is not None:
                self._changed(name)
        elif said is None:
            self._said[name] = {key: entry}
            self.dirty[name] = None
        elif said.get(key) != entry:
            said[key] = entry
            self.dirty[name] = None

    def fail(self, key: str, parts: Parts, why: str) -> None:
        """The value of ``key`` cannot be had now."""
        try:
            plain = self._layout.service(parts)
        except Unusable as error:
            plain, why = None, str(error)
        name = self._shape.qualified(plain) if plain else ""
        # No value has this digest: the next one will be decoded.
        self._rows[key] = _Row(name, 0)
        self._tell(key, Problem(why, key))
        if name:
            self._bad.setdefault(name, set()).add(key)

    def note(self, source: str, why: str) -> None:
        """Something else is wrong at ``source``; or nothing any more, if ``why`` is empty."""
        self._tell(source, Problem(why, source) if why else None)

    def delete(self, key: str) -> None:
        """``key`` is gone."""
        row = self._rows.pop(key, None)
        if row is None:
            return
        self._heal(key, row.service)
        said = self._said.get(row.service)
        if said is not None and said.pop(key, None) is not None:
            self._changed(row.service)

    def build(self, name: str) -> Service | None:
        """The service as it is now; None if no key speaks of it (any more)."""
        said = self._said.get(name)
        source = f"{self._origin} {name}"
        if said is None:
            self._tell(source, None)
            return None
        found = self._layout.join({key: said[key] for key in sorted(said)})
        service, wrong = self._shape.service(name, found, self._origin)
        self._tell(source, Problem(wrong, source) if wrong else None)
        return service

    def problems(self) -> list[Problem]:
        """All that is wrong now; the first thousand one by one."""
        self.problems_changed = False
        found: list[Problem] = []
        for problem in self._problems.values():
            if len(found) == MAX_PROBLEMS:
                more = len(self._problems) - MAX_PROBLEMS
                found.append(Problem(f"{more} more keys cannot be used", self._origin))
                break
            found.append(problem)
        return found

    def _changed(self, name: str) -> None:
        if not self._said[name]:
            del self._said[name]
        self.dirty[name] = None

    def _heal(self, key: str, name: str) -> None:
        self._tell(key, None)
        bad = self._bad.get(name)
        if bad is not None:
            bad.discard(key)
            if not bad:
                del self._bad[name]

    def _tell(self, key: str, problem: Problem | None) -> None:
        if problem is None:
            if self._problems.pop(key, None) is not None:
                self.problems_changed = True
        elif self._problems.get(key) != problem:
            self._problems[key] = problem
            self.problems_changed = True
