"""Counters, gauges and histograms, and their exposition to Prometheus.

A series is bound once, when the catalog changes; counting is then ``series.value += 1`` on
a plain object. All of this belongs to the loop's thread: there are no locks.

Three promises:

* **The number of series is bounded** (:mod:`nodeproxy.telemetry.budget`). Whoever asks for
  one too many gets the metric's shared overflow series, every label of which is
  ``overflow``, and ``nodeproxy_series_dropped_total`` counts it. Sums over all labels stay
  right. Metrics without labels, the overflow series and that counter are not counted
  against the limit: their number is fixed by the code.
* **A scrape never stalls the loop.** :meth:`Metrics.render` is a generator of slices; the
  caller awaits something between two of them. One series is always rendered in one piece,
  so a histogram's buckets, sum and count agree.
* **A scrape never fails as a whole** because of one value that is pulled from elsewhere: the
  metric is left out and ``nodeproxy_scrape_errors_total`` tells.

prometheus_client is not used. Behind a custom collector it needs more than ten times as long
for a scrape (tests/bench/telemetry_cost.py measures both), in one piece, which only a thread
could take off the loop, where it would compete with the traffic for the interpreter's lock. Its
own counters cost seven times as much per increment. What remains to be written here is the text
format, which is small. The tests read what we write with its parser and with promtool.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from nodeproxy.telemetry.budget import Budget
from nodeproxy.telemetry.exposition import (
    CONTENT_TYPE,
    clean,
    escape_help,
    label_text,
    number,
    valid_label,
    valid_metric,
)

__all__ = ["CONTENT_TYPE", "Counter", "Family", "Gauge", "Histogram", "Metrics", "Sample"]

Kind = Literal["counter", "gauge", "histogram"]
Sample: TypeAlias = tuple[Sequence[str], float]
"""What a callback gives: the label values, in the metric's order, and the value."""

OVERFLOW: Final = "overflow"
SLICE_LINES: Final = 200
"""Lines in a slice of :meth:`Metrics.render`, give or take one series."""


class Counter:
    """A value that only grows: ``counter.value += 1``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Gauge:
    """A value that goes up and down: assign to ``gauge.value``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Histogram:
    """Counts per bucket, kept apart and added up only when they are shown."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        """Upper bounds, ascending, each inclusive; one bucket more is for what lies above."""
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


S = TypeVar("S", Counter, Gauge, Histogram)


class Family(Generic[S]):
    """One metric: its name, its labels and its series by label values."""

    def __init__(
        self,
        owner: Metrics,
        kind: Kind,
        name: str,
        text: str,
        labels: tuple[str, ...],
        make: Callable[[], S],
        bounds: tuple[float, ...] = (),
        *,
        exempt: bool = False,
    ) -> None:
        self.kind: Final = kind
        self.name: Final = name
        self.help: Final = text
        self.labels: Final = labels
        self.bounds: Final = bounds
        self.lines: Final = len(bounds) + 3 if kind == "histogram" else 1
        """Lines of the exposition that one series takes."""
        self._owner = owner
        self._make: Callable[[], S] = make
        self.exempt: Final = exempt or not labels
        """Not counted against the limit."""
        self._series: dict[tuple[str, ...], tuple[str, S]] = {}
        self._overflow = (OVERFLOW,) * len(labels)
        self._pull: Callable[[], Iterable[Sample]] | None = None
        self._head = f"# HELP {name} {escape_help(text)}\n# TYPE {name} {kind}\n"
        self._held = 0
        self._les = [f'le="{number(bound)}"}} ' for bound in (*bounds, math.inf)]

    def __len__(self) -> int:
        return len(self._series)

    @property
    def size(self) -> int:
        """Lines that this metric's series take, or took at the last scrape if pulled."""
        return self._held if self._pull else len(self._series) * self.lines

    def bind(self, *values: str) -> S:
        """The series with these label values, made if need be; the same object every time.

        Beyond the limit, the shared overflow series. Raises ValueError for a wrong number
        of values.
        """
        key = tuple(map(clean, values))
        found = self._series.get(key)
        if found is not None:
            return found[1]
        if len(key) != len(self.labels):
            raise ValueError(f"{self.name} takes the labels {self.labels}, not {values}")
        if not self.exempt and key != self._overflow and not self._owner.admit(self):
            key = self._overflow
            found = self._series.get(key)
            if found is not None:
                return found[1]
        series = self._make()
        self._series[key] = (label_text(self.labels, key), series)
        return series

    def unbind(self, *values: str) -> None:
        """The series is shown no more. Those who still hold it may go on counting."""
        key = tuple(map(clean, values))
        if key == self._overflow or self._series.pop(key, None) is None:
            return
        if not self.exempt:
            self._owner.budget.give_back(self.name, self.lines)

    def detached(self) -> S:
        """A series that is shown nowhere: for holders that outlive their subject."""
        return self._make()

    def callback(self, pull: Callable[[], Iterable[Sample]]) -> None:
        """At each scrape, show what ``pull`` gives instead of bound series.

        It is read in one go, so it must be quick; it must not be given to a histogram.
        What exceeds the limit is left out and counted, at each scrape.
        """
        if self.kind == "histogram":
            raise ValueError(f"{self.name}: a histogram cannot be pulled")
        self._pull = pull

    def pieces(self) -> Iterator[tuple[int, str]]:
        """Number of lines and text, series by series, the head before the first one."""
        head = self._head
        for lines, text in self._pulled() if self._pull else self._bound():
            yield lines, head + text
            head = ""

    def _bound(self) -> Iterator[tuple[int, str]]:
        # A copy: others bind and unbind while the caller awaits between two slices.
        for labels, series in tuple(self._series.values()):
            if isinstance(series, Histogram):
                yield self.lines, self._histogram(labels, series)
            else:
                yield 1, self._simple(labels, series.value)

    def _pulled(self) -> Iterator[tuple[int, str]]:
        assert self._pull is not None
        budget = self._owner.budget
        if not self.exempt:
            budget.give_back(self.name, self._held)
        self._held = 0
        limit = budget.limit if self.exempt else budget.room(self.name)
        unique: dict[str, float] = {}
        try:
            samples = iter(self._pull())
            for values, value in islice(samples, limit):
                unique[label_text(self.labels, tuple(map(clean, values)))] = float(value)
            missed = sum(1 for _ in samples)
        except Exception:
            # Whatever went wrong in a part of the daemon, the other metrics are needed now.
            self._owner.errors.bind(self.name).value += 1
            return
        if self.exempt or budget.take(self.name, len(unique)):
            self._held = len(unique)
        if missed:
            self._owner.dropped.bind(self.name).value += missed
        for labels, value in unique.items():
            yield 1, self._simple(labels, value)

    def _simple(self, labels: str, value: float) -> str:
        if labels:
            return f"{self.name}{{{labels}}} {number(value)}\n"
        return f"{self.name} {number(value)}\n"

    def _histogram(self, labels: str, series: Histogram) -> str:
        start = f"{self.name}_bucket{{{labels}," if labels else f"{self.name}_bucket{{"
        outer = f"{{{labels}}}" if labels else ""
        running = list(accumulate(series.counts))
        lines = [f"{start}{le}{n}\n" for le, n in zip(self._les, running, strict=True)]
        lines.append(f"{self.name}_sum{outer} {number(series.sum)}\n")
        lines.append(f"{self.name}_count{outer} {running[-1]}\n")
        return "".join(lines)


