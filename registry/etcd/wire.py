"""The messages of etcd's JSON gateway that we use, and lines out of a stream.

It is proto3 JSON: 64-bit integers are texts, fields with a default value are left out, keys and
values are base64. https://etcd.io/docs/v3.4/dev-guide/apispec/ (KV, Watch, Auth).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import msgspec

__all__ = [
    "COMPACTED",
    "Bad",
    "Event",
    "GatewayError",
    "Header",
    "KeyValue",
    "Lines",
    "Range",
    "Token",
    "WatchLine",
    "WatchResult",
    "decode",
    "prefix_range",
    "range_request",
    "watch_request",
]

T = TypeVar("T")

COMPACTED: Final = 11
"""gRPC's OUT_OF_RANGE: a read at a revision that is compacted, or not there yet."""
MAX_LINE: Final = 64 << 20


class Bad(Exception):
    """The server sent what no etcd sends."""


class Header(msgspec.Struct):
    cluster_id: str = ""
    revision: int = 0
    raft_term: int = 0


class KeyValue(msgspec.Struct):
    key: bytes = b""
    value: bytes = b""
    mod_revision: int = 0


class Range(msgspec.Struct):
    header: Header
    kvs: list[KeyValue] = []
    more: bool = False
    count: int = 0


class Event(msgspec.Struct):
    kv: KeyValue
    type: str = "PUT"


class GatewayError(msgspec.Struct):
    """Of an answer (``code``) or inside of a stream (``grpc_code``)."""

    message: str = ""
    error: str = ""
    code: int = 0
    grpc_code: int = 0


class WatchResult(msgspec.Struct):
    header: Header
    created: bool = False
    canceled: bool = False
    cancel_reason: str = ""
    compact_revision: int = 0
    fragment: bool = False
    """More of the same revision follows."""
    events: list[Event] = []


class WatchLine(msgspec.Struct):
    result: WatchResult | None = None
    error: GatewayError | None = None


class Token(msgspec.Struct):
    token: str


def decode(data: bytes, type_: type[T]) -> T:
    """Raises Bad."""
    try:
        return msgspec.json.decode(data, type=type_, strict=False)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Bad(f"not an answer of etcd's JSON gateway: {error}") from None


def prefix_range(prefix: str) -> tuple[bytes, bytes]:
    """The half-open range of all keys below the folder ``prefix``; all keys for an empty one."""
    key = prefix.rstrip("/").encode()
    if not key:
        return b"\0", b"\0"
    return key + b"/", key + b"0"


def range_request(key: bytes, end: bytes, limit: int, revision: int) -> dict[str, Any]:
    """A page of keys from ``key`` on. ``revision`` 0: the newest, agreed upon by a quorum."""
    return {"key": _text(key), "range_end": _text(end), "limit": limit, "revision": revision}


def watch_request(key: bytes, end: bytes, start: int) -> dict[str, Any]:
    create = {
        "key": _text(key),
        "range_end": _text(end),
        "start_revision": start,
        "progress_notify": True,
        "fragment": True,
    }
    return {"create_request": create}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Lines:
    """Cuts a stream into lines. A line of megabytes costs no more than its length."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that are complete now. Raises Bad for one without an end."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            whole = b"".join((*self._parts, line)) if self._parts else line
            self._parts.clear()
            self._held = 0
            if whole.strip():
                yield whole
        if rest:
            self._held += len(rest)
            if self._held > MAX_LINE:
                raise Bad(f"a message of more than {MAX_LINE >> 20} MB")
            self._parts.append(rest)
