"""The access log: what is worth a line, and what stands in it."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeproxy.core.record import Record
from nodeproxy.telemetry.accesslog import AccessLog, AccessLogSettings, timestamp
from nodeproxy.telemetry.families import Families
from nodeproxy.telemetry.metrics import Metrics
from nodeproxy.telemetry.writer import LineWriter


def record(status: int = 200, flags: str = "", protocol: str = "HTTP/1.1") -> Record:
    made = Record(50.0, protocol, "10.244.1.9:40000", "10.96.0.10:80")
    made.status, made.flags = status, flags
    made.sent, made.responded, made.ended = 50.001, 50.012, 50.0209
    return made


def log(chosen: AccessLogSettings) -> tuple[AccessLog, list[bytes]]:
    lines: list[bytes] = []
    made = AccessLog(
        chosen, lines.append, Random(7), monotonic=lambda: 60.0, wall=lambda: 1_700_000_010.5
    )
    return made, lines


def only(lines: list[bytes]) -> dict[str, Any]:
    assert len(lines) == 1
    assert lines[0].endswith(b"\n")
    assert lines[0].count(b"\n") == 1
    found: dict[str, Any] = json.loads(lines[0])
    return found


def test_a_full_line():
    access, lines = log(AccessLogSettings())
    full = record(503, "UF")
    full.method, full.path, full.authority = b"GET", b"/cart", b"web.shop"
    full.user_agent, full.x_forwarded_for, full.request_id = b"curl/8", b"1.2.3.4", b"abc"
    full.service, full.backend, full.route = "shop/web", "shop/web:80", "cart"
    full.upstream, full.local_upstream = "10.244.2.12:8080", "10.0.0.5:51000"
    full.detail, full.tries = "connection_refused: 10.244.2.12:8080", 2
    full.bytes_received, full.bytes_sent = 3, 4
    access.emit(full)
    assert only(lines) == {
        "start_time": "2023-11-14T22:13:20.500Z",
        "method": "GET",
        "path": "/cart",
        "authority": "web.shop",
        "protocol": "HTTP/1.1",
        "response_code": 503,
        "response_flags": "UF",
        "response_code_details": "connection_refused: 10.244.2.12:8080",
        "bytes_received": 3,
        "bytes_sent": 4,
        "duration": 21,
        "upstream_service_time": 11,
        "x_forwarded_for": "1.2.3.4",
        "user_agent": "curl/8",
        "request_id": "abc",
        "upstream_host": "10.244.2.12:8080",
        "upstream_cluster": "shop/web:80",
        "upstream_local_address": "10.0.0.5:51000",
        "downstream_local_address": "10.96.0.10:80",
        "downstream_remote_address": "10.244.1.9:40000",
        "route_name": "cart",
        "service": "shop/web",
        "tries": 2,
    }
    assert access.lines == 1


def test_what_did_not_happen_is_null():
    access, lines = log(AccessLogSettings())
    bare = record(0, "DC")
    bare.sent = bare.responded = -1.0
    access.emit(bare)
    found = only(lines)
    missing = {key for key, value in found.items() if value is None}
    assert missing >= {"method", "path", "upstream_service_time", "upstream_host", "route_name"}
    assert found["response_code_details"] is None


def test_an_answer_without_incident_came_via_upstream():
    access, lines = log(AccessLogSettings())
    access.emit(record())
    assert only(lines)["response_code_details"] == "via_upstream"
    assert only(lines)["response_flags"] == "-"


@settings(deadline=None)
@given(data=st.binary(max_size=60), text=st.text(st.characters(), max_size=20))
def test_any_bytes_give_one_line_of_valid_json(data: bytes, text: str):
    access, lines = log(AccessLogSettings())
    wild = record()
    wild.method = wild.path = wild.authority = wild.user_agent = data
    wild.x_forwarded_for = wild.request_id = data
    wild.detail = wild.service = wild.route = text
    access.emit(wild)
    found = only(lines)
    assert (found["path"] is None) == (not data)
    if data.isascii() and not {*range(0x20), 0x7F} & {*data} and data:
        assert found["path"] == data.decode()


def test_a_text_that_utf8_cannot_carry_is_spelled_out():
    access, lines = log(AccessLogSettings())
    wild = record()
    wild.detail, wild.route = "broken \udcff locale", "grün"
    access.emit(wild)
    assert only(lines)["response_code_details"] == "broken \\udcff locale"
    assert only(lines)["route_name"] == "grün"


def test_no_control_code_reaches_a_terminal():
    access, lines = log(AccessLogSettings())
    wild = record()
    wild.path = b"/\x1b[31m\xc2\x9b\x7f\r\n\xff"
    access.emit(wild)
    assert not any(byte < 0x20 or byte == 0x7F for byte in lines[0][:-1])
    assert only(lines)["path"] == "/\x1b[31m\\x9b\\x7f\r\n\\xff"


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        (AccessLogSettings("off"), []),
        (AccessLogSettings("errors"), ["500", "flag", "tcp flag"]),
        (AccessLogSettings("errors", slow=0.02), ["500", "flag", "tcp flag", "ok"]),
        (AccessLogSettings("errors", slow=0.03), ["500", "flag", "tcp flag"]),
        (AccessLogSettings("all"), ["ok", "404", "500", "flag", "tcp", "tcp flag"]),
        (AccessLogSettings("all", sample=0.0), ["500", "flag", "tcp flag"]),
        (AccessLogSettings("all", sample=0.0, slow=0.02), ["500", "flag", "tcp flag", "ok"]),
    ],
)
def test_what_is_worth_a_line(chosen: AccessLogSettings, wanted: list[str]):
    quick = record(404)
    quick.ended = 50.013
    records = {
        "ok": record(),
        "404": quick,
        "500": record(500),
        "flag": record(499, "DC"),
        "tcp": record(0, "", "TCP"),
        "tcp flag": record(0, "UF", "TCP"),
    }
    access, _ = log(chosen)
    assert sorted(name for name, one in records.items() if access.wants(one)) == sorted(wanted)


def test_a_sample_is_about_as_large_as_asked_for():
    access, _ = log(AccessLogSettings("all", sample=0.25))
    assert 400 < sum(access.wants(record()) for _ in range(2000)) < 600


@settings(deadline=None)
@given(seconds=st.integers(0, 4_000_000_000), milliseconds=st.integers(0, 999))
def test_timestamps(seconds: int, milliseconds: int):
    from datetime import datetime

    shown = timestamp(seconds + (milliseconds + 0.5) / 1000)
    assert shown.endswith(f".{milliseconds:03d}Z")
    assert int(datetime.fromisoformat(shown).timestamp()) == seconds


def test_a_scrape_tells_what_was_written_and_lost(tmp_path: Path):
    writer = LineWriter(tmp_path / "access.log", limit=1000)
    metrics = Metrics()
    access = AccessLog(AccessLogSettings(), writer.write, Random(1))
    access.publish(Families(metrics), writer)
    access.emit(record(503))
    assert writer.close(30)
    access.emit(record(503))
    text = b"".join(metrics.render()).decode()
    assert "\nnodeproxy_access_log_lines_total 2\n" in text.replace(".0\n", "\n")
    assert '\nnodeproxy_access_log_dropped_total{reason="full"} 1' in text
    assert '\nnodeproxy_access_log_dropped_total{reason="error"} 0' in text
