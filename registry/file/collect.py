"""Gathers what the documents of one file say, service by service."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from registry.base import Problem
from registry.file.fragment import Content, Fragment, unite
from registry.model import Endpoint, Service
from registry.strict import Document, Path

__all__ = ["Collector"]


class Collector:
    """Mutable; filled by the formats' ``read``."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self._declared: dict[str, Service] = {}
        self._endpoints: dict[str, list[Endpoint]] = {}
        self._unreadable: dict[str, None] = {}
        self._partial = False

    def declare(self, service: Service, document: Document, path: Path) -> None:
        """The file has this service (and its endpoints, if any are inside)."""
        if service.name in self._declared:
            self.bad(
                service.name,
                [document.problem(f"the service {service.name!r} stands twice in this file", path)],
            )
            return
        self._declared[service.name] = service
        self.endpoints(service.name, service.endpoints)

    def endpoints(self, name: str, endpoints: Iterable[Endpoint]) -> None:
        """The file has endpoints for the service ``name``."""
        self._endpoints.setdefault(name, []).extend(endpoints)

    def bad(self, name: str | None, problems: Iterable[Problem]) -> None:
        """An entry for the service ``name`` (None: unknown) cannot be used."""
        self.problems.extend(problems)
        if name is None:
            self._partial = True
        else:
            self._unreadable[name] = None

    def content(self) -> Content:
        fragments: list[Fragment] = []
        for name in self._declared.keys() | self._endpoints.keys():
            if name in self._unreadable:
                continue
            # Of every service of this file, the whole file is the origin; a line would change
            # with each line inserted above, and with it every service below.
            base = self._declared.get(name) or Service(name, origin=self.source)
            endpoints = unite(self._endpoints.get(name, ()))
            if endpoints != base.endpoints:
                base = msgspec.structs.replace(base, endpoints=endpoints)
            fragments.append(Fragment(base, name in self._declared))
        fragments.sort(key=lambda f: f.service.name)
        return Content(
            tuple(fragments), tuple(self.problems), tuple(self._unreadable), self._partial
        )
