"""The conditions of a match. The same objects decide and explain.

Each has ``test(view)``, and for people ``text`` (what it wants) and ``found(view)`` (what the
request has instead). Values are raw bytes, as they came: nothing is decoded but the names and
values of query parameters.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from nodeproxy.core.http1 import RequestHead
from nodeproxy.core.routing.patterns import LONGEST, Pattern

__all__ = [
    "Condition",
    "HeaderIs",
    "HeaderMatches",
    "MethodIs",
    "PathIs",
    "PathMatches",
    "PathStarts",
    "QueryIs",
    "QueryMatches",
    "View",
    "query_parameters",
]

MAX_PARAMETERS = 1000
"""Further parameters of a query are not looked at: the time for a request has a bound."""


class View:
    """A request, with what was looked up in it."""

    __slots__ = ("_headers", "_query", "head")

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self._headers: dict[bytes, bytes | None] = {}
        self._query: dict[bytes, bytes] | None = None

    def header(self, name: bytes) -> bytes | None:
        """A field's value; of a repeated field all values, joined by ``, ``. Host and Upgrade
        are known, too, though they do not travel on as they came."""
        try:
            return self._headers[name]
        except KeyError:
            if name == b"host":
                value: bytes | None = self.head.host or None
            elif name == b"upgrade":
                value = self.head.upgrade or None
            else:
                value = self.head.header(name)
            self._headers[name] = value
            return value

    @property
    def query(self) -> dict[bytes, bytes]:
        found = self._query
        if found is None:
            found = self._query = query_parameters(self.head.target)
        return found


def query_parameters(target: bytes) -> dict[bytes, bytes]:
    """Names and values, decoded; of a repeated parameter the first value."""
    found: dict[bytes, bytes] = {}
    for part in target.partition(b"?")[2].split(b"&", MAX_PARAMETERS)[:MAX_PARAMETERS]:
        if b"%" in part or b"+" in part:
            name, _, value = part.replace(b"+", b" ").partition(b"=")
            found.setdefault(unquote_to_bytes(name), unquote_to_bytes(value))
        elif part:
            name, _, value = part.partition(b"=")
            found.setdefault(name, value)
    return found


class PathIs(msgspec.Struct, frozen=True, gc=False):
    value: bytes

    def test(self, view: View) -> bool:
        return view.head.path == self.value

    @property
    def text(self) -> str:
        return f"path is {show(self.value)}"

    def found(self, view: View) -> str:
        return f"the path is {show(view.head.path)}"


class PathStarts(msgspec.Struct, frozen=True, gc=False):
    """By whole elements: ``/abc`` for ``/abc`` and ``/abc/d``, not for ``/abcd``."""

    value: bytes
    """Without a slash at its end: empty for ``/``."""

    def test(self, view: View) -> bool:
        path = view.head.path
        return path == self.value or path.startswith(self.value + b"/")

    @property
    def text(self) -> str:
        return f"path begins with {show(self.value or b'/')}"

    def found(self, view: View) -> str:
        return f"the path is {show(view.head.path)}"


class PathMatches(msgspec.Struct, frozen=True, gc=False):
    pattern: Pattern

    def test(self, view: View) -> bool:
        path = view.head.path
        return len(path) <= LONGEST and self.pattern.fullmatch(path) is not None

    @property
    def text(self) -> str:
        return f"path matches {show(self.pattern.pattern)}"

    def found(self, view: View) -> str:
        return f"the path is {show(view.head.path)}"


class MethodIs(msgspec.Struct, frozen=True, gc=False):
    value: bytes

    def test(self, view: View) -> bool:
        return view.head.method == self.value

    @property
    def text(self) -> str:
        return f"method is {show(self.value)}"

    def found(self, view: View) -> str:
        return f"the method is {show(view.head.method)}"


class HeaderIs(msgspec.Struct, frozen=True, gc=False):
    name: bytes
    """In lower case."""
    value: bytes

    def test(self, view: View) -> bool:
        return view.header(self.name) == self.value

    @property
    def text(self) -> str:
        return f"header {show(self.name)} is {show(self.value)}"

    def found(self, view: View) -> str:
        return _absent(view.header(self.name), f"header {show(self.name)}")


class HeaderMatches(msgspec.Struct, frozen=True, gc=False):
    name: bytes
    pattern: Pattern

    def test(self, view: View) -> bool:
        value = view.header(self.name)
        return (
            value is not None
            and len(value) <= LONGEST
            and self.pattern.fullmatch(value) is not None
        )

    @property
    def text(self) -> str:
        return f"header {show(self.name)} matches {show(self.pattern.pattern)}"

    def found(self, view: View) -> str:
        return _absent(view.header(self.name), f"header {show(self.name)}")


class QueryIs(msgspec.Struct, frozen=True, gc=False):
    name: bytes
    value: bytes

    def test(self, view: View) -> bool:
        return view.query.get(self.name) == self.value

    @property
    def text(self) -> str:
        return f"query parameter {show(self.name)} is {show(self.value)}"

    def found(self, view: View) -> str:
        return _absent(view.query.get(self.name), f"query parameter {show(self.name)}")


class QueryMatches(msgspec.Struct, frozen=True, gc=False):
    name: bytes
    pattern: Pattern

    def test(self, view: View) -> bool:
        value = view.query.get(self.name)
        return (
            value is not None
            and len(value) <= LONGEST
            and self.pattern.fullmatch(value) is not None
        )

    @property
    def text(self) -> str:
        return f"query parameter {show(self.name)} matches {show(self.pattern.pattern)}"

    def found(self, view: View) -> str:
        return _absent(view.query.get(self.name), f"query parameter {show(self.name)}")


PathCondition = PathIs | PathStarts | PathMatches
Condition = (
    PathIs | PathStarts | PathMatches | MethodIs | HeaderIs | HeaderMatches | QueryIs | QueryMatches
)


def show(value: Any, limit: int = 100) -> str:
    """Bytes for people; not ASCII and control characters are escaped."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    text = text if text.isprintable() else text.encode("unicode_escape").decode()
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _absent(value: bytes | None, what: str) -> str:
    return f"there is no {what}" if value is None else f"{what} is {show(value)}"
