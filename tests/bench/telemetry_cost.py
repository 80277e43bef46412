"""What telemetry costs: ``python tests/bench/telemetry_cost.py``.

Each figure is the best of several runs, so that a busy machine shows in it as little as can
be. prometheus_client, if it is installed, is measured beside our own exposition.
"""

from __future__ import annotations

import sys
import time
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from nodeproxy.core.record import Record
from nodeproxy.telemetry.accesslog import AccessLog, AccessLogSettings
from nodeproxy.telemetry.families import DURATION, Families
from nodeproxy.telemetry.metrics import Metrics
from nodeproxy.telemetry.requests import Requests
from nodeproxy.telemetry.writer import LineWriter

REPEAT = 15


def best(statement: str, names: dict[str, Any], number: int = 20_000) -> float:
    """Nanoseconds of one execution."""
    return min(timeit.repeat(statement, globals=names, number=number, repeat=REPEAT)) / number * 1e9


def show(what: str, value: float, unit: str) -> None:
    print(f"{what:<52}{value:>10,.1f} {unit}")


def a_record() -> Record:
    record = Record(100.0, "HTTP/1.1", "10.244.1.9:40000", "10.96.0.10:80")
    record.status, record.sent, record.responded, record.ended = 200, 100.0001, 100.002, 100.0021
    record.method, record.path, record.authority = b"GET", b"/cart/items", b"web.shop"
    record.user_agent, record.request_id = b"curl/8.1", b"0af7651916cd43dd8448eb211c80319c"
    record.service = record.backend = "shop/web"
    record.upstream, record.bytes_sent = "10.244.2.12:8080", 128
    return record


def hot_path() -> None:
    metrics = Metrics()
    families = Families(metrics)
    record = a_record()
    log = AccessLog(AccessLogSettings(), lambda _: None, Random(1))
    slow = AccessLog(AccessLogSettings(slow=1.0), lambda _: None, Random(1))
    names: dict[str, Any] = {
        "counter": families.rules_repairs.bind(),
        "histogram": families.loop_stall.bind(),
        "series": Requests(families).port("shop/web", 80),
        "endpoint": Requests(families).endpoint("shop/web", 80, "10.244.2.12", 8080),
        "record": record,
        "log": log,
        "slow": slow,
    }
    show("counter.value += 1", best("counter.value += 1", names), "ns")
    show("histogram.observe(s)", best("histogram.observe(0.007)", names), "ns")
    show("series.observe(record), HTTP", best("series.observe(record)", names), "ns")
    show("log.wants(record), mode errors", best("log.wants(record)", names), "ns")
    show("log.wants(record), mode errors with slow", best("slow.wants(record)", names), "ns")
    show("log.emit(record), without the writer", best("log.emit(record)", names, 5000), "ns")


def writer() -> None:
    target = LineWriter(Path("/dev/null"), limit=1 << 30)
    line = b"x" * 600 + b"\n"
    number = 20_000
    cost = min(timeit.repeat(lambda: target.write(line), number=number, repeat=3)) / number * 1e9
    target.close(30)
    show("writer.write(line), 600 bytes, thread at work", cost, "ns")


def filled(series: int) -> Metrics:
    """That many lines: half of them counters, half histograms."""
    metrics = Metrics(series * 4)
    counters = metrics.counter("bench_requests_total", "Help.", ("service", "port", "code"))
    seconds = metrics.histogram("bench_seconds", "Help.", ("service", "port"), DURATION)
    for number in range(series // 2):
        counters.bind(f"shop/service-{number}", "80", "200").value += number
    for number in range(series // 2 // seconds.lines):
        seconds.bind(f"shop/service-{number}", "80").observe(0.003)
    return metrics


def scrape(series: int) -> None:
    metrics = filled(series)
    totals, longest = [], []
    for _ in range(REPEAT):
        pieces: Iterator[bytes] = metrics.render()
        times = []
        while True:
            start = time.perf_counter()
            piece = next(pieces, None)
            times.append(time.perf_counter() - start)
            if piece is None:
                break
        totals.append(sum(times))
        longest.append(max(times))
    show(f"render, per 1,000 series (of {series:,})", min(totals) / series * 1e9, "us")
    show("render, longest slice, best scrape", min(longest) * 1e6, "us")
    show("render, longest slice, worst scrape", max(longest) * 1e6, "us")


def other_library(series: int) -> None:
    """The same exposition, from the same numbers, by a custom collector."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
    except ImportError:
        print("prometheus_client is not installed: not compared")
        return
    buckets = [(str(bound), 1.0) for bound in (*DURATION, "+Inf")]

    class Collector:
        def collect(self) -> Iterator[Any]:
            counters = CounterMetricFamily("bench", "Help.", labels=["service", "port", "code"])
            seconds = HistogramMetricFamily("bench_s", "Help.", labels=["service", "port"])
            for number in range(series // 2):
                counters.add_metric([f"shop/service-{number}", "80", "200"], number)
            for number in range(series // 2 // (len(DURATION) + 3)):
                seconds.add_metric([f"shop/service-{number}", "80"], buckets, sum_value=1.0)
            yield counters
            yield seconds

    registry = CollectorRegistry()
    registry.register(Collector())  # type: ignore[arg-type]
    run: Callable[[], bytes] = lambda: generate_latest(registry)  # noqa: E731
    cost = min(timeit.repeat(run, number=1, repeat=REPEAT))
    show("prometheus_client, per 1,000 series, in one piece", cost / series * 1e9, "us")


if __name__ == "__main__":
    hot_path()
    writer()
    scrape(10_000)
    other_library(10_000)
