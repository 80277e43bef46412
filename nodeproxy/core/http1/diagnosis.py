"""Heads that did not match: unfinished, too large, or wrong, and then why.

All of this is off the fast path. The reasons are for operators and never hold the peer's
bytes; numbers count from 1 with the first line as line 1.
"""

from __future__ import annotations

import re
from typing import Final

from nodeproxy.core.errors import BadRequest, BadResponse, HeadTooLarge, TargetTooLong, Unsupported
from nodeproxy.core.http1 import grammar
from nodeproxy.core.http1.grammar import METHOD_BYTES
from nodeproxy.core.http1.limits import Limits

__all__ = ["EARLY", "unfinished_request", "unfinished_response"]

EARLY: Final = 2048
"""Up to this many bytes an unfinished head is checked at every arrival; beyond it we only
search for its end, so that a head that drips in costs no more than its reads."""

_LINE = re.compile(grammar.FIELD).fullmatch
_NAME = re.compile(grammar.TOKEN + rb"++").match
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_FORM = re.compile(rb"[^ ]++ [^ ]++ HTTP/1\.[01]").fullmatch


def unfinished_request(data: bytes, limits: Limits, cut: int) -> None:
    """``data`` does not match a request's head; ``cut`` is where its last field's CRLF begins, or
    -1 when it has no end yet. Return when more bytes may help, else raise."""
    if cut < 0:
        if len(data) > limits.head:
            _request_too_large(data, limits)
        if len(data) > EARLY or grammar.PARTIAL_REQUEST(data):
            return
        cut = len(data)
    elif cut + 4 > limits.head:
        _request_too_large(data, limits)
    lines = data[:cut].removeprefix(b"\r\n").split(b"\r\n")
    if not lines[0]:
        raise BadRequest("more than one empty line before the request")
    _request_line(lines[0], limits)
    if len(lines) - 1 > limits.fields:
        raise HeadTooLarge(f"the request has more than {limits.fields} fields")
    raise BadRequest(_field_problem(lines))


def _request_too_large(data: bytes, limits: Limits) -> None:
    line = data.removeprefix(b"\r\n").partition(b"\r\n")[0]
    if len(line) > limits.target + METHOD_BYTES + 16:
        raise TargetTooLong(f"the request's target exceeds {limits.target} bytes")
    raise HeadTooLarge(f"the request's head exceeds {limits.head} bytes")


def _request_line(line: bytes, limits: Limits) -> None:
    if _CONTROL(line):
        raise BadRequest("a control byte in the request line")
    method, blank, rest = line.partition(b" ")
    if not grammar.is_token(method):
        raise BadRequest("the request does not begin with a method")
    if len(method) > METHOD_BYTES:
        raise Unsupported(f"the method is longer than {METHOD_BYTES} bytes")
    target, blank, version = rest.rpartition(b" ")
    if not blank:
        target, version = rest, b""
    if len(target) > limits.target:
        raise TargetTooLong(f"the request's target exceeds {limits.target} bytes")
    if _FORM(line):
        if b"#" in target:
            raise BadRequest("the request's target holds a fragment")
        if not target.isascii():
            raise BadRequest("the request's target holds bytes that are not ASCII")
        return
    if re.fullmatch(rb"HTTP/[0-9]\.[0-9]", version):
        if version not in (b"HTTP/1.0", b"HTTP/1.1"):
            raise BadRequest("the request's version is neither HTTP/1.1 nor HTTP/1.0")
        raise BadRequest("the request line does not hold exactly two spaces")
    raise BadRequest("the request line does not end in a version of HTTP")


def unfinished_response(data: bytes, limits: Limits, cut: int) -> None:
    """``data`` does not match a response's head (``cut`` as above). Return when more bytes may
    help, else raise."""
    if cut < 0:
        if len(data) > limits.head:
            raise BadResponse(f"the response's head exceeds {limits.head} bytes")
        if len(data) > EARLY or grammar.PARTIAL_RESPONSE(data):
            return
        cut = len(data)
    elif cut + 4 > limits.head:
        raise BadResponse(f"the response's head exceeds {limits.head} bytes")
    lines = data[:cut].split(b"\r\n")
    if not grammar.PARTIAL_RESPONSE(lines[0] + b"\r"):
        raise BadResponse("the response does not begin with a status line of HTTP/1.1 or 1.0")
    if len(lines) - 1 > limits.fields:
        raise BadResponse(f"the response has more than {limits.fields} fields")
    raise BadResponse(_field_problem(lines))


def _field_problem(lines: list[bytes]) -> str:
    problems = (
        f"line {number} of the head: {_line_problem(line)}"
        for number, line in enumerate(lines[1:], 2)
        if not _LINE(line)
    )
    return next(problems, "the head is not well-formed")


def _line_problem(line: bytes) -> str:
    control = _CONTROL(line)
    if line[:1] in (b" ", b"\t"):
        return "a folded field (obs-fold) or a blank before the first field"
    if control:
        byte = control[0][0]
        return {
            10: "a line feed without carriage return",
            13: "a carriage return without line feed",
            0: "a NUL byte",
        }.get(byte, f"the control byte 0x{byte:02x}")
    name = _NAME(line)
    if name is None:
        return "no field name before the colon"
    if line[name.end() : name.end() + 1] in (b" ", b"\t"):
        return "a blank between field name and colon"
    if b":" not in line:
        return "no colon after the field name"
    return "a field name that is not a token"
