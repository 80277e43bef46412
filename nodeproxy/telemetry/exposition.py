"""The Prometheus text format, version 0.0.4: names, escapes and numbers.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details
"""

from __future__ import annotations

import math
import re
from typing import Final

__all__ = [
    "CONTENT_TYPE",
    "clean",
    "escape_help",
    "escape_value",
    "label_text",
    "number",
    "valid_label",
    "valid_metric",
]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_METRIC: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


def valid_metric(name: str) -> bool:
    """Whether ``name`` may name a metric."""
    return _METRIC.fullmatch(name) is not None


def valid_label(name: str) -> bool:
    """Whether ``name`` may name a label; two leading underscores are Prometheus' own."""
    return _LABEL.fullmatch(name) is not None


def clean(value: str) -> str:
    """``value`` in a form that UTF-8 and Prometheus' lexer can carry.

    Lone surrogates have no UTF-8 form and are spelled out; the lexer takes NUL for the end.
    """
    if "\0" in value:
        value = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if value.isascii():
        return value
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def escape_value(value: str) -> str:
    """A label value as it stands between the quotes."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def escape_help(text: str) -> str:
    """The text of a HELP line; quotes stay as they are there."""
    return text.replace("\\", r"\\").replace("\n", r"\n")


def label_text(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """``a="1",b="2"`` without braces; empty for no labels."""
    pairs = zip(names, values, strict=True)
    return ",".join(f'{name}="{escape_value(value)}"' for name, value in pairs)


def number(value: float) -> str:
    """A sample's value as Go's ParseFloat reads it back, exactly."""
    if type(value) is int:
        return str(value)
    value = float(value)
    if math.isfinite(value):
        return repr(value)
    if math.isnan(value):
        return "NaN"
    return "+Inf" if value > 0 else "-Inf"
