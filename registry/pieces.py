"""The elements of a large JSON list one by one, without parsing it as a whole.

A parser in C holds the loop for as long as the text is long: 100 MB of instances are a stall of
a second. Here a regular expression finds strings and brackets, and each element is cut out
and parsed by itself, so the caller may pause between any two. Small texts are cut by msgspec,
which is ten times faster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

__all__ = ["pieces"]

SMALL: Final = 64 * 1024
"""Bytes below which msgspec cuts (about 0.2 ms)."""
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}"]', re.DOTALL)
_WHITE: Final = re.compile(rb"[ \t\r\n]*")
_QUOTE, _LIST = b'"['
_OPEN: Final = frozenset(b"[{")
_GAP: Final = b", \t\r\n"


def pieces(body: bytes, path: Sequence[str] = ()) -> Iterator[bytes]:
    """The elements of the list at ``path`` (keys of objects) of a JSON text, each as JSON.

    An object where the list should be counts as a list with this one element (some servers
    write lists of one so); null, or no such key, as an empty list. Raises ValueError for a text
    that is not JSON, possibly only when its end is reached: what came before is no proof of a
    whole.
    """
    if len(body) <= SMALL:
        yield from _parsed(body, path)
    else:
        yield from _cut(body, path)


def _parsed(body: bytes, path: Sequence[str]) -> Iterator[bytes]:
    """Raises ValueError (msgspec.DecodeError is one)."""
    value = body
    for key in path:
        members = msgspec.json.decode(value, type=dict[str, msgspec.Raw] | None)
        if members is None or key not in members:
            return
        value = bytes(members[key])
    if value.lstrip()[:1] == b"{":
        msgspec.json.decode(value)
        yield value
        return
    for raw in msgspec.json.decode(value, type=list[msgspec.Raw] | None) or ():
        yield bytes(raw)


def _cut(body: bytes, path: Sequence[str]) -> Iterator[bytes]:
    """The same for a text of any size."""
    state = "seek" if path else "value"
    matched = depth = 0
    inside = -1
    """Depth within the list."""
    begin = end = 0
    for token in _TOKEN.finditer(body):
        first = body[token.start()]
        if first == _QUOTE:
            if token.end() - token.start() < 2:
                raise ValueError("a string has no end")
            if state == "seek" and depth == matched + 1:
                place = _blank(body, token.end())
                name = body[token.start() + 1 : token.end() - 1]
                if body[place : place + 1] == b":" and name == path[matched].encode():
                    matched += 1
                    if matched == len(path):
                        # Null or another scalar counts as an empty list.
                        at = _blank(body, place + 1)
                        value = body[at : at + 1]
                        state = "value" if value in (b"[", b"{") else "done"
        elif first in _OPEN:
            if state == "value":
                state = "list" if first == _LIST else "object"
                inside = depth + (first == _LIST)
                begin, end = token.start(), token.end()
            if state == "list" and depth == inside:
                yield from _scalars(body[end : token.start()])
                begin = token.start()
            depth += 1
        else:
            depth -= 1
            if depth == inside and state in ("list", "object"):
                end = token.end()
                yield body[begin:end]
                state = "done" if state == "object" else state
            elif state == "list" and depth == inside - 1:
                yield from _scalars(body[end : token.start()])
                state = "done"
    if depth != 0 or state == "value":
        raise ValueError("the text ends in the middle")


def _blank(body: bytes, at: int) -> int:
    """Where the white space from here on ends."""
    found = _WHITE.match(body, at)
    return found.end() if found else at


def _scalars(gap: bytes) -> Iterator[bytes]:
    """What stands between two elements that are lists or objects."""
    gap = gap.strip(_GAP)
    if gap:
        yield from (part.strip() for part in gap.split(b","))
