"""A timer wheel for lanes: deadlines that are almost always moved, and almost never reached.

Setting a deadline is two attribute stores. A lane sits in at most one bucket, the one of the
earliest deadline it has had since it was last looked at. When the bucket's time comes, a lane
whose deadline has moved on is put where it now belongs; only one whose deadline has passed
is woken. So a busy keep-alive connection touches the wheel about once a minute.

A bucket is one tick wide, but deadlines that are far off share a wide one: it is looked at
before the first of them, and they are then put into narrow ones. So buckets, also those whose
lanes are gone, stay few: some three thousand for deadlines within an hour.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol

__all__ = ["TICK", "Timed", "Wheel"]

TICK = 0.02
"""Seconds between two looks at the wheel: how late a deadline may be noticed."""
WIDE = 64
"""Ticks of a wide bucket."""


class Timed(Protocol):
    """What the wheel knows of a lane."""

    deadline: float
    """Monotonic seconds; ``inf``: none."""
    look_at: float
    """When the wheel will look at it; ``inf``: it is in no bucket."""
    bucket: set[Timed] | None


class _Bucket(set[Timed]):
    __slots__ = ("opens",)

    opens: float
    """When it is looked at, in monotonic seconds: one number for all that are in it."""


class Wheel:
    """Buckets of lanes by tick. ``now`` is always an argument, in monotonic seconds."""

    __slots__ = ("_buckets", "_last")

    def __init__(self, now: float) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._last = int(now / TICK)

    def arm(self, timed: Timed) -> None:
        """Look at ``timed`` at its deadline. Call it when ``deadline < look_at``."""
        if timed.bucket is not None:
            timed.bucket.discard(timed)
        deadline = timed.deadline
        if deadline == inf:
            timed.bucket = None
            timed.look_at = inf
            return
        index = int(deadline / TICK) + 1
        if index <= self._last:
            index = self._last + 1
        elif index - self._last > 2 * WIDE:
            index -= index % WIDE
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = _Bucket()
            bucket.opens = index * TICK
        bucket.add(timed)
        timed.bucket = bucket
        timed.look_at = bucket.opens

    def disarm(self, timed: Timed) -> None:
        """Forget ``timed``; harmless when it is in no bucket."""
        if timed.bucket is not None:
            timed.bucket.discard(timed)
            timed.bucket = None
        timed.look_at = inf

    def advance(self, now: float, expire: Callable[[Timed], None]) -> None:
        """Call ``expire`` for every lane whose deadline has passed at ``now``."""
        index = int(now / TICK)
        if index <= self._last:
            return
        if index - self._last > len(self._buckets):
            due = sorted(i for i in self._buckets if i <= index)
        else:
            due = [i for i in range(self._last + 1, index + 1) if i in self._buckets]
        self._last = index
        for i in due:
            # What expires may arm and disarm others, also lanes of this very bucket.
            bucket = self._buckets[i]
            while bucket:
                timed = bucket.pop()
                timed.bucket = None
                timed.look_at = inf
                if timed.deadline <= now:
                    expire(timed)
                else:
                    self.arm(timed)
            del self._buckets[i]

    def __len__(self) -> int:
        return sum(len(b) for b in self._buckets.values())
