"""The commands that ask a daemon, against a fake one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import Result

from nodeproxy.admin import views

Run = Callable[..., Result]


def test_status_is_one_page(nodeproxy: Run, fake_view: Any) -> None:
    result = nodeproxy("status")
    assert result.exit_code == 0
    assert "nodeproxy 0.1.0 is ready" in result.stdout
    assert "node-a (zone-1), pid 4242, up 3h12m" in result.stdout
    assert "live, ipv4+ipv6 by nft, 4 addresses; last beat 0.3s ago, expiry 2s; fails open" in (
        result.stdout
    )
    assert "169.254.171.1:15001" in result.stdout


def test_status_says_no_when_not_ready(nodeproxy: Run, fake_view: Any) -> None:
    problem = views.ProblemView("port 0 is not a port", "services.yaml", 7, "services[0].port")
    registry = msgspec.structs.replace(
        fake_view.registry, state="stale", last_error="no file", problems=(problem,), from_disk=True
    )
    fake_view.state = msgspec.structs.replace(
        fake_view.state,
        ready=False,
        reasons=("registry file has not answered",),
        registries=(registry,),
        interception=views.InterceptionView("iptables", last_error="no iptables"),
    )
    result = nodeproxy("status")
    assert result.exit_code == 1
    assert "NOT ready" in result.stdout
    assert "registry file has not answered" in result.stdout
    assert "services.yaml:7: services[0].port: port 0 is not a port" in result.stdout
    assert "last good state from disk; no file" in result.stdout
    assert "not installed: no iptables" in result.stdout


@pytest.mark.parametrize(
    "command", ["status", "services", "endpoints", "routes", "registries", "registrations"]
)
def test_listings_speak_json_and_yaml(nodeproxy: Run, command: str) -> None:
    as_json = nodeproxy(command, "-o", "json")
    as_yaml = nodeproxy(command, "-o", "yaml")
    assert as_json.exit_code == as_yaml.exit_code == 0
    assert json.loads(as_json.stdout) == yaml.safe_load(as_yaml.stdout)
    assert json.loads(as_json.stdout)


def test_services_table(nodeproxy: Run) -> None:
    result = nodeproxy("services")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["SERVICE", "VIPS", "PORTS", "ENDPOINTS", "REGISTRIES"]
    assert lines[1].split() == [
        *("shop/web", "10.96.0.10", "fd00:96::a", "80/http", "admin=9000", "1/3", "file"),
    ]
    assert not any(line.endswith(" ") for line in lines)


def test_endpoints_say_why(nodeproxy: Run) -> None:
    result = nodeproxy("endpoints", "shop/web")
    assert "SERVICE" not in result.stdout  # all are of one: the column would say nothing
    assert "ejected" in result.stdout
    assert (
        "5 consecutive connect failures; 12s left; last failure 18s ago: connection_refused"
        in result.stdout
    )


def test_long_values_are_never_cut_in_a_pipe(nodeproxy: Run, fake_view: Any) -> None:
    reason = "x" * 5000
    fake_view.ends = [views.EndpointView("shop/web", "1.2.3.4:5", "ready", True, reason=reason)]
    assert reason in nodeproxy("endpoints").stdout


def test_what_a_registry_says_cannot_drive_the_terminal(nodeproxy: Run, fake_view: Any) -> None:
    fake_view.known = [views.ServiceView("shop/\x1b[31mred\n")]
    result = nodeproxy("services")
    assert "\x1b" not in result.stdout
    assert "shop/\\x1b[31mred\\x0a" in result.stdout


def test_empty_listings_say_so_on_stderr(nodeproxy: Run, fake_view: Any) -> None:
    fake_view.known = []
    result = nodeproxy("services")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "No registry knows a service" in result.stderr
    assert nodeproxy("services", "-o", "json").stdout == "[]\n"


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("shop/wep", "did you mean shop/web?"),
        ("web", "did you mean shop/web?"),
        ("nothing/like-it-at-all", "`nodeproxy services` lists the known ones"),
    ],
)
def test_unknown_services_get_a_suggestion(nodeproxy: Run, asked: str, hint: str) -> None:
    for command in ("endpoints", "routes"):
        result = nodeproxy(command, asked)
        assert result.exit_code == 1
        assert "no registry knows a service" in result.stderr
        assert hint in result.stderr


def test_metrics_are_passed_on(nodeproxy: Run) -> None:
    assert nodeproxy("metrics").stdout == "# TYPE up gauge\nup 1\n"


def test_log_level(nodeproxy: Run, fake_view: Any) -> None:
    assert nodeproxy("log-level").stdout == "info\n"
    assert nodeproxy("log-level", "debug").stdout == "debug\n"
    assert fake_view.level == "debug"
    assert nodeproxy("log-level", "loud").exit_code == 2


def test_explain_tells_a_story(nodeproxy: Run) -> None:
    result = nodeproxy(
        *("explain", "GET", "http://10.96.0.10/cart", "-H", "version: two"),
        *("--from", "10.244.1.11"),
    )
    assert result.exit_code == 0
    story = result.stdout
    parts = [
        "GET http://10.96.0.10/cart from 10.244.1.11",
        "=> 10.244.1.11:8080 answers",
        "How the packet reaches the proxy",
        "match  nat NP-PRE -j DNAT",
        "10.96.0.10,80 is in",
        "miss   listener 127.0.0.1:8080",
        "least_request: the only one that takes traffic",
        "ejected for 12 s more",
        "traffic.connect_timeout",
        "headers: version=two",
    ]
    places = [story.index(part) for part in parts]
    assert places == sorted(places)


def test_explain_says_no(nodeproxy: Run) -> None:
    result = nodeproxy("explain", "GET", "http://192.0.2.1/")
    assert result.exit_code == 1
    assert "502" in result.stdout
    assert "NR" in result.stdout
    as_json = json.loads(nodeproxy("explain", "GET", "http://192.0.2.1/", "-o", "json").stdout)
    assert as_json["outcome"] == "refused"


@pytest.mark.parametrize(
    "args",
    [("GET",), ("GET", "10.96.0.10"), ("GET", "http://a/", "-H", "x"), ("G T", "http://a/")],
)
def test_a_wrong_question_is_wrong_usage(nodeproxy: Run, args: tuple[str, ...]) -> None:
    assert nodeproxy("explain", *args).exit_code == 2


def test_rules_are_shown_verified_and_repaired(nodeproxy: Run, fake_view: Any) -> None:
    shown = nodeproxy("rules", "show")
    assert "# interception: live" in shown.stdout
    assert ":NP-PRE - [0:0]" in shown.stdout
    assert nodeproxy("rules", "verify").exit_code == 0
    fake_view.drift = (views.DriftView("no jump to NP-PRE", "jump", "iptables -t nat PREROUTING"),)
    verified = nodeproxy("rules", "verify")
    assert verified.exit_code == 1
    assert "no jump to NP-PRE" in verified.stdout
    as_json = nodeproxy("rules", "verify", "-o", "json")
    assert (as_json.exit_code, json.loads(as_json.stdout)["ok"]) == (1, False)
    repaired = nodeproxy("rules", "repair")
    assert (repaired.exit_code, repaired.stdout) == (0, "1 differences repaired\n")
    assert nodeproxy("rules", "repair").stdout == "nothing to repair\n"


def test_rules_are_not_removed_under_a_daemon_by_accident(nodeproxy: Run, fake_view: Any) -> None:
    result = nodeproxy("rules", "remove")
    assert result.exit_code == 1
    assert "--stop-intercepting" in result.stderr
    assert fake_view.calls == []
    assert nodeproxy("rules", "remove", "--stop-intercepting").exit_code == 0
    assert fake_view.calls == ["remove"]
