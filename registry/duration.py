"""Durations as the Gateway API writes them: ``1h``, ``10s``, ``1m30s``, ``200ms``.

GEP-2257: one to four pairs of up to five digits and a unit, from ``h m s ms``. Values are
seconds; the class is a float, so that it can be used wherever seconds are.
"""

from __future__ import annotations

import re
from typing import Final, Self

__all__ = ["Duration"]

_WHOLE = re.compile(r"(?:[0-9]{1,5}(?:h|m|s|ms)){1,4}")
_PART = re.compile(r"([0-9]+)(h|ms|m|s)")
_MILLISECONDS: Final = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


class Duration(float):
    """Seconds, 0 or more. ``Duration("1m30s") == 90``; ``str()`` gives the written form."""

    __slots__ = ()

    def __new__(cls, value: str | float) -> Self:
        """Raises ValueError for a text that is not a duration."""
        if isinstance(value, str):
            if not _WHOLE.fullmatch(value):
                raise ValueError(
                    f"{value!r} is not a duration: write 10s, 1m30s or 200ms (units h, m, s, ms)"
                )
            parts = _PART.findall(value)
            return super().__new__(cls, sum(int(n) * _MILLISECONDS[u] for n, u in parts) / 1000)
        if not 0 <= value < 360_000_000:
            raise ValueError(f"{value!r} is not a duration")
        return super().__new__(cls, value)

    @classmethod
    def convert(cls, value: object) -> Self:
        """From a value as YAML gives it: a text, or the number 0. Raises ValueError."""
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            if value == 0:
                return cls(0.0)
            raise ValueError(f"a duration needs a unit: write {value:g}s or {value:g}ms")
        raise ValueError("expected a duration such as 10s or 200ms")

    def __str__(self) -> str:
        left = round(self * 1000)
        out = ""
        for unit, size in _MILLISECONDS.items():
            count, left = divmod(left, size)
            # Five digits at most for each unit: more hours than that have no written form.
            out += f"{count}{unit}" if count else ""
        return out or "0s"

    __repr__ = __str__
