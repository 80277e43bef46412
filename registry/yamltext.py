"""YAML and JSON text to plain Python values, remembering on which line each value stands.

PyYAML's own loaders forget positions, take the last of two equal keys and follow YAML 1.1,
where ``22:22`` is the number 1342, ``on`` is a truth value and ``0777`` is 511. Here libyaml's
event stream is read directly (no tree of nodes: a tenth of the memory), equal keys are kept as
problems, and plain scalars follow the intersection of YAML 1.1 and 1.2: a scalar that the two
read differently is a text, so that it can never become a number or truth value silently.

=====================================  =======================================================
plain scalar                           value
=====================================  =======================================================
``~ null Null NULL`` and nothing       None
``true True TRUE false False FALSE``   bool
``0``, ``-12``, ``0x1F``               int
``1.5``, ``1e3``, ``.inf``, ``.nan``   float
all else, such as ``yes``, ``on``,     str
``22:22``, ``0777``, ``0o17``,
``1_000``, ``2024-01-31``
=====================================  =======================================================

Keys are texts always. JSON goes through the json module, an order of magnitude faster; its
lines are found by a second pass, only when somebody asks for one.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple

import yaml
from yaml._yaml import CParser

from registry.base import Problem
from registry.scalars import plain_scalar

__all__ = ["Document", "DocumentError", "Path", "parse", "path_text"]

Path = tuple[str | int, ...]
"""Keys and indexes that lead to a value inside a document."""

MAX_DEPTH: Final = 64
MAX_ALIAS_NODES: Final = 100_000
"""How many values aliases may stand for, in all. Without a bound nine lines of YAML unfold to
a billion values (the "billion laughs")."""

Lines = list[Any]
"""Positions of a container: its own line, then for each child in order an int (scalar) or
Lines. A mapping's child stands on the line of its key."""


class DocumentError(Exception):
    """The text is not YAML that we accept. ``problems`` says where and why; never empty."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Duplicate(NamedTuple):
    """A key that stands twice in one mapping. The first value counts."""

    path: Path
    line: int
    first: int


class Document:
    """One document of a text: a plain value and the lines where its parts stand."""

    __slots__ = ("_lines", "_text", "duplicates", "number", "source", "value")

    def __init__(
        self,
        source: str,
        value: Any,
        *,
        lines: Lines | int | None = None,
        duplicates: tuple[Duplicate, ...] = (),
        text: str = "",
        number: int = 0,
    ) -> None:
        self.source = source
        self.value = value
        self.duplicates = duplicates
        self.number = number
        """Place among the text's documents, from 0."""
        self._lines = lines
        self._text = text

    def line(self, path: Path = ()) -> int:
        """The 1-based line of the value at ``path``; of the nearest part that exists, where it
        does not; 0 where no line is known."""
        if self._lines is None:
            self._lines = _json_lines(self._text)
            self._text = ""
        here: Lines | int = self._lines
        value = self.value
        for step in path:
            if isinstance(here, int):
                break
            if isinstance(value, dict) and step in value:
                index = list(value).index(step)
            elif isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
                index = step
            else:
                break
            value = value[step]
            if index + 1 >= len(here):
                break
            here = here[index + 1]
        return here if isinstance(here, int) else int(here[0])

    def at(self, path: Path) -> Any:
        """The value at ``path``. Raises LookupError."""
        value = self.value
        for step in path:
            value = value[step]
        return value

    def problem(self, message: str, path: Path = (), *, line: int = 0) -> Problem:
        """A problem with the value at ``path``, on its line unless told otherwise."""
        return Problem(message, self.source, line or self.line(path), path_text(path))


def path_text(path: Path) -> str:
    """``("services", 3, "labels", "a/b")`` -> ``services[3].labels["a/b"]``."""
    out = ""
    for step in path:
        if isinstance(step, int):
            out += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            out += f".{step}" if out else step
        else:
            out += f"[{json.dumps(step, ensure_ascii=False)}]"
    return out


