"""How long to wait before a failed thing is tried again."""

from __future__ import annotations

import random
from typing import Final

__all__ = ["Backoff"]

BASE: Final = 0.5
CAP: Final = 30.0
HEALTHY: Final = 30.0


class Backoff:
    """Exponential with jitter. After a healthy time it starts over.

    The delay is drawn between half and all of ``base * 2**failures``, at most ``cap``: a
    registry that comes back is not met by all nodes in one second.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        base: float = BASE,
        cap: float = CAP,
        healthy: float = HEALTHY,
    ) -> None:
        """All times in seconds; ``healthy``: how long it must have worked to be trusted."""
        self._rng = rng
        self._base = base
        self._cap = cap
        self._healthy = healthy
        self.failures = 0
        """In a row."""

    def failed(self, worked_for: float) -> float:
        """Seconds to wait now, after it worked for ``worked_for`` seconds and failed."""
        if worked_for >= self._healthy:
            self.failures = 0
        # Beyond 2**16 the cap has long been reached; an exponent that grows for weeks would
        # overflow the float.
        ceiling = min(self._cap, self._base * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return ceiling * (0.5 + 0.5 * self._rng.random())
