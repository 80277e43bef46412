"""docs/telemetry.md says what the code does: every metric, field, flag and bucket."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nodeproxy.core import errors
from nodeproxy.core.standing import Standing
from nodeproxy.telemetry.accesslog import Line
from nodeproxy.telemetry.families import Families
from nodeproxy.telemetry.metrics import Metrics

PAGE = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of all table rows below a heading of the second level."""
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_metric_is_in_the_tables_word_for_word():
    metrics = Metrics()
    Families(metrics)
    code = {
        f"`{family.name}`": [
            family.kind,
            ", ".join(f"`{label}`" for label in family.labels) or "\N{EN DASH}",
            family.help,
        ]
        for family in metrics.families()
    }
    page = {name: rest for name, *rest in rows("Metrics")}
    assert len(page) == len(rows("Metrics"))
    assert page == code


def test_the_buckets_of_every_histogram_are_on_the_page():
    metrics = Metrics()
    Families(metrics)
    told = dict(rows("Buckets"))
    assert told == {
        f"`{family.name}`": ", ".join(f"{bound:.12g}" for bound in family.bounds)
        for family in metrics.families()
        if family.kind == "histogram"
    }


def test_every_field_of_the_access_log_is_in_the_table_in_order():
    code = [f"`{field.name}`" for field in msgspec.structs.fields(Line)]
    assert [name for name, _ in rows("Access log")] == code


def test_every_state_of_an_endpoint_is_named():
    section = PAGE.split("The states of `nodeproxy_endpoints`:", 1)[1].split("\n#", 1)[0]
    taking, others = section.split(";")
    for standing in Standing:
        assert f"`{standing.name.lower()}`" in (taking if standing.takes_traffic else others)


def classes(root: type[errors.ProxyError]) -> Iterator[type[errors.ProxyError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from classes(child)


def test_every_response_flag_is_in_the_table_with_its_codes():
    code: dict[str, set[str]] = {}
    for error in classes(errors.ProxyError):
        if error.flag:
            code.setdefault(f"`{error.flag}`", set()).add(str(error.status))
    page = {flag: set(re.findall(r"\d{3}", status)) for flag, status, _ in rows("Response flags")}
    assert page == code
