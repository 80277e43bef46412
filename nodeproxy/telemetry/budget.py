"""How many series one process may show, and how the metrics share them.

A quarter of the limit is split evenly: every metric is sure of its part, however many series
the others would like. The rest goes to whoever comes first, so that the few metrics that really
need many can have them. Amounts are lines of the exposition, which is what a
Prometheus server stores: a histogram with ten buckets takes thirteen.
"""

from __future__ import annotations

__all__ = ["Budget"]


class Budget:
    """The ledger. Owners are named by any string; amounts are whole numbers of lines."""

    __slots__ = ("_free", "_used", "limit", "share", "total")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        """Lines in use; never above ``limit``."""
        self.share = 0
        """What each owner is sure of."""
        self._used: dict[str, int] = {}
        self._free = limit

    def enrol(self, owner: str) -> None:
        """A new owner; the sure parts of all others become smaller."""
        self._used.setdefault(owner, 0)
        self.share = self.limit // 4 // len(self._used)
        taken = sum(max(0, used - self.share) for used in self._used.values())
        self._free = self.limit - self.share * len(self._used) - taken

    def used(self, owner: str) -> int:
        """Lines that ``owner`` has."""
        return self._used[owner]

    def room(self, owner: str) -> int:
        """Lines that ``owner`` could still take."""
        sure = max(0, self.share - self._used[owner])
        return max(0, min(sure + max(0, self._free), self.limit - self.total))

    def take(self, owner: str, amount: int) -> bool:
        """Give ``owner`` that many lines, or say False and give none."""
        if amount > self.room(owner):
            return False
        before = self._used[owner]
        self._used[owner] = before + amount
        self._free -= max(0, before + amount - self.share) - max(0, before - self.share)
        self.total += amount
        return True

    def give_back(self, owner: str, amount: int) -> None:
        """The reverse of a successful :meth:`take`."""
        before = self._used[owner]
        assert 0 <= amount <= before
        self._used[owner] = before - amount
        self._free += max(0, before - self.share) - max(0, before - amount - self.share)
        self.total -= amount
