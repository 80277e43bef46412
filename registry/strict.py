"""Strict, typed reading of YAML: all problems at once, each with file, line and field.

:func:`parse` makes documents of a text (see :mod:`registry.yamltext` for the dialect), and
:func:`convert` makes a msgspec struct of a document or of a part of one. What is valid costs one
call of ``msgspec.convert``. Only where that refuses is the value walked part by part, so that
an operator with three typos sees three messages, not the first one three times. A struct that
says ``forbid_unknown_fields=True`` gets "did you mean" for a key that it does not have.

A type may bring its own conversion: a classmethod ``convert(value)`` that raises ValueError
(see :class:`registry.duration.Duration`).
"""

from __future__ import annotations

import collections.abc
import difflib
import re
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from registry.base import Problem
from registry.duration import Duration
from registry.yamltext import Document, DocumentError, Path, parse, path_text

__all__ = [
    "Document",
    "DocumentError",
    "Duration",
    "Path",
    "convert",
    "near",
    "parse",
    "path_text",
]

T = TypeVar("T")


def convert(document: Document, type_: type[T], path: Path = ()) -> tuple[T | None, list[Problem]]:
    """The value at ``path`` as a ``type_``, or None and every reason why it is not one.

    The value is not None if and only if the list is empty (but for a type that allows null).
    Raises LookupError where ``path`` does not exist.
    """
    value = document.at(path)
    problems = [
        document.problem(f"the key stands twice (first on line {first})", where, line=line)
        for where, line, first in document.duplicates
        if where[: len(path)] == path
    ]
    try:
        result = msgspec.convert(value, type_, dec_hook=_custom)
    except msgspec.ValidationError:
        _Walk(document, problems).check(value, type_, path)
    else:
        if not problems:
            return result, []
    problems.sort(key=lambda p: p.line)
    return None, problems


def near(word: str, known: Iterable[str]) -> str:
    """``; did you mean "ports"?`` if a known word is close, else the words there are."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not close:
        folded = {name.casefold(): name for name in names}
        close = [folded[word.casefold()]] if word.casefold() in folded else []
    if close:
        return f"; did you mean {close[0]!r}?"
    return f" (known: {', '.join(names)})" if names and len(names) <= 12 else ""


def _custom(type_: type[Any], value: Any) -> Any:
    maker = getattr(type_, "convert", None)
    if maker is None:
        raise NotImplementedError(f"{type_!r} cannot be read from YAML")
    return maker(value)


def _fits(value: Any, type_: Any) -> str:
    """Empty if ``value`` converts to ``type_``, else msgspec's message."""
    try:
        msgspec.convert(value, type_, dec_hook=_custom)
    except msgspec.ValidationError as error:
        return str(error)
    return ""


class _Walk:
    """Finds every problem of one value, going down only where something is wrong."""

    def __init__(self, document: Document, problems: list[Problem]) -> None:
        self.document = document
        self.problems = problems

    def say(self, message: str, path: Path) -> None:
        self.problems.append(self.document.problem(message, path))

    def check(self, value: Any, type_: Any, path: Path) -> None:
        message = _fits(value, type_)
        if not message:
            return
        before = len(self.problems)
        self.descend(value, type_, path)
        if len(self.problems) == before:
            self.say(_friendly(message, value), path)

    def descend(self, value: Any, type_: Any, path: Path) -> None:
        """Report what is wrong inside ``value``; nothing if it is wrong as a whole."""
        type_ = _strip(type_)
        origin = typing.get_origin(type_)
        if origin is typing.Union or origin is types.UnionType:
            member = _member(value, typing.get_args(type_))
            if member is None:
                kinds = " or ".join(_kind(m) for m in typing.get_args(type_))
                self.say(f"expected {kinds}, got {_shown(value)}", path)
            else:
                self.check(value, member, path)
        elif isinstance(type_, type) and issubclass(type_, msgspec.Struct):
            if isinstance(value, dict):
                self.struct(value, type_, path)
        elif isinstance(value, list) and (item := _item_type(type_, origin)) is not None:
            for i, part in enumerate(value):
                self.check(part, item, (*path, i))
        elif isinstance(value, dict) and origin in _MAPPINGS:
            of_key, of_value = typing.get_args(type_)
            for key, part in value.items():
                if message := _fits(key, of_key):
                    self.say(f"the key {key!r}: {_friendly(message, key)}", (*path, key))
                self.check(part, of_value, (*path, key))
        elif origin is Literal and isinstance(value, str):
            known = [str(a) for a in typing.get_args(type_)]
            given = [k for k in known if k]
            self.say(f"{value!r} is none of {', '.join(given)}{_maybe(value, given)}", path)

    def struct(self, value: dict[str, Any], type_: type[msgspec.Struct], path: Path) -> None:
        info = msgspec.structs.fields(type_)
        hints = typing.get_type_hints(type_, include_extras=True)
        names = {field.encode_name for field in info}
        config = type_.__struct_config__
        if config.tag_field:
            names.add(config.tag_field)
        if config.forbid_unknown_fields:
            for key in value:
                if key not in names:
                    self.say(f"unknown key {key!r}{near(key, names - value.keys())}", (*path, key))
        for field in info:
            if field.encode_name in value:
                hint = hints.get(field.name, field.type)
                self.check(value[field.encode_name], hint, (*path, field.encode_name))
            elif field.required:
                self.say(f"{field.encode_name!r} is missing", path)


