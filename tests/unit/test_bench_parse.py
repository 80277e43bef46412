"""The pure half of the benchmark: what it reads, what it concludes, what it prints."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from nodeproxy.config import load

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

from bench import command, report  # noqa: E402
from bench.backend import SMALL  # noqa: E402
from bench.load import request_head, wrk_command  # noqa: E402
from bench.parse import (  # noqa: E402
    parse_core_busy,
    parse_process_stat,
    parse_resident,
    parse_wrk,
)
from bench.peers import envoy, haproxy, nginx, nodeproxy  # noqa: E402
from bench.peers.base import Site  # noqa: E402
from bench.results import (  # noqa: E402
    Environment,
    Results,
    Run,
    cost,
    cost_ratio,
    percentile,
    rate_ratio,
    summaries,
    summarise,
)
from bench.scenarios import BY_NAME, SCENARIOS  # noqa: E402

WRK = """\
Running 2s test @ http://127.0.0.1:20001/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.69ms    0.91ms  12.30ms   92.11%
    Req/Sec    18.21k     1.90k   21.00k    65.00%
  Latency Distribution
     50%  777.00us
     75%    1.90ms
     90%    2.20ms
     99%    1.02s
  36593 requests in 2.10s, 9.91MB read
Requests/sec:  17425.23
Transfer/sec:      4.72MB
"""
WRK_BAD = WRK.replace(
    "Requests/sec",
    "  Socket errors: connect 1, read 20, write 3, timeout 4\n"
    "  Non-2xx or 3xx responses: 7\nRequests/sec",
)
SITE = Site(Path("/tmp/b"), 20001, 20002, 20003, 20004, 9900)


def test_wrk_output_is_read_in_base_units():
    out = parse_wrk(WRK)
    assert (out.requests, out.seconds) == (36593, pytest.approx(2.1))
    assert (out.p50, out.p99) == (pytest.approx(777), pytest.approx(1.02e6))
    assert out.problem is None


def test_wrk_errors_make_the_run_invalid():
    out = parse_wrk(WRK_BAD)
    assert (out.socket_errors, out.bad_statuses) == (28, 7)
    assert out.problem == "28 socket errors, 7 bad statuses"


def test_a_run_without_requests_is_invalid():
    assert parse_wrk(WRK.replace("36593", "0")).problem == "no request was answered"


@pytest.mark.parametrize("text", ["", "unable to connect", WRK.replace("99%", "98%")])
def test_other_text_is_refused(text: str):
    with pytest.raises(ValueError, match="not the output"):
        parse_wrk(text)


def test_process_stat_survives_any_command_name():
    fields = "S 17 1 1 0 -1 4194560 0 0 0 0 120 30 7 5 20 0 4 0 4711 1 1"
    for name in ("nginx", "a b", "a) S 99 (b"):
        stat = parse_process_stat(f"42 ({name}) {fields}\n")
        assert (stat.pid, stat.parent, stat.started) == (42, 17, 4711)
        assert (stat.ticks, stat.reaped_ticks) == (150, 12)


def test_core_busy_leaves_idle_and_iowait_out():
    text = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\ncpu1 10 2 30 400 5 6 7 8 0 0\n"
    assert parse_core_busy(text, 1) == 10 + 2 + 30 + 6 + 7 + 8
    with pytest.raises(ValueError, match="no cpu7"):
        parse_core_busy(text, 7)


def test_resident_bytes():
    text = "55d-7ff ---p 00000000 00:00 0   [rollup]\nRss:     1234 kB\nPss:    900 kB\n"
    assert parse_resident(text) == 1234 * 1024
    with pytest.raises(ValueError, match="Rss"):
        parse_resident("Pss: 1 kB\n")


def run(peer: str, number: int, cpu: float, **more: object) -> Run:
    values = {"requests": 10_000, "seconds": 2.0, "p50": 100.0, "p99": 300.0, **more}
    return msgspec.convert(
        {"scenario": "http-small", "peer": peer, "round": number, "cpu": cpu, **values}, Run
    )


def results(*runs: Run) -> Results:
    versions = {"envoy": "1.40.0", "nodeproxy": "0.1.0"}
    environment = Environment(
        "2026-01-02", "2 x CPU", "6.1", "3.11.7", "cores", "python run.py", 2, 3, versions
    )
    return Results(environment, runs, {"haproxy": "apt-get install haproxy"})


def test_cost_per_unit():
    assert cost(run("envoy", 1, 0.5), "request") == pytest.approx(50)
    assert cost(run("envoy", 1, 0.5, bytes=1 << 31), "GiB") == pytest.approx(250)
    assert cost(run("envoy", 1, 0, connections=1000, memory=600_000), "connection") == 600
    assert cost(run("envoy", 1, 0.5, requests=0), "request") is None


def test_percentiles_need_a_hundred_values():
    assert percentile([1.0] * 99, 50) is None
    values = [float(value) for value in range(200, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99)) == (100, 198)


def test_medians_leave_invalid_rounds_out():
    rounds = [
        run("envoy", 1, 0.4),
        run("envoy", 2, 0.5),
        run("envoy", 3, 9.0),
        run("envoy", 4, 0.01, problem="3 socket errors, 0 bad statuses"),
    ]
    summary = summarise("http-small", "envoy", rounds)
    assert summary.cost == pytest.approx(50)
    assert (summary.valid, summary.total) == (3, 4)
    assert summary.problem == "3 socket errors, 0 bad statuses"


def test_ratios_are_above_one_where_we_are_better():
    found = summaries(results(run("envoy", 1, 0.6), run("nodeproxy", 1, 0.4, requests=20_000)))
    envoys, ours = found["http-small"]["envoy"], found["http-small"]["nodeproxy"]
    assert cost_ratio(envoys, ours) == pytest.approx(3)
    assert rate_ratio(envoys, ours) == pytest.approx(2)
    assert cost_ratio(None, ours) is None
    assert cost_ratio(summarise("http-small", "envoy", []), ours) is None


def test_rows_follow_the_command_line_even_if_one_failed_first():
    found = summaries(results(run("nodeproxy", 0, 0, problem="no"), run("envoy", 1, 0.4)))
    assert list(found["http-small"]) == ["envoy", "nodeproxy"]


def test_the_report_shows_costs_ratios_problems_and_absent_proxies():
    text = report.full(
        results(
            run("envoy", 1, 0.6),
            run("nodeproxy", 1, 0.4, foreign=0.5),
            run("nodeproxy", 2, 0.4, problem="2 socket errors,\n0 bad statuses"),
        )
    )
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    }
    assert cells["nodeproxy"][:2] == ["40.0", "1.50"]
    assert cells["nodeproxy"][-1] == "1/2"
    assert "nodeproxy, 2 socket errors, 0 bad statuses" in text
    assert "Noisy: others took 25% of the core beside nodeproxy." in text
    assert "haproxy: apt-get install haproxy" in text
    assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1


def test_a_proxy_without_a_valid_run_is_shown_as_invalid():
    text = report.full(results(run("envoy", 1, 0.6), run("nodeproxy", 0, 0, problem="no start")))
    row = next(line for line in text.splitlines() if line.startswith("| nodeproxy"))
    assert "invalid" in row
    assert "0/1" in row


def test_check_compares_with_the_targets():
    lines = report.check(results(run("envoy", 1, 0.52), run("nodeproxy", 1, 0.4))).splitlines()
    assert lines[0].split()[:3] == ["pass", "1.30", "http-small"]
    assert all(line.startswith("none") for line in lines[1:])
    worse = report.check(results(run("envoy", 1, 0.5), run("nodeproxy", 1, 0.4)))
    assert worse.splitlines()[0].split()[:2] == ["FAIL", "1.25"]


def test_blocks_of_a_document_are_replaced_and_nothing_else():
    begin, end = report.BLOCKS["summary"]
    begin += " (how it was made) -->"
    text = f"before\n\n{begin}\nold\n{end}\nafter\n"
    once = report.replace_blocks(text, results(run("envoy", 1, 0.6)))
    assert once.startswith(f"before\n\n{begin}\n\n| ")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert "60.0" in once
    assert report.replace_blocks(once, results(run("envoy", 1, 0.6))) == once
    assert report.replace_blocks("nothing to do", results()) == "nothing to do"
    with pytest.raises(ValueError, match="benchmark table: end"):
        report.replace_blocks(begin, results())


def test_the_documents_show_the_results_that_are_kept():
    kept = ROOT / command.SHOWN
    for name in command.DOCUMENTS:
        text = (ROOT / name).read_text()
        assert any(begin in text and end in text for begin, end in report.BLOCKS.values()), name
        if kept.exists():
            shown = msgspec.json.decode(kept.read_bytes(), type=Results)
            assert report.replace_blocks(text, shown) == text, f"{name}: run.py --write-docs"


def test_results_survive_json():
    before = results(run("envoy", 1, 0.6), run("nodeproxy", 1, 0.4, p50=None))
    assert msgspec.json.decode(msgspec.json.encode(before), type=Results) == before


def test_scenarios_are_what_their_titles_say():
    assert len(BY_NAME) == len(SCENARIOS)
    assert len(SMALL) == BY_NAME["http-small"].size == 128
    assert 40 <= len(request_head("/", 20001)) <= 80
    browser = BY_NAME["http-browser"]
    assert 580 <= len(request_head(browser.path, 20001, browser.fields)) <= 620


def test_a_new_connection_a_request_is_asked_for_by_a_field():
    words = wrk_command("wrk", BY_NAME["tcp-connect"], 20002, 3)
    assert "Connection: close" in words
    assert words[-1] == "http://127.0.0.1:20002/"
    assert "Connection: close" not in wrk_command("wrk", BY_NAME["http-small"], 20001, 3)


def test_every_proxy_is_told_the_same_site():
    texts = [
        *envoy.files(SITE).values(),
        *haproxy.files(SITE).values(),
        nginx.render(SITE, stream=True),
        "".join(nodeproxy.files(SITE).values()),
    ]
    for text in texts:
        for word in ("20001", "20002", "20003", "20004", "127.0.0.1", "127.0.0.2", "127.0.0.3"):
            assert word in text
    assert "20002" not in nginx.render(SITE, stream=False)


def test_envoys_routes_lead_to_its_clusters():
    config = json.loads(envoy.files(SITE)["envoy.json"])["static_resources"]
    names = {cluster["name"] for cluster in config["clusters"]}
    (web, stream) = (
        entry["filter_chains"][0]["filters"][0]["typed_config"] for entry in config["listeners"]
    )
    (host,) = web["route_config"]["virtual_hosts"]
    assert {host["routes"][0]["route"]["cluster"], stream["cluster"]} == names


def test_the_configuration_is_valid_without_a_warning(tmp_path: Path):
    for name, text in nodeproxy.files(replace(SITE, directory=tmp_path)).items():
        (tmp_path / name).write_text(text)
    config = load(tmp_path / "nodeproxy.yaml")
    assert config.warnings == ()
    assert [(each.bind, each.service) for each in config.listeners] == [
        ("127.0.0.1:20001", "bench/web"),
        ("127.0.0.1:20002", "bench/stream"),
    ]
    assert config.telemetry.access_log.mode == "off"


def test_another_build_of_nodeproxy_can_be_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(nodeproxy.OVERRIDE, raising=False)
    assert nodeproxy.command("np", SITE) == ["np", "run", "--config", "/tmp/b/nodeproxy.yaml"]
    monkeypatch.setenv(nodeproxy.OVERRIDE, "'my proxy' {http_port} -b {endpoint_port}")
    assert nodeproxy.find() == "my proxy"
    assert nodeproxy.command("-", SITE) == ["my proxy", "20001", "-b", "20004"]


def test_wrong_arguments_name_what_is_known(capsys: pytest.CaptureFixture[str]):
    assert command.arguments(["--peers", "nginx, envoy"]).peers == ["nginx", "envoy"]
    for wrong in (["--peers", "enyov"], ["--rounds", "0"], ["--scenario", "x"]):
        with pytest.raises(SystemExit) as caught:
            command.arguments(wrong)
        assert caught.value.code == 2
    assert "known: http-small" in capsys.readouterr().err
