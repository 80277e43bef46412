"""Every listing as a table for people, or as JSON or YAML for programs.

A table goes through rich on a terminal, which folds long cells to its width. Anywhere else it
is plain aligned text, without colour and never cut: what a pipe gets must be whole. JSON and
YAML are the admin API's own answers, so that scripts see one contract.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import click

__all__ = [
    "Column",
    "Format",
    "ago",
    "cell",
    "document",
    "listing",
    "number",
    "output_option",
    "pairs",
    "table",
]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Format = Literal["table", "json", "yaml"]

_RICH_ROWS = 500  # beyond this, laying out every cell takes longer than anybody would wait


class Column(NamedTuple, Generic[T]):
    title: str
    value: Callable[[T], str]
    right: bool = False
    """Align to the right: numbers."""


def output_option(function: F) -> F:
    """``-o table|json|yaml``"""
    return click.option(
        "-o",
        "--output",
        "format_",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="How to print.",
    )(function)


def listing(values: Sequence[T], columns: Sequence[Column[T]], format_: Format, empty: str) -> None:
    """Print values in the asked format; ``empty`` says in a table's place that there are none."""
    if format_ != "table":
        document(values, format_)
    elif values:
        table(values, columns)
    else:
        click.echo(empty, err=True)


def document(value: Any, format_: Format) -> None:
    """Print a struct or a list of structs as JSON or YAML."""
    import msgspec

    if format_ == "yaml":
        import yaml

        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        plain = msgspec.to_builtins(value)
        text = yaml.dump(plain, Dumper=dumper, sort_keys=False, allow_unicode=True, width=1000)
        click.echo(text, nl=False)
    else:
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def table(values: Sequence[T], columns: Sequence[Column[T]], indent: str = "") -> None:
    """Print a table; columns that are empty in every row are left out."""
    rows = [[cell(column.value(value)) for column in columns] for value in values]
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    rows = [[row[i] for i in used] for row in rows]
    heads = [columns[i] for i in used]
    if on_terminal() and len(rows) <= _RICH_ROWS:
        _rich(heads, rows, indent)
    else:
        _plain(heads, rows, indent)


def pairs(values: Iterable[tuple[str, str]], indent: str = "  ") -> None:
    """Print names with values; those with an empty value are left out."""
    kept = [(name, cell(value)) for name, value in values if value]
    width = max((len(name) for name, _ in kept), default=0)
    for name, value in kept:
        click.echo(f"{indent}{name:<{width}}  {value}")


def on_terminal() -> bool:
    """Whether somebody reads along."""
    return sys.stdout.isatty()


def _plain(columns: Sequence[Column[Any]], rows: list[list[str]], indent: str) -> None:
    lines = [[column.title for column in columns], *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        parts = [
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        ]
        click.echo((indent + "  ".join(parts)).rstrip())


def _rich(columns: Sequence[Column[Any]], rows: list[list[str]], indent: str) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        # Text, not str: "[red]" in a label is no markup.
        made.add_row(*(Text(text) for text in row))
    Console().print(Padding(made, (0, 0, 0, len(indent)), expand=False))


def cell(text: str) -> str:
    """Without control characters: what a registry or a peer says must not drive a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def number(value: float) -> str:
    """``12,345``"""
    return f"{value:,}"


def ago(seconds: float | None) -> str:
    """``0.3s``, ``42s``, ``3m12s``, ``5h02m``, ``12d03h``; empty for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for unit, size, below, small in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // small:02}{below}"
    return f"{whole // 60}m{whole % 60:02}s" if whole >= 60 else f"{whole}s"
