"""Shares of traffic as whole numbers, as the model wants them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

__all__ = ["MOST", "whole"]

MOST: Final = 65535
_FINE: Final = 1000
"""A share of a thousandth of the others' can still be told."""


def whole(weights: Sequence[float]) -> list[int]:
    """``[0.5, 1.5, 0]`` -> ``[1, 3, 0]``: the same proportions in 0 to 65535.

    What is whole already and not too large stays as it is. A positive weight never becomes 0.
    """
    largest = max(weights, default=0)
    if largest <= MOST and all(weight == int(weight) for weight in weights):
        return [int(weight) for weight in weights]
    factor = MOST / largest if largest * _FINE > MOST else _FINE
    scaled = [max(1, round(weight * factor)) if weight > 0 else 0 for weight in weights]
    divisor = math.gcd(*scaled)
    return [weight // divisor for weight in scaled]
