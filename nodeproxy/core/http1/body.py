"""The chunked transfer coding (RFC 9112 section 7.1): where does the body end?

The body is forwarded as it came, so this reader copies no data: it only finds the end, and it
refuses everything that another reader could take differently (bare LF, blanks around the size,
signs, a size beyond 63 bits, control bytes in extensions, framing fields among the trailers).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from nodeproxy.core.errors import ProxyError
from nodeproxy.core.http1.grammar import FIELD, MAX_LENGTH, TOKEN, VALUE

__all__ = ["BadChunk", "Chunked"]


class BadChunk(ProxyError):
    """A body in chunked coding is not well-formed. The caller knows whose body it was and
    turns this into BadRequest or BadResponse."""

    reason = "http_request_error"
    flag = "DPE"
    status = 400


LINE_BYTES: Final = 1024
"""Longest line of a chunk's size with its extensions."""
EXTENSION_BYTES: Final = 16384
"""Extensions of one body together: they cost work and carry nothing."""
TRAILER_LINE_BYTES: Final = 4096
TRAILER_BYTES: Final = 32768
TRAILER_FIELDS: Final = 100
WINDOW: Final = max(LINE_BYTES, TRAILER_LINE_BYTES) + 1

_Matcher = Callable[[bytes], "re.Match[bytes] | None"]

_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_EXTENSIONS = rb"((?>(?:;%b++(?>(?:=(?:%b++|%b))?))*))" % (TOKEN, TOKEN, _QUOTED)
_SIZE = rb"([0-9A-Fa-f]{1,16}+)" + _EXTENSIONS + rb"\r\n"
_PARTIAL = rb"(?>(?:[0-9A-Fa-f]{1,16}+(?>(?:;%b*+)?)\r?+)?)" % VALUE

# The CRLF after a chunk's data is read together with the next size.
_first = re.compile(_SIZE).match
_next = re.compile(rb"\r\n" + _SIZE).match
_partial_first = re.compile(_PARTIAL).fullmatch
_partial_next = re.compile(rb"(?>(?:\r(?>(?:\n%b)?))?)" % _PARTIAL).fullmatch
_trailer = re.compile(rb"(?>(?:(%b++):%b*+)?)\r\n" % (TOKEN, VALUE)).match
_partial_trailer = re.compile(rb"(?>(?:%b|%b++)?)\r?+" % (FIELD, TOKEN)).fullmatch

_FORBIDDEN: Final = frozenset(
    b"connection content-encoding content-length content-type host te trailer transfer-encoding "
    b"upgrade".split()
)
"""Fields that frame or address a message are no trailers (RFC 9110 section 6.5.1): a server
that merged them would read another message than we did."""


class Chunked:
    """Finds the end of one body. Feed it every byte after the head, in any pieces."""

    __slots__ = ("_done", "_extensions", "_held", "_left", "_match", "_trailer_bytes", "_trailers")

    def __init__(self) -> None:
        self._left = 0  # bytes of the current chunk's data that are still to come
        self._held = b""  # an unfinished line of earlier pieces; then nothing is left
        self._match = _first
        self._extensions = 0
        self._trailers = -1  # -1 until the last chunk, then the number of trailer fields
        self._trailer_bytes = 0
        self._done = False

    def feed(self, data: bytes) -> int:
        """Offset in ``data`` just after the body's end, or -1 when all of it is the body's and
        more is to come. Not to be called again after the end. Raises BadChunk."""
        size = len(data)
        position = self._left
        if size <= position:
            self._left = position - size
            return -1
        if self._held:
            held = self._held
            # One line is completed from a bounded copy; what follows is read in place.
            end = self._line(held + data[:WINDOW], 0)
            if end < 0:
                return -1
            self._held = b""
            end -= len(held)
            if self._done:
                return end
            position = end + self._left
        while position < size:
            end = self._line(data, position)
            if end < 0:
                return -1
            if self._done:
                return end
            position = end + self._left
        self._left = position - size
        return -1

    def _line(self, data: bytes, position: int) -> int:
        """Read the line at ``position``; its end, or -1 when it is unfinished and held."""
        if self._trailers >= 0:
            return self._trailer(data, position)
        match = self._match(data, position)
        if match is None:
            partial = _partial_first if self._match is _first else _partial_next
            return self._hold(partial, data[position : position + LINE_BYTES + 1], LINE_BYTES)
        digits, extensions = match.groups()
        end = match.end()
        if extensions:
            self._extensions += len(extensions)
            if end - position > LINE_BYTES or self._extensions > EXTENSION_BYTES:
                raise BadChunk("extensions of chunks are too long")
        self._match = _next
        self._left = left = int(digits, 16)
        if left > MAX_LENGTH:
            raise BadChunk("the size of a chunk is out of range")
        if not left:
            self._trailers = 0
            if data.startswith(b"\r\n", end):
                self._done = True
                return end + 2
        return end

    def _trailer(self, data: bytes, position: int) -> int:
        match = _trailer(data, position)
        if match is None:
            rest = data[position : position + TRAILER_LINE_BYTES + 1]
            return self._hold(_partial_trailer, rest, TRAILER_LINE_BYTES)
        end, name = match.end(), match[1]
        if name is None:
            self._done = True
            return end
        self._trailers += 1
        self._trailer_bytes += end - position
        if (
            end - position > TRAILER_LINE_BYTES
            or self._trailers > TRAILER_FIELDS
            or self._trailer_bytes > TRAILER_BYTES
        ):
            raise BadChunk("the trailer section is too large")
        if name.lower() in _FORBIDDEN:
            raise BadChunk("a trailer field that frames or addresses the message")
        return end

    def _hold(self, partial: _Matcher, line: bytes, limit: int) -> int:
        if not partial(line):
            raise BadChunk(
                "a trailer field is not well-formed"
                if self._trailers >= 0
                else "the size of a chunk is not a hexadecimal number on a line of its own"
            )
        if len(line) > limit:
            raise BadChunk("a line of the chunked coding is too long")
        self._left = 0
        self._held = line
        return -1
