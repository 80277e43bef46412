"""The limits of one head, together with the expressions compiled for them.

Limits are part of the expressions (bounded repeats), so that a head within its limits pays
nothing for them: only a head that did not match is asked why.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from nodeproxy.core.http1 import grammar

__all__ = ["DEFAULT", "Limits"]

Match = Callable[[bytes], "re.Match[bytes] | None"]


class Limits:
    """Sizes that a head must keep to. Immutable by convention; make one per listener, not per
    connection: the constructor compiles regular expressions.

    ``head``: bytes of the whole head, the empty line included. ``target``: bytes of the request
    target. ``fields``: number of field lines.
    """

    __slots__ = ("fields", "head", "match_request", "match_response", "target")

    def __init__(self, *, head: int = 65536, target: int = 16384, fields: int = 100) -> None:
        if not 64 <= head <= 1 << 24 or target < 1 or not 1 <= fields <= 10_000:
            raise ValueError("limits of a head are out of range")
        target = min(target, head)
        self.head: Final = head
        self.target: Final = target
        self.fields: Final = fields
        self.match_request: Final[Match] = re.compile(grammar.request(target, fields)).match
        self.match_response: Final[Match] = re.compile(grammar.response(fields)).match


DEFAULT: Final = Limits()