def parse(text: str, source: str) -> list[Document]:
    """All documents of ``text`` but the empty ones; ``source`` is how messages call it.

    Raises DocumentError for text that is not YAML, unknown tags, nesting or aliases beyond
    the bounds. Equal keys do not raise: they are in ``Document.duplicates``.
    """
    text = text.removeprefix("\ufeff")
    if text.lstrip()[:1] in ("{", "["):
        document = _parse_json(text, source)
        if document is not None:
            return [document]
    return _parse_yaml(text, source)


_PLAIN_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")


# --- JSON ---------------------------------------------------------------------------------


class _NotPlainJson(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _NotPlainJson
    return value


def _refuse_constant(name: str) -> Any:
    raise _NotPlainJson(name)


def _parse_json(text: str, source: str) -> Document | None:
    """The document if ``text`` is well-formed JSON without equal keys, else None: then the
    YAML reader decides, which reads flow style as well and knows where the problem is."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    if _depth_above(value, MAX_DEPTH):
        return None
    return Document(source, value, text=text)


def _depth_above(value: Any, bound: int) -> bool:
    level = [value]
    for _ in range(bound):
        below: list[Any] = []
        for item in level:
            if type(item) is dict:
                below.extend(v for v in item.values() if type(v) is dict or type(v) is list)
            elif type(item) is list:
                below.extend(v for v in item if type(v) is dict or type(v) is list)
        if not below:
            return False
        level = below
    return True


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def _json_lines(text: str) -> Lines | int:
    # libyaml knows no surrogate escapes; for positions any other character does.
    try:
        documents = _parse_yaml(_SURROGATE.sub(r"\\u0078", text), "")
    except DocumentError:
        return 0
    lines = documents[0]._lines if documents else None
    return 0 if lines is None else lines


# --- YAML ---------------------------------------------------------------------------------

_CORE: Final = "tag:yaml.org,2002:"
_KINDS: Final[dict[str, type]] = {
    "bool": bool,
    "float": float,
    "int": int,
    "map": dict,
    "null": type(None),
    "seq": list,
}
_MERGE: Final = "<<"


class _Anchor(NamedTuple):
    value: Any
    lines: Lines | int
    size: int


class _Reader:
    """Builds values from libyaml's events, one document after the other."""

    def __init__(self, parser: Any, source: str) -> None:
        self.next = parser.get_event
        self.source = source
        self.anchors: dict[str, _Anchor | None] = {}
        self.duplicates: list[Duplicate] = []
        self.size = 0
        self.alias_nodes = 0

    def fail(self, message: str, line: int, path: list[str | int]) -> DocumentError:
        return DocumentError([Problem(message, self.source, line, path_text(tuple(path)))])

    def documents(self) -> list[Document]:
        found: list[Document] = []
        number = 0
        while (event := self.next()) is not None:
            if type(event) is not yaml.DocumentStartEvent:
                continue
            self.anchors, self.duplicates = {}, []
            value, lines = self.node(self.next(), [])
            if value is not None:
                found.append(
                    Document(
                        self.source,
                        value,
                        lines=lines,
                        duplicates=tuple(self.duplicates),
                        number=number,
                    )
                )
            number += 1
        return found

    def node(self, event: Any, path: list[str | int]) -> tuple[Any, Lines | int]:
        kind = type(event)
        line = event.start_mark.line + 1
        if kind is yaml.AliasEvent:
            return self.alias(event.anchor, line, path)
        self.size += 1
        size = self.size
        anchor = event.anchor
        value: Any
        lines: Lines | int
        if kind is yaml.ScalarEvent:
            text = event.value
            tag = event.tag
            if tag is None:
                value = plain_scalar(text) if event.implicit[0] else text
            else:
                value = self.tagged(tag, text, line, path)
            lines = line
        else:
            if len(path) >= MAX_DEPTH:
                raise self.fail(f"nested deeper than {MAX_DEPTH} levels", line, path[:4])
            if anchor is not None:
                self.anchors[anchor] = None  # an alias from inside would never end
            is_map = kind is yaml.MappingStartEvent
            tag = event.tag
            if tag is not None and tag != _CORE + ("map" if is_map else "seq"):
                raise self.fail(f"the tag {_tag_text(tag)} is not known here", line, path)
            value, lines = self.mapping(line, path) if is_map else self.sequence(line, path)
        if anchor is not None:
            self.anchors[anchor] = _Anchor(value, lines, self.size - size + 1)
        return value, lines

    def alias(self, anchor: str, line: int, path: list[str | int]) -> tuple[Any, Lines | int]:
        known = self.anchors.get(anchor)
        if known is None:
            reason = "contains itself" if anchor in self.anchors else "has no anchor before it"
            raise self.fail(f"the alias *{anchor} {reason}", line, path)
        self.size += known.size
        self.alias_nodes += known.size
        if self.alias_nodes > MAX_ALIAS_NODES:
            raise self.fail(
                f"aliases stand for more than {MAX_ALIAS_NODES} values: write them out", line, path
            )
        return known.value, known.lines

    def tagged(self, tag: str, text: str, line: int, path: list[str | int]) -> Any:
        if tag in (_CORE + "str", "!"):
            return text
        kind = _KINDS.get(tag.removeprefix(_CORE)) if tag.startswith(_CORE) else None
        if kind is None:
            raise self.fail(f"the tag {_tag_text(tag)} is not known here", line, path)
        value = plain_scalar(text)
        if type(value) is not kind:
            raise self.fail(f"{text!r} does not fit its tag {_tag_text(tag)}", line, path)
        return value

    def sequence(self, line: int, path: list[str | int]) -> tuple[list[Any], Lines]:
        values: list[Any] = []
        lines: Lines = [line]
        end = yaml.SequenceEndEvent
        while type(event := self.next()) is not end:
            path.append(len(values))
            value, at = self.node(event, path)
            path.pop()
            values.append(value)
            lines.append(at)
        return values, lines

    def mapping(self, line: int, path: list[str | int]) -> tuple[dict[str, Any], Lines]:
        values: dict[str, Any] = {}
        lines: Lines = [line]
        merges: list[tuple[Any, int]] = []
        end = yaml.MappingEndEvent
        while type(event := self.next()) is not end:
            key_line = event.start_mark.line + 1
            if type(event) is not yaml.ScalarEvent:
                raise self.fail("a key must be a text", key_line, path)
            key = event.value
            if event.anchor is not None:
                self.anchors[event.anchor] = _Anchor(key, key_line, 1)
            path.append(key)
            value, at = self.node(self.next(), path)
            path.pop()
            if key == _MERGE and event.implicit[0]:
                merges.append((value, key_line))
            elif key in values:
                first = lines[1 + list(values).index(key)]
                self.duplicates.append(
                    Duplicate((*path, key), key_line, first if isinstance(first, int) else first[0])
                )
            else:
                values[key] = value
                lines.append(key_line if isinstance(at, int) else [key_line, *at[1:]])
        for merged, at in merges:
            self.merge(values, lines, merged, at, path)
        return values, lines

    def merge(
        self, values: dict[str, Any], lines: Lines, merged: Any, line: int, path: list[str | int]
    ) -> None:
        """``<<: *base``: keys that the mapping does not have itself; the first base wins."""
        for base in merged if isinstance(merged, list) else [merged]:
            if not isinstance(base, dict):
                raise self.fail("<< needs a mapping or a list of mappings", line, path)
            for key, value in base.items():
                if key not in values:
                    values[key] = value
                    lines.append(line)


def _tag_text(tag: str) -> str:
    return "!!" + tag.removeprefix(_CORE) if tag.startswith(_CORE) else tag


def _parse_yaml(text: str, source: str) -> list[Document]:
    try:
        parser = CParser(text)
    except UnicodeEncodeError as error:
        raise DocumentError([Problem(f"not a text: {error.reason}", source)]) from None
    try:
        return _Reader(parser, source).documents()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = error.problem or error.context or "not YAML"
        if error.problem and error.context:
            message = f"{error.problem} ({error.context})"
        problem = Problem(message, source, mark.line + 1 if mark else 0)
        raise DocumentError([problem]) from None
    except yaml.YAMLError as error:
        position = getattr(error, "position", None)
        line = 0
        if isinstance(position, int):  # bytes in libyaml; close enough to name the line
            line = text.encode()[:position].count(b"\n") + 1
        message = str(getattr(error, "reason", "") or error)
        raise DocumentError([Problem(f"not YAML: {message}", source, line)]) from None
    finally:
        parser.dispose()
