"""The contract between a registry back end and the rest of the house.

A back end is its typed options and one coroutine::

    class Options(msgspec.Struct, forbid_unknown_fields=True): ...

    class FileBackend:
        kind: ClassVar[str] = "file"
        options_type: ClassVar[type] = Options

        def __init__(self, options: Options, context: Context) -> None: ...

        async def run(self, sink: Sink) -> None: ...

``run`` reads the registry for as long as it can, tells the sink what it learns, and raises
:class:`RegistryError` when it cannot go on. It keeps no last good state, counts no back-off
and catches no error only to hide it: the supervisor (:mod:`registry.supervise`) does this once
for all back ends. It is an ordinary trio task: it never blocks, and it is cancelled at any
await.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

import msgspec

from registry.model import Service

__all__ = ["Backend", "Context", "Problem", "RegistryError", "Sink"]


class RegistryError(Exception):
    """A registry cannot be read now. The supervisor backs off and runs the back end again.

    The message names what was tried and what an operator should look at.
    """


class Problem(msgspec.Struct, frozen=True):
    """One entry that could not be used, while the rest could."""

    message: str
    source: str = ""
    """The file, key or object."""
    line: int = 0
    """1-based; 0 where the source has no lines."""
    field: str = ""
    """``services[3].endpoints[0].port``, or empty."""

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        parts = [p for p in (place, self.field, self.message) if p]
        return ": ".join(parts)


class Context(msgspec.Struct, frozen=True):
    """What every back end may want to know about the node it runs on."""

    name: str
    """The registry's name in the configuration; by default its kind."""
    node: str = ""
    zone: str = ""
    base_dir: str = "."
    """Folder of the file that configured the registry; relative paths start here."""
    mark: int = 0
    """SO_MARK for every socket (set before connect), so that nodeproxy does not intercept
    its own registry traffic; 0: none."""


class Sink(Protocol):
    """Where a back end puts what it learns. All methods are plain calls and do not block."""

    def upsert(self, services: Iterable[Service]) -> None:
        """These services are now so; others stay as they are."""

    def remove(self, names: Iterable[str]) -> None:
        """These services (``namespace/name``) are gone."""

    def replace(self, services: Iterable[Service]) -> None:
        """The whole truth: services that are not among these are gone."""

    def keep(self, names: Iterable[str]) -> None:
        """These services may be there but cannot be read now: each stays as it was. Said
        before ``replace`` or ``synced``; replaces what was said before."""

    def problems(self, problems: Iterable[Problem]) -> None:
        """All entries that cannot be used now; replaces what was said before."""

    def synced(self) -> None:
        """The answer is complete and fresh as of now. Called again whenever the back end has
        confirmed that it is still up to date; this is what a registry's age counts from."""


class Backend(Protocol):
    """A registry back end; see the module's text."""

    kind: ClassVar[str]
    options_type: ClassVar[type[Any]]

    async def run(self, sink: Sink) -> None:
        """Read the registry until cancelled. Raises RegistryError when it cannot go on."""