_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_LISTS = (list, set, frozenset, Sequence, collections.abc.Collection, collections.abc.Iterable)


def _strip(type_: Any) -> Any:
    """Without Annotated and aliases."""
    while True:
        if typing.get_origin(type_) is Annotated:
            type_ = typing.get_args(type_)[0]
        elif hasattr(type_, "__supertype__"):
            type_ = type_.__supertype__
        else:
            return type_


def _item_type(type_: Any, origin: Any) -> Any:
    args = typing.get_args(type_)
    if origin in _LISTS and args:
        return args[0]
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return args[0]
    return None


def _member(value: Any, members: Sequence[Any]) -> Any:
    """The one member of a union that a value of this kind is meant for, or None."""
    fitting = [m for m in members if _kind(m) == _kind_of(value)]
    custom = [m for m in members if hasattr(_strip(m), "convert")]
    if not fitting and isinstance(value, str | int | float) and not isinstance(value, bool):
        fitting = custom
    return fitting[0] if len(fitting) == 1 else None


def _kind(type_: Any) -> str:
    type_ = _strip(type_)
    origin = typing.get_origin(type_) or type_
    if origin is Literal:
        return "a text"
    if isinstance(origin, type):
        if issubclass(origin, msgspec.Struct) or origin in _MAPPINGS:
            return "a mapping"
        if origin in _LISTS or origin is tuple:
            return "a list"
    return _NAMES.get(origin, getattr(type_, "__name__", str(type_)).lower())


def _kind_of(value: Any) -> str:
    return _NAMES[type(value)]


_NAMES: dict[Any, str] = {
    type(None): "nothing",
    None: "nothing",
    bool: "true or false",
    dict: "a mapping",
    float: "a number",
    int: "a whole number",
    list: "a list",
    str: "a text",
}
_MSGSPEC_NAMES = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "nothing",
    "object": "a mapping",
    "str": "a text",
}
_EXPECTED = re.compile(r"Expected `([^`]+)`, got `([^`]+)`(?: - at `.*`)?")
_RULE = re.compile(r"Expected `(?:int|float|str|array|object)` ([^,]*?)(?: - at `.*)?")
_AT = re.compile(r" - at `[^`]*`$")


def _shown(value: Any) -> str:
    kind = _kind_of(value)
    if value is None or isinstance(value, dict | list):
        return kind
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return f"{kind} {text if len(text) <= 60 else text[:57] + '...'}"


def _maybe(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _friendly(message: str, value: Any) -> str:
    """msgspec's message in our words, with the value and what to write instead."""
    if match := _EXPECTED.fullmatch(message):
        wanted = [_MSGSPEC_NAMES.get(w, w) for w in match[1].split(" | ")]
        said = f"expected {' or '.join(wanted)}, got {_shown(value)}"
        if isinstance(value, str):
            return said + _text_hint(value, wanted)
        if "a text" in wanted and isinstance(value, bool | int | float):
            return f"{said}: put it in quotes"
        return said
    if match := _RULE.fullmatch(message):
        return f"{_shown(value)} is not allowed: it must be {match[1].replace('`', '')}"
    return _AT.sub("", message)


def _text_hint(value: str, wanted: list[str]) -> str:
    """What to do about a text where a number or truth value should be."""
    if "true or false" in wanted and value.casefold() in ("yes", "on", "y"):
        return ": write true"
    if "true or false" in wanted and value.casefold() in ("no", "off", "n"):
        return ": write false"
    if "a whole number" in wanted:
        if re.fullmatch(r"[-+]?0[0-7]+|0o[0-7]+", value):
            return ": YAML versions differ on a leading zero; write the plain decimal number"
        if re.fullmatch(r"[0-9]+(:[0-9]+)+", value):
            return ": some YAML readers take this for a number to the base 60"
        if value.isdecimal():
            return ": remove the quotes"
    return ""
