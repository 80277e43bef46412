"""promtool, the judge of expositions, has nothing to say about ours."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from nodeproxy.core.record import Record
from nodeproxy.telemetry import process
from nodeproxy.telemetry.families import Families
from nodeproxy.telemetry.metrics import Counter, Gauge, Histogram, Metrics
from nodeproxy.telemetry.requests import Requests

pytestmark = pytest.mark.system


def judged(exposition: bytes) -> str:
    """What promtool has to say; empty if all is well."""
    ran = subprocess.run(
        ["promtool", "check", "metrics"],
        input=exposition,
        capture_output=True,
        timeout=60,
        check=False,
    )
    said = (ran.stdout + ran.stderr).decode()
    assert ran.returncode == 0 or said
    return said


def test_promtool_accepts_every_metric():
    metrics = Metrics(100_000)
    Families(metrics)
    for family in metrics.families():
        for value in ("a", 'quote " and \\ and \n and ü', ""):
            series = family.bind(*[value] * len(family.labels))
            if isinstance(series, Histogram):
                series.observe(0.003)
            else:
                assert isinstance(series, Counter | Gauge)
                series.value += 1.5
    exposition = b"".join(metrics.render())
    assert exposition.count(b"# TYPE") == len(metrics.families())
    assert judged(exposition) == ""


def test_promtool_accepts_a_node_at_work():
    metrics = Metrics(2000)
    families = Families(metrics)
    process.publish(families)
    requests = Requests(families)
    record = Record(1.0, "HTTP/1.1", "10.0.0.1:1", "10.96.0.10:80")
    record.status, record.sent, record.ended = 200, 1.001, 1.002
    for number in range(200):
        requests.port(f"shop/s{number}", 80).observe(record)
        requests.endpoint(f"shop/s{number}", 80, "fd00::1", 8080).eject()
    exposition = b"".join(metrics.render())
    assert b"nodeproxy_series_dropped_total{" in exposition
    assert judged(exposition) == ""


def test_promtool_would_have_found_a_fault():
    assert "no help text" in judged(b"# TYPE x_total counter\nx_total 1\n")


def test_the_queries_of_the_manual_are_valid_and_ask_for_what_exists(tmp_path: Path):
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")
    queries = re.findall(r"```promql\n(.*?)```", page, re.DOTALL)
    assert queries
    metrics = Metrics()
    Families(metrics)
    known = {family.name for family in metrics.families()}
    for query in queries:
        asked = {re.sub("_bucket$", "", name) for name in re.findall(r"nodeproxy_\w+", query)}
        assert asked <= known
    rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries)]
    path = tmp_path / "rules.yaml"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "manual", "rules": rules}]}))
    ran = subprocess.run(
        ["promtool", "check", "rules", str(path)], capture_output=True, timeout=60, check=False
    )
    assert ran.returncode == 0, (ran.stdout + ran.stderr).decode()
