"""What the admin server hands to its handler and what it is given back.

Kept apart from the server so that routing (:mod:`nodeproxy.admin.api`) knows no socket.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

__all__ = ["BadTarget", "Handler", "Request", "Response", "Unable", "error", "request"]

JSON = "application/json"


class BadTarget(ValueError):
    """The request's target is not a path with an optional query."""


class Unable(Exception):
    """What was asked for cannot be done now; ``hint`` says what to look at. Answered with 503."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Request(msgspec.Struct, frozen=True):
    """One request whose head and body have been read completely."""

    method: str
    segments: tuple[str, ...]
    """The path's parts, each percent-decoded: ``/services/shop/web`` is ``("services", "shop",
    "web")``, ``/`` is empty."""
    query: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def path(self) -> str:
        return "/" + "/".join(self.segments)

    def values(self, name: str) -> tuple[str, ...]:
        """Every value of this query parameter, in order."""
        return tuple(value for key, value in self.query if key == name)

    def value(self, name: str, default: str = "") -> str:
        """The last value of this query parameter."""
        values = self.values(name)
        return values[-1] if values else default


Body = bytes | Iterable[bytes] | AsyncIterable[bytes]
"""Whole, or in slices: the server lets the loop breathe after each slice."""


class Response(msgspec.Struct, frozen=True):
    status: int
    body: Body = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Awaitable[Response]]


def request(method: str, target: str, body: bytes = b"") -> Request:
    """A request for an origin-form or absolute-form target. Raises BadTarget."""
    try:
        parts = urlsplit(target)
        segments = tuple(unquote(part, errors="strict") for part in parts.path.split("/") if part)
        query = tuple(parse_qsl(parts.query, keep_blank_values=True, errors="strict"))
    except ValueError as exc:
        raise BadTarget(f"cannot read the target {target[:100]!r}: {exc}") from exc
    if not parts.path.startswith("/"):
        raise BadTarget(f"the target {target[:100]!r} is not a path")
    return Request(method, segments, query, body)


def error(
    status: int, message: str, hint: str = "", headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    """An error as JSON: ``{"error": ..., "hint": ...}``."""
    content = {"error": message, "hint": hint} if hint else {"error": message}
    return Response(status, msgspec.json.encode(content) + b"\n", headers=headers)
