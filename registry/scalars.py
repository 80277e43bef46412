"""What an unquoted YAML scalar means; the table is in :mod:`registry.yamltext`."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

__all__ = ["plain_scalar"]

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|[-+]?0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_WORDS: Final[dict[str, Any]] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_NUMBER_START: Final = frozenset("0123456789-+.")


@functools.lru_cache(maxsize=4096)
def plain_scalar(text: str) -> Any:
    """The value of an unquoted scalar; see the module's table."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in _NUMBER_START:
        # Python refuses integers of more than 4300 digits; no number of ours has 40.
        if len(text) <= 40 and _INT.fullmatch(text):
            return int(text, 16) if "x" in text else int(text)
        if len(text) <= 40 and _FLOAT.fullmatch(text):
            return float(text.replace(".", "") if text[-1] in "fFnN" else text)
    return text
