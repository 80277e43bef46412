"""What the API server says, before it is known which objects it is about: pages, events, errors.

kubernetes.io/docs/reference/using-api/api-concepts
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

__all__ = [
    "Event",
    "Lines",
    "Named",
    "Page",
    "Status",
    "event",
    "is_older",
    "named",
    "page",
    "status",
]

MAX_LINE: Final = 64 << 20
"""Bytes of one event. etcd holds 1.5 MB in an object by default; its JSON is a few times longer."""


class _PageMeta(msgspec.Struct, frozen=True, rename={"version": "resourceVersion"}):
    version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class Page(msgspec.Struct, frozen=True):
    """One page of a list. Items are decoded one by one, so that one bad item harms no other."""

    metadata: _PageMeta
    items: list[msgspec.Raw] | None = None


class Event(msgspec.Struct, frozen=True):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class _Name(msgspec.Struct, frozen=True, rename={"version": "resourceVersion"}):
    name: str = ""
    namespace: str = ""
    version: str = ""
    labels: dict[str, str] | None = None


class Named(msgspec.Struct, frozen=True):
    """As much of an object as tells which one it is."""

    metadata: _Name


class _Details(msgspec.Struct, frozen=True, rename="camel"):
    retry_after_seconds: int = 0


class Status(msgspec.Struct, frozen=True):
    """Why a request failed."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


page: Final = msgspec.json.Decoder(Page).decode
event: Final = msgspec.json.Decoder(Event).decode
named: Final = msgspec.json.Decoder(Named).decode
_status: Final = msgspec.json.Decoder(Status).decode


def status(body: bytes | msgspec.Raw) -> Status:
    """Never fails: what is no Status (a load balancer's page) becomes the message."""
    try:
        return _status(body)
    except msgspec.MsgspecError:
        return Status(message=bytes(body)[:200].decode(errors="replace"))


def is_older(version: str, than: str) -> bool:
    """Whether a resourceVersion is from before another one. Both come from one etcd, whose
    revisions they are; where one is not a number nothing is known, and nothing is older."""
    if version.isdecimal() and than.isdecimal() and len(version) < 32 and len(than) < 32:
        return int(version) < int(than)
    return False


class Lines:
    """Cuts a stream into lines, however it arrives. Only LF ends a line: JSON texts may hold
    other characters that some call line ends."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that are complete now. Raises ValueError for one without end. Must be run to
        its end before the next feed."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._parts.append(data[start:end])
            line = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
            start = end + 1
            if line.strip():
                yield line
        if start < len(data):
            self._parts.append(data[start:])
            self._size += len(data) - start
            if self._size > MAX_LINE:
                raise ValueError("an event is too long")
