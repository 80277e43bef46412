"""Regular expressions of routes: only those that can't take long.

Python's engine backtracks, and a request's path is the client's to choose. A pattern is refused
where the engine could try exponentially many ways: a repeat, or an alternative, inside of a
repeat; references back and look-around, too (RE2, which other implementations use, has neither).
What is left takes a time of the power of one more than the repeats that can trade characters with
what follows them: the first of ``.*a.*`` does, ``[^/]+/`` does not, as its class excludes what
follows. One of these is allowed, and values of more than :data:`LONGEST` bytes match no pattern:
some 500,000 steps at worst.

A pattern matches a whole value, as in Envoy.
"""

from __future__ import annotations

import re
from functools import lru_cache
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any, Final

__all__ = ["LONGEST", "BadPattern", "Pattern", "compile_pattern", "matches_all"]

LONGEST: Final = 1024
MAX_TRADING: Final = 1
Pattern = re.Pattern[bytes]


class BadPattern(ValueError):
    """The pattern is not a regular expression, or one that could take long."""


@lru_cache(maxsize=4096)
def compile_pattern(text: str) -> Pattern:
    """Raises BadPattern with what is wrong."""
    source = text.encode()
    try:
        compiled = re.compile(source)
        tree = _parser.parse(source)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadPattern(f"{text!r} is not a regular expression: {error}") from None
    trading = _Walk(text).sequence(list(tree), _NONE, False)
    if trading > MAX_TRADING:
        raise BadPattern(
            f"{text!r} has {trading} repeats that can trade characters with what follows "
            f"(at most {MAX_TRADING}): write [^/]+ instead of .+"
        )
    return compiled


def matches_all(text: str) -> bool:
    """Whether every path matches: the few usual ways to write that."""
    return text in (".*", "/.*", "^.*$", "^/.*$", ".+", "^/.*", "^.*")


_ALL: Final = frozenset(range(256))
_NONE: Final[frozenset[int]] = frozenset()
_REPEATS: Final = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)
_ATOMIC: Final = (
    getattr(_constants, "POSSESSIVE_REPEAT", None),
    getattr(_constants, "ATOMIC_GROUP", None),
)
_CATEGORY: Final = {
    _constants.CATEGORY_DIGIT: rb"\d",
    _constants.CATEGORY_NOT_DIGIT: rb"\D",
    _constants.CATEGORY_SPACE: rb"\s",
    _constants.CATEGORY_NOT_SPACE: rb"\S",
    _constants.CATEGORY_WORD: rb"\w",
    _constants.CATEGORY_NOT_WORD: rb"\W",
}


class _Walk:
    def __init__(self, text: str) -> None:
        self.text = text

    def refuse(self, what: str) -> BadPattern:
        return BadPattern(f"{self.text!r} {what}, which could take very long to match")

    def sequence(self, items: list[Any], after: frozenset[int], repeated: bool) -> int:
        """The number of trading repeats in ``items``, which are followed by one of ``after``."""
        count = 0
        for i, (op, value) in enumerate(items):
            follow, empty = _first(items[i + 1 :])
            if empty:
                follow |= after
            count += self.item(op, value, follow, repeated)
        return count

    def item(self, op: Any, value: Any, follow: frozenset[int], repeated: bool) -> int:
        if op in _REPEATS:
            low, high, inner = value
            if low == high == 1:
                return self.sequence(list(inner), follow, repeated)
            if repeated and low != high:
                raise self.refuse("has a repeat inside of a repeat")
            if high == 1:  # optional
                return self.sequence(list(inner), follow, repeated)
            first, _ = _first(list(inner))
            count = self.sequence(list(inner), follow | first, True)
            return count + (low != high and bool(_spans(list(inner)) & follow))
        if op is _constants.SUBPATTERN:
            if value[1] or value[2]:
                raise self.refuse("sets flags")
            return self.sequence(list(value[3]), follow, repeated)
        if op is _constants.BRANCH:
            if repeated:
                raise self.refuse("has an alternative inside of a repeat")
            return max(self.sequence(list(branch), follow, repeated) for branch in value[1])
        if op in _ATOMIC:
            inner = value if op is _ATOMIC[1] else value[2]
            return self.sequence(list(inner), follow, repeated)
        if op in (_constants.GROUPREF, _constants.GROUPREF_EXISTS):
            raise self.refuse("refers back to a group")
        if op in (_constants.ASSERT, _constants.ASSERT_NOT):
            raise self.refuse("looks around")
        return 0


def _first(items: list[Any]) -> tuple[frozenset[int], bool]:
    """The bytes that may come first, and whether the whole may be empty."""
    found: frozenset[int] = _NONE
    for op, value in items:
        mine, empty = _first_of(op, value)
        found |= mine
        if not empty:
            return found, False
    return found, True


def _first_of(op: Any, value: Any) -> tuple[frozenset[int], bool]:
    if op in _REPEATS or op is _ATOMIC[0]:
        first, empty = _first(list(value[2]))
        return first, empty or value[0] == 0
    if op is _constants.SUBPATTERN:
        return _first(list(value[3]))
    if op is _ATOMIC[1]:
        return _first(list(value))
    if op is _constants.BRANCH:
        parts = [_first(list(branch)) for branch in value[1]]
        return _NONE.union(*(p for p, _ in parts)), any(empty for _, empty in parts)
    if op is _constants.AT:
        return _NONE, True
    return _bytes(op, value), False


def _spans(items: list[Any]) -> frozenset[int]:
    """All bytes that may occur anywhere in ``items``: a generous answer."""
    found: frozenset[int] = _NONE
    for op, value in items:
        if op in _REPEATS or op is _ATOMIC[0]:
            found |= _spans(list(value[2]))
        elif op is _constants.SUBPATTERN:
            found |= _spans(list(value[3]))
        elif op is _ATOMIC[1]:
            found |= _spans(list(value))
        elif op is _constants.BRANCH:
            found = found.union(*(_spans(list(branch)) for branch in value[1]))
        elif op is not _constants.AT:
            found |= _bytes(op, value)
    return found


def _bytes(op: Any, value: Any) -> frozenset[int]:
    """What one item that takes one byte may take."""
    if op is _constants.LITERAL:
        return frozenset((value,))
    if op is _constants.NOT_LITERAL:
        return _ALL - {value}
    if op is _constants.ANY:
        return _ALL - {10}
    if op is _constants.IN:
        found: frozenset[int] = _NONE
        negate = False
        for inner, argument in value:
            if inner is _constants.NEGATE:
                negate = True
            elif inner is _constants.RANGE:
                found |= frozenset(range(argument[0], argument[1] + 1))
            elif inner is _constants.LITERAL:
                found |= {argument}
            elif inner is _constants.CATEGORY:
                found |= _category(argument)
        return _ALL - found if negate else found
    return _ALL


@lru_cache
def _category(name: Any) -> frozenset[int]:
    matches = re.compile(_CATEGORY[name]).match if name in _CATEGORY else None
    return frozenset(b for b in range(256) if matches is None or matches(bytes((b,))))
