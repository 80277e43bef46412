"""The text format, read back by prometheus_client's parser."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from nodeproxy.telemetry.exposition import (
    clean,
    escape_help,
    label_text,
    number,
    valid_label,
    valid_metric,
)
from nodeproxy.telemetry.metrics import Metrics

any_text = st.text(st.characters())
nasty = st.text(st.sampled_from('\\"\n\r\t {},=#a\0\udc80ü\u2028'), max_size=12)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = b"".join(metrics.render()).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


@settings(deadline=None)
@given(value=any_text | nasty, other=any_text | nasty)
def test_label_values_come_back_as_they_were(value: str, other: str):
    metrics = Metrics(10)
    metrics.counter("x_total", "help", ("first", "second")).bind(value, other).value += 3
    expected = tuple(sorted({"first": clean(value), "second": clean(other)}.items()))
    # The parser takes a label with an empty value for one; Prometheus takes it for none.
    assert samples(metrics) == {("x_total", expected): 3}


@settings(deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\\n"'), min_size=1)
)
def test_help_is_one_line_and_comes_back(text: str):
    line = escape_help(text)
    assert "\n" not in line
    assert line.replace(r"\\", "\0").replace(r"\n", "\n").replace("\0", "\\") == text or (
        "\0" in text
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\\b", r"a\\b"),
        ('say "x"', r"say \"x\""),
        ("a\nb", r"a\nb"),
        ("\\n", r"\\n"),
        ("{,}", "{,}"),
    ],
)
def test_the_three_escapes(value: str, shown: str):
    assert label_text(("l",), (value,)) == f'l="{shown}"'


def test_what_utf8_or_the_lexer_cannot_carry_is_spelled_out():
    assert clean("a\udc80b") == r"a\udc80b"
    assert clean("a\0b") == "a\ufffdb"
    assert clean("grün") == "grün"


@settings(deadline=None)
@given(value=st.floats() | st.integers(0, 2**63))
def test_numbers_come_back_exactly(value: float):
    read = float(number(value).replace("Inf", "inf"))
    assert read == float(value) or (math.isnan(read) and math.isnan(value))


def test_numbers_are_written_as_go_writes_the_special_ones():
    assert [number(v) for v in (math.inf, -math.inf, math.nan)] == ["+Inf", "-Inf", "NaN"]
    assert number(True) == "1.0"
    assert number(7) == "7"


def test_names():
    assert valid_metric("nodeproxy:x_total")
    assert not valid_metric("1x")
    assert not valid_metric("x-y")
    assert not valid_metric("x\n")
    assert not valid_metric("")
    assert valid_label("service")
    assert not valid_label("__name__")
    assert not valid_label("a:b")
    assert not valid_label("")