AnyFamily: TypeAlias = Family[Counter] | Family[Gauge] | Family[Histogram]


class Metrics:
    """All metrics of the process. ``max_series`` counts lines of the exposition."""

    def __init__(self, max_series: int = 10_000) -> None:
        self.budget: Final = Budget(max_series)
        self._families: dict[str, AnyFamily] = {}
        self._names: set[str] = set()
        self.dropped: Final = self._own(
            "nodeproxy_series_dropped_total",
            "Times that a label set was refused by the limit and the overflow series given.",
        )
        self.errors: Final = self._own(
            "nodeproxy_scrape_errors_total",
            "Times that a metric was left out of a scrape because its source failed.",
        )

    def counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Family[Counter]:
        """A new counter; its name ends in ``_total``. Raises ValueError for a bad name."""
        if not name.endswith("_total"):
            raise ValueError(f"a counter's name ends in _total: {name}")
        return self._add(Family(self, "counter", name, help, labels, Counter))

    def gauge(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Family[Gauge]:
        """A new gauge. Raises ValueError for a bad name."""
        return self._add(Family(self, "gauge", name, help, labels, Gauge))

    def histogram(
        self, name: str, help: str, labels: tuple[str, ...], buckets: Sequence[float]
    ) -> Family[Histogram]:
        """A new histogram; ``buckets`` are finite upper bounds, ascending."""
        bounds = tuple(float(b) for b in buckets)
        if not bounds or list(bounds) != sorted(set(bounds)) or bounds[-1] == math.inf:
            raise ValueError(f"{name}: buckets must be finite, distinct and ascending: {buckets}")
        if "le" in labels:
            raise ValueError(f"{name}: a histogram's own label is le")
        return self._add(
            Family(self, "histogram", name, help, labels, lambda: Histogram(bounds), bounds)
        )

    def admit(self, family: AnyFamily) -> bool:
        """Whether one more series of this metric may be shown; counts the refusals."""
        if self.budget.take(family.name, family.lines):
            return True
        self.dropped.bind(family.name).value += 1
        return False

    def families(self) -> tuple[AnyFamily, ...]:
        """All metrics, in the order in which they were defined; those about metrics last, so
        that a scrape tells what it met itself."""
        others = (f for f in self._families.values() if f is not self.dropped)
        return (*(f for f in others if f is not self.errors), self.dropped, self.errors)

    def cardinality(self) -> list[tuple[str, int]]:
        """Metrics and the lines that their series take, the largest first."""
        sizes = [(f.name, f.size) for f in self._families.values()]
        return sorted(sizes, key=lambda size: (-size[1], size[0]))

    def render(self, slice_lines: int = SLICE_LINES) -> Iterator[bytes]:
        """The exposition in slices of some ``slice_lines`` lines; await between two of them."""
        parts: list[str] = []
        lines = 0
        for family in self.families():
            for count, text in family.pieces():
                parts.append(text)
                lines += count
                if lines >= slice_lines:
                    yield "".join(parts).encode()
                    parts.clear()
                    lines = 0
        if parts:
            yield "".join(parts).encode()

    def _own(self, name: str, text: str) -> Family[Counter]:
        return self._add(Family(self, "counter", name, text, ("metric",), Counter, exempt=True))

    def _add(self, family: Family[S]) -> Family[S]:
        if not valid_metric(family.name) or not family.help.strip():
            raise ValueError(f"bad name or no help: {family.name!r}")
        if len(set(family.labels)) != len(family.labels) or not all(
            map(valid_label, family.labels)
        ):
            raise ValueError(f"{family.name}: bad labels {family.labels}")
        names = {family.name}
        if family.kind == "histogram":
            names |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
        if names & self._names:
            raise ValueError(f"defined twice: {', '.join(sorted(names & self._names))}")
        self._names |= names
        self._families[family.name] = family
        if not family.exempt:
            self.budget.enrol(family.name)
        return family
