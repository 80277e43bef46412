"""Responses: reading an endpoint's head in one strict reading, and writing what the client gets.

A response that holds nothing of its own hop is ``clean``: its raw head may travel on as it is.
What breaks the grammar, or leaves two readings of where the body ends, is BadResponse (502):
nothing of it reaches the client.
"""

from __future__ import annotations

from typing import Final

import msgspec

from nodeproxy.core.errors import BadResponse
from nodeproxy.core.http1.diagnosis import EARLY, unfinished_response
from nodeproxy.core.http1.grammar import (
    CHUNKED,
    END_OF_FIELDS,
    HOP_BY_HOP,
    UNTIL_CLOSE,
    Malformed,
    collect,
    connection,
    content_length,
    cut,
    field_expression,
    only_chunked,
    without,
)
from nodeproxy.core.http1.limits import DEFAULT, Limits

__all__ = ["ResponseHead", "parse_response", "response_head"]

_find: Final = field_expression(
    rb"con(?:nection|tent-length)|keep-alive|proxy-connection|t(?:e|ransfer-encoding)|upgrade"
).findall
_CONTENT_LENGTH: Final = frozenset((b"content-length",))
_NONE: Final[frozenset[bytes]] = frozenset()

_STATUS: Final = {b"%d" % status: status for status in range(100, 1000)}


class ResponseHead(msgspec.Struct, gc=False):
    """One response's head."""

    status: int
    status_line: bytes
    """As it is sent on, without CRLF."""
    minor: int
    """Minor version of the endpoint's HTTP/1.x."""
    framing: int
    """Length of the body that follows on this connection (0 for HEAD, 1xx, 204 and 304),
    ``CHUNKED`` or ``UNTIL_CLOSE``."""
    keep_alive: bool
    """Whether the endpoint's connection may serve another request after this body."""
    fields: bytes
    """Field lines that may be forwarded, each with its CRLF."""
    clean: bool
    """The head may be forwarded as it came: ``data[:end]`` is ``response_head(close=False)``."""
    end: int
    """Offset of the first byte after the head."""
    upgrade: bytes = b""
    """Of a 101: the protocol that is spoken from here on. Of a 426: those that are asked for."""

    def header(self, name: bytes) -> bytes | None:
        """Value of the forwarded field ``name`` (lower case), several joined by ``, ``."""
        return collect(self.fields, name)


def parse_response(
    data: bytes, method: bytes, limits: Limits = DEFAULT, *, seen: int = 0, upgrade: bytes = b""
) -> ResponseHead | None:
    """Read the head at the start of ``data``, an answer to a request with ``method``; None when
    more bytes are needed (``seen`` as for a request). Interim responses (1xx) are returned like
    others, with framing 0; a 101 only when it changes to protocols that ``upgrade`` asked for.
    Raises BadResponse."""
    if len(data) > EARLY and data.find(END_OF_FIELDS, max(0, seen - 3)) < 0:
        unfinished_response(data, limits, -1)
        return None
    match = limits.match_response(data)
    if match is None:
        unfinished_response(data, limits, data.find(END_OF_FIELDS))
        return None
    version, code, reason, fields = match.groups()
    start, stop = match.span(4)
    if stop + 2 > limits.head:
        raise BadResponse(f"the response's head exceeds {limits.head} bytes")
    coding = b""
    options: list[bytes] | None = None
    lengths: list[bytes] | None = None
    drop: list[bytes] | None = None
    switch = b""
    for line, name, value in _find(data, start - 1, stop):
        name = name.lower()
        if name == b"content-length":
            if lengths is None:
                lengths = [value]
            else:
                lengths.append(value)
        elif name == b"transfer-encoding":
            coding = coding + b"," + value if coding else value or b","
        else:
            if drop is None:
                drop = [line]
            else:
                drop.append(line)
            if name == b"connection":
                if options is None:
                    options = [value]
                else:
                    options.append(value)
            elif name == b"upgrade":
                switch = switch + b", " + value if switch else value
    status = _STATUS[code]
    minor = 1 if version == b"1" else 0
    clean = minor == 1 and drop is None and reason is not None
    keep_alive = minor == 1
    framing = UNTIL_CLOSE
    try:
        if coding:
            if not keep_alive:
                raise Malformed("Transfer-Encoding in HTTP/1.0")
            if lengths is not None:
                raise Malformed("both Transfer-Encoding and Content-Length")
            only_chunked(coding)
            framing = CHUNKED
        elif lengths is not None:
            length = lengths[0].rstrip()
            if len(lengths) == 1 and len(length) < 19 and length.isdigit():
                framing = int(length)
            else:
                framing = content_length(lengths)
                fields = without(fields, _CONTENT_LENGTH) + b"Content-Length: %d\r\n" % framing
                clean = False
        if drop is not None:
            nominated = _NONE
            if options is not None:
                said = connection(options)
                keep_alive = not said.close and (keep_alive or said.keep_alive)
                nominated = said.nominated
            fields = cut(fields, drop, nominated, HOP_BY_HOP)
        if switch and status != 426:
            switch = _switch(switch, upgrade) if status == 101 else b""
        if status < 200 or status == 204:
            if status == 101 and not switch:
                raise Malformed("101 Switching Protocols, which was not asked for")
            if framing > 0 or framing == CHUNKED:
                raise Malformed("a body announced where the status allows none")
            framing = 0
        elif status == 304 or method == b"HEAD":
            framing = 0
    except Malformed as error:
        raise BadResponse(str(error)) from None
    if framing == UNTIL_CLOSE:
        keep_alive = clean = False
    if minor and reason is not None:
        status_line = data[: start - 2]
    else:
        status_line = b"HTTP/1.1 %b%b" % (code, reason or b" ")
    return ResponseHead(
        status, status_line, minor, framing, keep_alive, fields, clean, stop + 2, switch
    )


def _switch(said: bytes, asked: bytes) -> bytes:
    """The protocols of a 101's Upgrade field; empty when one of them was not asked for."""
    wanted = {protocol.strip(b" \t").lower() for protocol in asked.split(b",")} - {b""}
    protocols = {protocol.strip(b" \t").lower() for protocol in said.split(b",")} - {b""}
    return said.strip(b" \t") if protocols and protocols <= wanted else b""


def response_head(head: ResponseHead, *, close: bool, extra: bytes = b"") -> bytes:
    """The head to send to the client.

    ``close`` says so to the client: needed when its connection ends after this response, as it
    must when ``framing`` is ``UNTIL_CLOSE``. ``extra`` holds whole field lines (Via), each with
    its CRLF.
    """
    if head.upgrade:
        extra += b"Connection: upgrade\r\nUpgrade: %b\r\n" % head.upgrade
    return b"%b\r\n%b%b%b\r\n" % (
        head.status_line,
        head.fields,
        extra,
        b"Connection: close\r\n" if close else b"",
    )
