"""The failure table of docs/operations.md: what it promises is what a test shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SHOWN: dict[str, tuple[str, ...]] = {
    "an endpoint refuses connections": (
        "test_an_endpoint_that_dies_costs_no_request_and_is_ejected",
    ),
    "all endpoints fail": ("test_all_endpoints_fail_and_the_last_one_stays_in",),
    "no endpoint may take traffic": ("test_errors_are_in_the_access_log_with_their_flags",),
    "proxy killed": ("test_kill_9_refuses_no_pod", "test_expiry_hands_over_without_a_refusal"),
    "proxy hangs": (
        "test_a_hung_daemon_loses_its_traffic_and_gets_it_back",
        "test_systemd_hears_ready_beats_and_stopping",
        "test_python_tells_where_a_hung_process_hangs",
    ),
    "proxy stopped": (
        "test_sigterm_gives_the_traffic_to_the_kernel_at_once",
        "test_requests_in_flight_survive_sigterm",
        "test_a_second_sigterm_waits_for_nobody",
        "test_what_is_in_flight_for_too_long_is_cut_off",
    ),
    "proxy dead or hung with `fail: closed`": (
        "test_fail_closed_refuses_while_the_daemon_is_dead",
    ),
    "services file broken, or removed": (
        "test_broken_yaml_keeps_the_last_good_state_and_names_the_line",
        "test_a_deleted_file_is_an_accident",
    ),
    "services file without content": ("test_a_file_without_content_says_nothing",),
    "one entry of the services file is wrong": (
        "test_one_wrong_entry_keeps_what_it_was_and_the_others_change",
    ),
    "services file says `services: []`": (
        "test_an_emptied_list_is_not_believed",
        "test_an_emptied_file_is_believed_after_the_configured_time",
    ),
    "state folder's disk is full": ("test_a_full_disk_costs_nothing_but_the_next_restart",),
    "the state on disk is damaged": ("test_a_damaged_state_is_ignored_as_a_whole",),
    "`iptables -t nat -F`, `nft flush ruleset`": (
        "test_damage_is_noticed_repaired_and_counted",
        "test_damage_is_seen_and_repaired",
    ),
    "another agent puts its jump before ours": (
        "test_watch_repairs_by_itself_and_not_too_often",
        "test_damage_is_seen_and_repaired",
    ),
    "both iptables back ends in use": (
        "test_foreign_rules_decide_the_backend_and_a_mix_is_refused",
    ),
    "a registry is down at start": (
        "test_a_restart_without_the_file_serves_the_last_good_state",
    ),
    "out of descriptors": ("test_out_of_descriptors",),
    "nobody reads the log": ("test_nobody_reads_the_log",),
    "node reboots": (),  # a kernel that has just begun has no rules: nothing to show
}  # fmt: skip


def promised() -> list[str]:
    """The first cell of each row."""
    text = (ROOT / "docs/operations.md").read_text()
    table = text.partition("## How each failure ends")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \|", table, re.M)
    return [row for row in rows if row not in ("what happens", "---")]


def names_of_tests() -> set[str]:
    names: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        names |= set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M))
    return names


def test_every_promise_has_its_tests():
    rows = promised()
    assert len(rows) > 10
    for row in rows:
        assert [start for start in SHOWN if row.startswith(start)], row
    for start in SHOWN:
        assert [row for row in rows if row.startswith(start)], start


@pytest.mark.parametrize("start", [start for start in SHOWN if SHOWN[start]])
def test_the_tests_are_there(start: str):
    assert set(SHOWN[start]) <= names_of_tests()
