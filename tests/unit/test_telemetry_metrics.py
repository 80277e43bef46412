"""Counters, gauges, histograms: binding, the limit, rendering."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from nodeproxy.telemetry.metrics import Histogram, Metrics

Found = dict[tuple[str, tuple[str, ...]], float]


def parsed(metrics: Metrics) -> Found:
    """(name, label values in the order of their names) -> value; fails on a duplicate."""
    found: Found = {}
    text = b"".join(metrics.render()).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(v for _, v in sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def test_the_exposition_in_full():
    metrics = Metrics()
    requests = metrics.counter("app_requests_total", "Requests.\nAll of them.", ("code",))
    requests.bind("200").value += 2
    metrics.gauge("app_open", "Open.").bind().value = 1.5
    seconds = metrics.histogram("app_seconds", "Time.", ("a",), (0.5, 1))
    for value in (0.5, 0.7, 3):
        seconds.bind("x").observe(value)
    assert b"".join(metrics.render()).decode() == (
        "# HELP app_requests_total Requests.\\nAll of them.\n"
        "# TYPE app_requests_total counter\n"
        'app_requests_total{code="200"} 2\n'
        "# HELP app_open Open.\n"
        "# TYPE app_open gauge\n"
        "app_open 1.5\n"
        "# HELP app_seconds Time.\n"
        "# TYPE app_seconds histogram\n"
        'app_seconds_bucket{a="x",le="0.5"} 1\n'
        'app_seconds_bucket{a="x",le="1.0"} 2\n'
        'app_seconds_bucket{a="x",le="+Inf"} 3\n'
        'app_seconds_sum{a="x"} 4.2\n'
        'app_seconds_count{a="x"} 3\n'
    )


def test_a_histogram_without_labels():
    metrics = Metrics()
    metrics.histogram("h", "Help.", (), (1,)).bind().observe(2)
    text = b"".join(metrics.render()).decode()
    assert 'h_bucket{le="1.0"} 0\nh_bucket{le="+Inf"} 1\nh_sum 2.0\nh_count 1\n' in text


def test_binding_gives_one_series_per_label_set():
    family = Metrics().counter("x_total", "Help.", ("a", "b"))
    assert family.bind("1", "2") is family.bind("1", "2")
    assert family.bind("1", "2") is not family.bind("2", "1")
    assert len(family) == 2


@pytest.mark.parametrize("values", [(), ("1",), ("1", "2", "3")])
def test_binding_needs_every_label(values: tuple[str, ...]):
    with pytest.raises(ValueError, match="takes the labels"):
        Metrics().counter("x_total", "Help.", ("a", "b")).bind(*values)


def test_an_unbound_series_is_shown_no_more_and_starts_anew():
    metrics = Metrics()
    family = metrics.counter("x_total", "Help.", ("a",))
    old = family.bind("1")
    old.value += 5
    family.unbind("1")
    family.unbind("1")
    family.unbind("never")
    old.value += 1
    assert parsed(metrics) == {}
    assert metrics.budget.total == 0
    assert family.bind("1").value == 0


def test_a_detached_series_is_shown_nowhere():
    metrics = Metrics()
    metrics.counter("x_total", "Help.", ("a",)).detached().value += 1
    assert parsed(metrics) == {}


@pytest.mark.parametrize(
    "define",
    [
        lambda m: m.counter("x", "Help."),
        lambda m: m.counter("1_total", "Help."),
        lambda m: m.counter("x_total", " "),
        lambda m: m.counter("x_total", "Help.", ("a-b",)),
        lambda m: m.counter("x_total", "Help.", ("a", "a")),
        lambda m: m.counter("x_total", "Help.", ("__a",)),
        lambda m: m.histogram("h", "Help.", ("le",), (1,)),
        lambda m: m.histogram("h", "Help.", (), ()),
        lambda m: m.histogram("h", "Help.", (), (2, 1)),
        lambda m: m.histogram("h", "Help.", (), (1, 1)),
        lambda m: m.histogram("h", "Help.", (), (1, float("inf"))),
        lambda m: (m.gauge("h_count", "Help."), m.histogram("h", "Help.", (), (1,))),
        lambda m: (m.gauge("g", "Help."), m.gauge("g", "Help.")),
    ],
)
def test_bad_definitions_are_refused(define: Callable[[Metrics], object]):
    with pytest.raises(ValueError, match=r"."):
        define(Metrics())


@settings(deadline=None)
@given(
    bounds=st.lists(st.floats(-100, 100), min_size=1, max_size=8, unique=True).map(sorted),
    values=st.lists(st.floats(-200, 200), max_size=50),
)
def test_a_histogram_agrees_with_a_naive_one(bounds: list[float], values: list[float]):
    metrics = Metrics()
    series = metrics.histogram("h", "Help.", (), bounds).bind()
    assert isinstance(series, Histogram)
    for value in values:
        series.observe(value)
    found = parsed(metrics)
    for bound in bounds:
        shown = found["h_bucket", (repr(float(bound)),)]
        assert shown == sum(1 for value in values if value <= bound)
    assert found["h_bucket", ("+Inf",)] == found["h_count", ()] == len(values)
    assert found["h_sum", ()] == pytest.approx(sum(values), abs=1e-9)


def test_beyond_the_limit_all_share_the_overflow_series():
    metrics = Metrics(10)
    family = metrics.counter("x_total", "Help.", ("a", "b"))
    for number in range(50):
        family.bind(str(number), "").value += 1
    found = parsed(metrics)
    own = [key for key in found if key[0] == "x_total" and key[1][0] != "overflow"]
    assert len(own) <= 10
    assert found["x_total", ("overflow", "overflow")] == 50 - len(own)
    assert sum(value for key, value in found.items() if key[0] == "x_total") == 50
    assert found["nodeproxy_series_dropped_total", ("x_total",)] == 50 - len(own)


def test_a_label_that_is_called_overflow_joins_the_overflow_series():
    metrics = Metrics(4)
    family = metrics.counter("x_total", "Help.", ("a",))
    family.bind("overflow").value += 1
    for number in range(10):
        family.bind(str(number)).value += 1
    family.unbind("overflow")
    assert ("x_total", ("overflow",)) in parsed(metrics)
    assert family.bind("overflow") is family.bind("another")


def test_one_metric_cannot_starve_another():
    metrics = Metrics(100)
    greedy = metrics.counter("greedy_total", "Help.", ("a",))
    modest = metrics.histogram("modest", "Help.", ("a",), (1, 2))
    for number in range(500):
        greedy.bind(str(number))
    series = modest.bind("x")
    assert series is not modest.bind("overflow")
    assert dict(metrics.cardinality())["modest"] >= 5


actions = st.lists(
    st.tuples(st.sampled_from("ch"), st.integers(0, 40), st.booleans()), max_size=150
)


@settings(deadline=None)
@given(limit=st.integers(0, 60), actions=actions)
def test_the_limit_is_never_exceeded(limit: int, actions: list[tuple[str, int, bool]]):
    metrics = Metrics(limit)
    families = {
        "c": metrics.counter("c_total", "Help.", ("a",)),
        "h": metrics.histogram("h", "Help.", ("a",), (1, 2)),
    }
    for which, label, bind in actions:
        if bind:
            families[which].bind(str(label))
        else:
            families[which].unbind(str(label))
    counted = [k for k in parsed(metrics) if "overflow" not in k[1] and "dropped" not in k[0]]
    assert len(counted) == metrics.budget.total <= limit


def test_a_callback_is_read_at_each_scrape():
    metrics = Metrics()
    ages = iter([1.5, 2.5])
    metrics.gauge("age", "Help.", ("registry",)).callback(lambda: [(("file",), next(ages))])
    assert parsed(metrics) == {("age", ("file",)): 1.5}
    assert parsed(metrics) == {("age", ("file",)): 2.5}


def test_a_callback_for_a_metric_without_labels():
    metrics = Metrics()
    metrics.gauge("ok", "Help.").callback(lambda: [((), True)])
    assert parsed(metrics) == {("ok", ()): 1}


def test_a_callback_that_says_a_label_set_twice_is_heard_once():
    metrics = Metrics()
    metrics.gauge("x", "Help.", ("a",)).callback(lambda: [(("1",), 1), (("1",), 2)])
    assert parsed(metrics) == {("x", ("1",)): 2}


def test_a_callback_keeps_to_the_limit():
    metrics = Metrics(10)
    metrics.counter("other_total", "Help.", ("a",)).bind("1")
    many: list[int] = list(range(30))
    metrics.gauge("x", "Help.", ("a",)).callback(lambda: [((str(n),), n) for n in many])
    for scrape in (1, 2):
        found = parsed(metrics)
        shown = [key for key in found if key[0] == "x"]
        assert 0 < len(shown) < 10
        assert metrics.dropped.bind("x").value == scrape * (30 - len(shown))
    many.clear()
    parsed(metrics)
    assert metrics.budget.total == 1


def broken() -> Iterable[tuple[tuple[str], float]]:
    yield ("1",), 1
    raise KeyError("gone")


@pytest.mark.parametrize("pull", [broken, lambda: [(("1", "2"), 1)], lambda: [(("1",), "x")]])
def test_a_broken_callback_costs_its_metric_only(pull: Callable[[], list[tuple[list[str], float]]]):
    metrics = Metrics()
    metrics.gauge("bad", "Help.", ("a",)).callback(pull)
    metrics.gauge("good", "Help.").bind()
    assert parsed(metrics) == {
        ("good", ()): 0,
        ("nodeproxy_scrape_errors_total", ("bad",)): 1,
    }


def test_a_histogram_cannot_be_pulled():
    with pytest.raises(ValueError, match="cannot be pulled"):
        Metrics().histogram("h", "Help.", (), (1,)).callback(list)


def test_slices_are_bounded_and_whole():
    metrics = Metrics()
    seconds = metrics.histogram("h", "Help.", ("a",), (1, 2, 3))
    for number in range(100):
        seconds.bind(str(number)).observe(number)
    slices = list(metrics.render(20))
    assert len(slices) > 20
    for piece in slices:
        lines = piece.decode().splitlines()
        assert len(lines) <= 20 + 6 + 2
        assert piece.endswith(b"\n")
        assert lines[-1].startswith("h_count")


def test_series_may_come_and_go_between_slices():
    metrics = Metrics()
    family = metrics.counter("x_total", "Help.", ("a",))
    for number in range(100):
        family.bind(str(number)).value = number
    text = ""
    for turn, piece in enumerate(metrics.render(10)):
        text += piece.decode()
        family.unbind(str(99 - turn))
        family.bind(f"new{turn}")
        family.bind(str(99 - turn))
    names = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(names) == len({line.split(" ")[0] for line in names}) == 100
    assert text.count("# TYPE x_total") == 1


def test_cardinality_names_the_largest_first():
    metrics = Metrics()
    small = metrics.counter("small_total", "Help.", ("a",))
    small.bind("1")
    metrics.histogram("large", "Help.", ("a",), (1, 2)).bind("1")
    assert metrics.cardinality()[:2] == [("large", 5), ("small_total", 1)]
