"""Which DNS name a service has, and which service a name means. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from registry.catalog import Change

__all__ = ["Names", "host_name"]

# Host names (RFC 1123) and the underscore, which DNS allows and some registries use.
_LABELS = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_ROOM = 253 - 101
"""What the longest suffix leaves of a name."""


def host_name(service: str) -> str | None:
    """``shop/web`` -> ``web.shop``; None where the name has characters that no host name may
    have: what a registry says must never become a line of its own in a hosts file."""
    namespace, _, name = service.partition("/")
    made = f"{name}.{namespace}".lower()
    if len(made) > _ROOM or not all(_LABELS.fullmatch(label) for label in made.split(".")):
        return None
    return made


class Names:
    """All names there are. DNS knows no case, registries do: of two services whose names differ
    by that only, the one that sorts first is found."""

    def __init__(self) -> None:
        self._services: dict[str, list[str]] = {}
        self._nodes: dict[str, int] = {}

    def update(self, changes: Iterable[Change]) -> None:
        """Follow the catalog."""
        for change in changes:
            if (change.old is None) == (change.new is None):
                continue
            made = host_name(change.name)
            if made is None:
                continue
            if change.new is not None:
                self._add(made, change.name)
            else:
                self._remove(made, change.name)

    def service(self, name: str) -> str | None:
        """``web.shop`` -> ``shop/web``."""
        found = self._services.get(name)
        return found[0] if found else None

    def exists(self, name: str) -> bool:
        """There is a service of this name or below it (RFC 8020)."""
        return name in self._nodes

    def __len__(self) -> int:
        return len(self._services)

    def _add(self, made: str, name: str) -> None:
        services = self._services.setdefault(made, [])
        if name in services:
            return
        services.append(name)
        services.sort()
        for node in _above(made):
            self._nodes[node] = self._nodes.get(node, 0) + 1

    def _remove(self, made: str, name: str) -> None:
        services = self._services.get(made, [])
        if name not in services:
            return
        services.remove(name)
        if not services:
            del self._services[made]
        for node in _above(made):
            left = self._nodes[node] - 1
            if left:
                self._nodes[node] = left
            else:
                del self._nodes[node]


def _above(name: str) -> Iterable[str]:
    """``a.b.c``, ``b.c``, ``c``"""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield name
