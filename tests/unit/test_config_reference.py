"""The configuration reference is complete and says what the tree says."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from nodeproxy.config import parse, tree
from nodeproxy.config.values import (
    Address,
    Cidr,
    DnsName,
    MetricsAddress,
    RegistryEntry,
    ServiceName,
)
from registry.duration import Duration

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
KINDS = {
    Address: "address:port",
    Cidr: "network",
    DnsName: "DNS name",
    MetricsAddress: "address:port, or `off`",
    RegistryEntry: "mapping",
    ServiceName: "service",
    Duration: "duration",
    bool: "`true` or `false`",
    float: "number",
    int: "whole number",
    str: "text",
}


class Row(NamedTuple):
    """One line of a table of the reference."""

    key: str
    kind: str
    default: str
    text: str


def sentence(text: str | None) -> str:
    """A docstring as one line of Markdown that may stand in a table."""
    return " ".join((text or "").replace("``", "`").split()).replace("|", "\\|")


def texts(type_: type[Any]) -> dict[str, str]:
    """The string below each field of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(type_))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
            found[ast.unparse(field.target)] = sentence(ast.literal_eval(after.value))
    return found


def kind(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"list of {kind(typing.get_args(hint)[0])}s".replace("mappings", "mappings")
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [m for m in typing.get_args(hint) if m is not type(None)]
        return " or ".join(kind(member) for member in members)
    if typing.get_origin(hint) is dict or issubclass(hint, msgspec.Struct):
        return "mapping"
    return KINDS[hint]


def default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default
    if value is None or field.default_factory is dict:
        return "empty"
    if value is msgspec.NODEFAULT:
        return "required"
    if isinstance(value, msgspec.Struct):
        return "see below"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if field.name in ("mark", "mask"):
        return f"`{value:#x}`"
    return f"`{value}`" if value not in ("", ()) else "empty"


def rows(type_: type[msgspec.Struct], prefix: str) -> Iterator[Row]:
    """Every field of one struct."""
    hints = typing.get_type_hints(type_, include_extras=True)
    said = texts(type_)
    for field in msgspec.structs.fields(type_):
        assert field.name in said, f"{type_.__name__}.{field.name} has no text"
        hint = hints[field.name]
        yield Row(prefix + field.name, kind(hint), default(field), said[field.name])


def whole_tree(type_: type[msgspec.Struct] = tree.File, prefix: str = "") -> Iterator[Row]:
    yield from rows(type_, prefix)
    hints = typing.get_type_hints(type_)
    for name, hint in hints.items():
        if typing.get_origin(hint) is tuple:
            hint, name = typing.get_args(hint)[0], f"{name}[]"
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from whole_tree(hint, f"{prefix}{name}.")


def documented() -> dict[str, Row]:
    found = {}
    for line in REFERENCE.read_text(encoding="utf-8").splitlines():
        if re.match(r"\| `[a-z]", line):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            row = Row(cells[0].strip("`"), *cells[1:])
            assert row.key not in found, f"{row.key} stands twice"
            found[row.key] = row
    return found


def test_every_setting_is_documented_as_it_is() -> None:
    expected = {row.key: row for row in whole_tree()}
    found = documented()
    assert found.keys() - {"kind", "name"} == expected.keys()
    assert {key: found[key] for key in expected} == expected


def test_the_example_of_the_reference_is_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        config = parse(block, "/etc/nodeproxy/nodeproxy.yaml")
        assert config.origins
