"""From single results of checks to "well" or "ill". Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

__all__ = ["Health", "Tally", "verdict"]


class Health(enum.Enum):
    """The value is the state as a sentence."""

    UNKNOWN = "not checked often enough yet"
    UP = "healthy"
    DOWN = "unhealthy"


class Tally(msgspec.Struct, frozen=True):
    """What one check has found so far."""

    rise: int
    fall: int
    health: Health = Health.UNKNOWN
    good: int = 0
    """Successes in a row; counted up to ``rise``."""
    bad: int = 0
    """Failures in a row; counted up to ``fall``."""

    def after(self, ok: bool) -> Tally:
        """With one more result."""
        good = min(self.good + 1, self.rise) if ok else 0
        bad = 0 if ok else min(self.bad + 1, self.fall)
        health = self.health
        if good >= self.rise:
            health = Health.UP
        elif bad >= self.fall:
            health = Health.DOWN
        return msgspec.structs.replace(self, health=health, good=good, bad=bad)


def verdict(tallies: Iterable[Tally]) -> Health:
    """One that is down is enough; all have to be up. Without any check: up."""
    found = {tally.health for tally in tallies}
    if Health.DOWN in found:
        return Health.DOWN
    return Health.UNKNOWN if Health.UNKNOWN in found else Health.UP
