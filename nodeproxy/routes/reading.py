"""From a file's text to objects. Every problem is reported, each with file, line and field.

Objects of other API groups are passed over, so that the output of ``kubectl get -o yaml`` for many
kinds can be used as it is. A kind or version that is nearly one of ours is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec

from nodeproxy.core.routing.checks import check
from nodeproxy.core.routing.objects import GROUPS, KINDS, Loaded, Object
from registry.base import Problem
from registry.file.wire import Reading
from registry.strict import Document, DocumentError, Path, convert, near, parse

__all__ = ["decode", "is_route_document", "read", "routes"]


def routes(text: str, source: str) -> Reading:
    """For :func:`registry.file.loader.load`: parts by name. Raises DocumentError."""
    loaded, problems = read(text, source)
    return Reading([(str(one.key), one) for one in loaded], tuple(problems))


_decoder = msgspec.msgpack.Decoder(Loaded, dec_hook=lambda type_, value: type_(value))


def decode(data: bytes | msgspec.Raw) -> Loaded:
    """A part of what :func:`routes` found, after its journey."""
    return _decoder.decode(data)


def is_route_document(value: Any) -> bool:
    """Whether a document is meant for us: an object of one of our groups or kinds, or a list
    that holds one."""
    if not isinstance(value, dict):
        return False
    group = str(value.get("apiVersion", "")).partition("/")[0]
    if group in GROUPS or value.get("kind") in KINDS:
        return True
    items = value.get("items")
    return isinstance(items, list) and any(is_route_document(item) for item in items)


def read(text: str, source: str) -> tuple[list[Loaded], list[Problem]]:
    """All objects that can be used, and all problems. Raises DocumentError if the text is not
    YAML."""
    loaded: list[Loaded] = []
    problems: list[Problem] = []
    if not text.strip():
        # An editor that writes in place leaves this for a moment.
        message = "the file is empty: delete it, or say in a comment that this is meant"
        return [], [Problem(message, source, 1)]
    base = os.path.dirname(os.path.abspath(source))
    for document in parse(text, source):
        for path in _objects(document, (), problems):
            one = _object(document, path, problems, base)
            if one is not None:
                loaded.append(one)
    return loaded, problems


def _objects(document: Document, path: Path, problems: list[Problem]) -> Iterator[Path]:
    """Where objects of ours stand: the document itself, or the items of a list."""
    value = document.at(path)
    if not isinstance(value, dict) or "kind" not in value or "apiVersion" not in value:
        message = "expected an object with apiVersion and kind, such as an HTTPRoute"
        problems.append(document.problem(message, path))
        return
    version, kind = value["apiVersion"], value["kind"]
    if isinstance(kind, str) and kind.endswith("List") and "items" in value:
        items = value["items"]
        if not isinstance(items, list):
            problems.append(document.problem("expected a list", (*path, "items")))
            return
        for i, item in enumerate(items):
            if kind != "List" and isinstance(item, dict):
                # The items of an HTTPRouteList need not say what they are.
                item.setdefault("apiVersion", version)
                item.setdefault("kind", kind[:-4])
            yield from _objects(document, (*path, "items", i), problems)
        return
    if not isinstance(version, str) or not isinstance(kind, str):
        problems.append(document.problem("apiVersion and kind are texts", path))
        return
    group = version.partition("/")[0]
    if kind in KINDS and group in GROUPS:
        yield path
    elif group in GROUPS:
        problems.append(
            document.problem(f"{kind!r} is not read here{near(kind, KINDS)}", (*path, "kind"))
        )
    elif kind in KINDS:
        message = f"{kind} of {version!r} is not read here{near(group, GROUPS)}"
        problems.append(document.problem(message, (*path, "apiVersion")))


def _object(document: Document, path: Path, problems: list[Problem], base: str) -> Loaded | None:
    value = document.at(path)
    found, wrong = convert(document, KINDS[value["kind"]], path)
    if found is not None:
        wrong = [document.problem(f.message, (*path, *f.path)) for f in check(found)]
    if found is None or wrong:
        problems.extend(wrong)
        return None
    return Loaded(
        _without_status(found),
        document.source,
        document.line(path),
        _rule_lines(document, path, value),
        base,
    )


def _without_status(found: Object) -> Object:
    return found if found.status is None else msgspec.structs.replace(found, status=None)


def _rule_lines(document: Document, path: Path, value: dict[str, Any]) -> tuple[int, ...]:
    spec = value.get("spec")
    rules = spec.get("rules") if isinstance(spec, dict) else None
    if not isinstance(rules, list):
        return ()
    return tuple(document.line((*path, "spec", "rules", i)) for i in range(len(rules)))


def read_file(path: str) -> tuple[list[Loaded], list[Problem]]:
    """Read a file once. Raises OSError."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        return read(data.decode("utf-8"), path)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return [], [Problem(f"not UTF-8: {error.reason}", path, line)]
    except DocumentError as error:
        return [], error.problems
