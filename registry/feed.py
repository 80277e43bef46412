"""The sink that a back end talks to: collects what is not yet in the catalog.

Only book-keeping, no I/O and no waiting. Changes are kept per service and the latest wins, so a
registry that talks faster than we apply costs memory for each service once. ``take`` hands
them out in bounded portions.

A back end that starts again tells the whole truth anew; what it has not named again when it
says "synced" is gone. Until then the services of its last run stay.

``keep_on_empty``: a registry that suddenly answers with no service at all is more often broken
(an emptied file, a wiped prefix, a wrong token) than truly empty, and believing it stops all
traffic. So its previous services stay, for a limited time and not in silence. Only whole
answers are doubted; a back end that names each service that is gone is believed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from registry.base import Problem
from registry.model import Service

__all__ = ["Feed"]


class Feed:
    """The Sink of one registry."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        wake: Callable[[], None],
        current: Mapping[str, Service],
        keep_on_empty: float,
    ) -> None:
        """``current``: the live view of what is applied already. ``keep_on_empty``: seconds,
        0 to believe an empty answer at once. ``wake`` is called when there is work."""
        self._clock = clock
        self._wake = wake
        self._current = current
        self._keep = keep_on_empty
        self._pending: dict[str, Service | None] = {}
        self._order: deque[str] = deque()
        self._seen: set[str] | None = set()
        """Names told in this run; None once the run has been complete."""
        self._unreadable: frozenset[str] = frozenset()
        self.kept_since: float | None = None
        """Since when an empty answer is not believed."""
        self.empty_answers_kept = 0
        self.reported: tuple[Problem, ...] = ()
        self.synced_at: float | None = None
        """Time of the last "synced", by the clock; an answer that is not believed does not
        count, so the age shown is that of the services in use."""
        self.synced_in_run = False

    # --- the back end's side ---

    def upsert(self, services: Iterable[Service]) -> None:
        """See :class:`registry.base.Sink`."""
        names = [self._put(service.name, service) for service in services]
        if self._seen is not None:
            self._seen.update(names)
        elif self.kept_since is not None and names:
            # The registry speaks again: what it names is all that it has.
            self.kept_since = None
            self._sweep(set(names))
        self._wake()

    def remove(self, names: Iterable[str]) -> None:
        """See :class:`registry.base.Sink`."""
        for name in names:
            self._put(name, None)
            if self._seen is not None:
                self._seen.discard(name)
        self._wake()

    def replace(self, services: Iterable[Service]) -> None:
        """See :class:`registry.base.Sink`."""
        self._complete({self._put(service.name, service) for service in services})
        self._wake()

    def keep(self, names: Iterable[str]) -> None:
        """See :class:`registry.base.Sink`."""
        self._unreadable = frozenset(names)

    def problems(self, problems: Iterable[Problem]) -> None:
        """See :class:`registry.base.Sink`."""
        self.reported = tuple(problems)
        self._wake()

    def synced(self) -> None:
        """See :class:`registry.base.Sink`."""
        if self._seen is not None:
            self._complete(self._seen)
        if self.kept_since is None:
            self.synced_at = self._clock()
        self.synced_in_run = True
        self._wake()

    # --- the supervisor's side ---

    def restart(self) -> None:
        """The back end is about to run (again)."""
        self._seen = set()
        self._unreadable = frozenset()
        self.synced_in_run = False

    @property
    def busy(self) -> bool:
        return bool(self._order)

    @property
    def backlog(self) -> int:
        """Services that wait to be taken."""
        return len(self._order)

    def take(self, budget: int) -> tuple[list[Service], list[str]]:
        """Upserts and removals that come to about ``budget`` units of work (one for each
        service and each endpoint); at least one if there is any."""
        upserts: list[Service] = []
        removals: list[str] = []
        while self._order and budget > 0:
            name = self._order.popleft()
            service = self._pending.pop(name)
            if service is None:
                removals.append(name)
                known = self._current.get(name)
                budget -= 1 + (len(known.endpoints) if known else 0)
            else:
                upserts.append(service)
                budget -= 1 + len(service.endpoints)
        return upserts, removals

    def expire(self) -> float:
        """Believe a kept empty answer if its time is over; seconds until that, else inf."""
        if self.kept_since is None:
            return float("inf")
        left = self.kept_since + self._keep - self._clock()
        if left > 0:
            return left
        self.kept_since = None
        self._sweep(set())
        self._wake()
        return float("inf")

    # --- inside ---

    def _put(self, name: str, service: Service | None) -> str:
        if name not in self._pending:
            self._order.append(name)
        self._pending[name] = service
        return name

    def _complete(self, names: set[str]) -> None:
        """``names`` are all that the registry has."""
        self._seen = None
        names = names | self._unreadable
        if not names and self._keep > 0 and self._has_any():
            if self.kept_since is None:
                self.kept_since = self._clock()
                self.empty_answers_kept += 1
            return
        self.kept_since = None
        self._sweep(names)

    def _has_any(self) -> bool:
        if any(service is not None for service in self._pending.values()):
            return True
        return any(name not in self._pending for name in self._current)

    def _sweep(self, keep: set[str]) -> None:
        for name in [n for n in self._current if n not in keep]:
            self._put(name, None)
        for name, service in self._pending.items():
            if service is not None and name not in keep:
                self._pending[name] = None
