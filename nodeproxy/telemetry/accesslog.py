"""The access log: one line of JSON per request or connection that is worth one.

The keys are those that operators know from Envoy and Istio, with two of our own: ``service``
and ``tries``. Values that do not exist are null; no response flag is a dash, as there.

What a client sent is data, not text: bytes that are not UTF-8 and terminal control codes are
spelled out (``\\xff``), so that a line is always valid JSON, always one line, and harmless to
look at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from random import Random
from time import monotonic as _monotonic
from time import time as _time
from typing import Final, Literal

import msgspec

from nodeproxy.core.record import Record
from nodeproxy.telemetry.families import Families
from nodeproxy.telemetry.writer import LineWriter

__all__ = ["AccessLog", "AccessLogSettings", "Line", "line_of", "timestamp"]

NO_FLAGS: Final = "-"
_CONTROL: Final = re.compile("[\x7f-\x9f]")


class AccessLogSettings(msgspec.Struct, frozen=True):
    """What is worth a line."""

    mode: Literal["errors", "all", "off"] = "errors"
    """``errors``: status 500 and above, or any response flag."""
    sample: float = 1.0
    """In mode ``all``, the fraction, 0 to 1, of the records that are neither errors nor slow
    which is written. Errors and slow ones always are."""
    slow: float = 0.0
    """Seconds from which on a request is slow and written in mode ``errors`` too; 0: none is.
    Connections that are relayed as TCP are never slow: they last as long as they are used."""


class Line(msgspec.Struct, frozen=True, gc=False):
    """A line's fields, in their order. Times are whole milliseconds, counts are bytes."""

    start_time: str
    method: str | None
    path: str | None
    authority: str | None
    protocol: str
    response_code: int
    response_flags: str
    response_code_details: str | None
    bytes_received: int
    bytes_sent: int
    duration: int
    upstream_service_time: int | None
    x_forwarded_for: str | None
    user_agent: str | None
    request_id: str | None
    upstream_host: str | None
    upstream_cluster: str | None
    upstream_local_address: str | None
    downstream_local_address: str | None
    downstream_remote_address: str | None
    route_name: str | None
    service: str | None
    tries: int


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC, with milliseconds, for seconds since the epoch."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{_second(whole)}.{milliseconds:03d}Z"


def line_of(record: Record, start: float) -> Line:
    """The line for ``record``, whose start was at ``start``, in seconds since the epoch."""
    waited = record.responded - record.sent if record.responded >= 0 and record.sent >= 0 else None
    return Line(
        start_time=timestamp(start),
        method=_text(record.method),
        path=_text(record.path),
        authority=_text(record.authority),
        protocol=record.protocol,
        response_code=record.status,
        response_flags=record.flags or NO_FLAGS,
        response_code_details=record.detail or ("via_upstream" if record.responded >= 0 else None),
        bytes_received=record.bytes_received,
        bytes_sent=record.bytes_sent,
        duration=round((record.ended - record.started) * 1000),
        upstream_service_time=None if waited is None else round(waited * 1000),
        x_forwarded_for=_text(record.x_forwarded_for),
        user_agent=_text(record.user_agent),
        request_id=_text(record.request_id),
        upstream_host=record.upstream or None,
        upstream_cluster=record.backend or None,
        upstream_local_address=record.local_upstream or None,
        downstream_local_address=record.destination or None,
        downstream_remote_address=record.client or None,
        route_name=record.route or None,
        service=record.service or None,
        tries=record.tries,
    )


class AccessLog:
    """Decides and writes. ``write`` takes one line with its newline and must not block."""

    def __init__(
        self,
        settings: AccessLogSettings,
        write: Callable[[bytes], None],
        rng: Random,
        *,
        monotonic: Callable[[], float] = _monotonic,
        wall: Callable[[], float] = _time,
    ) -> None:
        self.settings: Final = settings
        self.lines = 0
        """Lines handed to ``write``."""
        self._write = write
        self._monotonic = monotonic
        self._wall = wall
        self._encode = msgspec.json.Encoder().encode
        self.wants: Final[Callable[[Record], bool]] = _chooser(settings, rng)
        """Whether this record, which has ended, is worth a line."""

    def publish(self, families: Families, writer: LineWriter) -> None:
        """Show at each scrape how many lines were written, and how many were lost."""
        families.access_log_lines.callback(lambda: [((), self.lines)])
        families.access_log_dropped.callback(
            lambda: [(("full",), writer.dropped_full), (("error",), writer.dropped_error)]
        )

    def emit(self, record: Record) -> None:
        """Write the record's line, whether it is wanted or not."""
        # The wall clock may be set at any time, so its distance is taken anew for each line.
        line = line_of(record, self._wall() - (self._monotonic() - record.started))
        try:
            data = self._encode(line)
        except UnicodeEncodeError:
            # A lone surrogate, from a system's error message in a broken locale.
            data = self._encode(_respell(line))
        self.lines += 1
        self._write(data + b"\n")


def _chooser(settings: AccessLogSettings, rng: Random) -> Callable[[Record], bool]:
    """The cheapest function that decides as the settings say."""
    sample, slow = settings.sample, settings.slow

    def never(record: Record) -> bool:
        return False

    def always(record: Record) -> bool:
        return True

    def errors(record: Record) -> bool:
        return record.status >= 500 or record.flags != ""

    def errors_and_slow(record: Record) -> bool:
        return (
            record.status >= 500
            or record.flags != ""
            or (record.ended - record.started >= slow and record.protocol != "TCP")
        )

    if settings.mode == "off":
        return never
    special = errors_and_slow if slow > 0 else errors
    if settings.mode == "errors":
        return special
    if sample >= 1:
        return always

    def sampled(record: Record) -> bool:
        return rng.random() < sample or special(record)

    return sampled


def _text(data: bytes) -> str | None:
    if not data:
        return None
    text = data.decode("utf-8", "backslashreplace")
    # JSON escapes what lies below U+0020; terminals also obey U+007F to U+009F.
    return text if text.isprintable() else _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", text)


def _respell(line: Line) -> Line:
    fields = msgspec.structs.asdict(line)
    for name, value in fields.items():
        if isinstance(value, str):
            fields[name] = value.encode("utf-8", "backslashreplace").decode()
    return Line(**fields)
