"""Every command of the command line against a daemon that carries traffic."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from typing import Any

import httpx
import pytest
import yaml

pytestmark = pytest.mark.system


def documents(daemon: Any, *args: Any):
    """What a command says as JSON and as YAML, which must be the same."""
    as_json = daemon.cli(*args, "-o", "json")
    as_yaml = daemon.cli(*args, "-o", "yaml")
    assert as_json.returncode == as_yaml.returncode == 0, as_json.stderr + as_yaml.stderr
    return json.loads(as_json.stdout), yaml.safe_load(as_yaml.stdout)


def test_listings_name_the_service_its_endpoints_and_its_addresses(web: Any, kit: Any):
    daemon, port, two = web
    assert kit.ask("127.0.0.1", port).status == 200
    found, same = documents(daemon, "services")
    assert found == same
    assert [s["name"] for s in found] == ["shop/web"]
    assert found[0]["endpoints_eligible"] == 2
    found, _ = documents(daemon, "endpoints", "shop/web")
    assert {e["address"] for e in found} == {b.address for b in two}
    assert sum(e["requests"] for e in found) == 1
    found, _ = documents(daemon, "routes")
    assert {(r["destination"], r["kind"]) for r in found} == {
        ("10.96.0.10:80", "vip"),
        (f"127.0.0.1:{port}", "listener"),
    }
    found, _ = documents(daemon, "registries")
    assert found[0]["state"] == "synced"
    assert "nodeproxy.yaml:" in found[0]["origin"]
    for command in ("services", "endpoints", "routes", "registries", "status"):
        shown = daemon.cli(command)
        assert shown.returncode == 0, shown.stderr
        assert ("file" if command == "registries" else "shop/web") in shown.stdout
    missing = daemon.cli("endpoints", "shop/wbe")
    assert missing.returncode == 1
    assert "shop/wbe" in missing.stderr


def test_status_counts_what_was_served(web: Any, kit: Any):
    daemon, port, _ = web
    for _ in range(3):
        kit.ask("127.0.0.1", port)
    found, _ = documents(daemon, "status")
    assert found["ready"] is True
    assert found["node"] == "node-a"
    assert found["requests"] == 3
    assert found["errors"] == 0
    assert found["pid"] == daemon.running.pid
    assert found["loop"]["memory_bytes"] > 0
    assert found["interception"]["mode"] == "none"


def test_explain_names_an_endpoint_that_serves(web: Any, kit: Any):
    daemon, port, two = web
    told, _ = documents(daemon, "explain", "GET", f"http://127.0.0.1:{port}/")
    assert told["outcome"] == "proxied"
    assert told["pick"] in {b.address for b in two}
    assert [c["eligible"] for c in told["candidates"]] == [True, True]
    shown = daemon.cli("explain", "GET", f"http://127.0.0.1:{port}/")
    assert told["service"] in shown.stdout
    # The kernel would dial the VIP without us: nothing is intercepted here.
    told, _ = documents(daemon, "explain", "GET", "http://10.96.0.10/")
    assert told["outcome"] == "kernel"


def test_explain_says_why_nothing_is_picked(web: Any, kit: Any):
    daemon, port, _ = web
    refused = {"address": "127.0.0.1", "port": 9, "ready": False}
    daemon.serve(kit.service("shop/web", [refused]))
    kit.eventually(lambda: kit.ask("127.0.0.1", port).status == 503)
    answer = daemon.cli("explain", "GET", f"http://127.0.0.1:{port}/", "-o", "json")
    told = json.loads(answer.stdout)
    assert (told["outcome"], told["status"], told["flags"]) == ("refused", 503, "UH")
    assert told["candidates"][0]["why"] == "not ready, says the registry"


def test_log_level_changes_at_run_time(web: Any):
    daemon, _, _ = web
    assert daemon.cli("log-level").stdout.strip() == "info"
    assert daemon.cli("log-level", "debug").returncode == 0
    assert daemon.status().log_level == "debug"
    assert daemon.cli("log-level", "loud").returncode == 2


def test_rules_without_interception(web: Any):
    daemon, _, _ = web
    verified = daemon.cli("rules", "verify")
    assert (verified.returncode, "mode is none" in verified.stdout) == (0, True)
    shown = daemon.cli("rules", "show")
    assert shown.returncode == 0
    assert "none" in shown.stdout


def test_check_is_content(web: Any):
    daemon, _, _ = web
    checked = daemon.cli("check", "--config", str(daemon.folder / "nodeproxy.yaml"), "-o", "json")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(daemon: Any, shell: Any):
    printed = daemon.cli("completion", shell)
    assert printed.returncode == 0
    assert "_NODEPROXY_COMPLETE" in printed.stdout


def test_commands_say_what_to_do_when_no_daemon_answers(daemon: Any):
    for command in ("status", "services", "metrics"):
        answer = daemon.cli(command)
        assert answer.returncode == 1
        assert "no daemon answers" in answer.stderr
        assert "is it running?" in answer.stderr


def test_metrics_are_clean_and_complete_while_traffic_flows(web: Any, kit: Any):
    daemon, port, _ = web
    stop = threading.Event()
    answers = []

    def load() -> None:
        caller = kit.Caller("127.0.0.1", port)
        while not stop.is_set():
            answers.append(caller.ask().status)
        caller.close()

    thread = threading.Thread(target=load)
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{daemon.metrics_port}") as client:
            kit.eventually(lambda: len(answers) > 20)
            for _ in range(10):
                text = client.get("/metrics").text
            assert client.get("/ready").status_code == 200
            assert client.get("/live").status_code == 200
            assert client.get("/status").status_code == 404
    finally:
        stop.set()
        thread.join()
    assert set(answers) == {200}
    judged = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (judged.returncode, judged.stdout + judged.stderr) == (0, "")
    counted = re.findall(r'^nodeproxy_requests_total\{.*code="200".*\} (\d+)', text, re.M)
    assert 20 < int(counted[0]) <= len(answers)
    assert daemon.metric("nodeproxy_requests_total", service="shop/web") == len(answers)
    printed = daemon.cli("metrics")
    assert "nodeproxy_requests_total" in printed.stdout


def test_errors_are_in_the_access_log_with_their_flags(web: Any, kit: Any):
    daemon, port, two = web
    assert kit.ask("127.0.0.1", port).status == 200
    daemon.serve(kit.service("shop/web", []))
    kit.eventually(lambda: kit.ask("127.0.0.1", port).status == 503)
    flags = kit.eventually(lambda: [e for e in daemon.log() if e.get("response_flags") == "UH"])
    assert flags[0]["response_code"] == 503
    assert not [e for e in daemon.log() if e.get("response_code") == 200]
    two[0].close()
    two[1].close()
    daemon.serve(kit.service("shop/web", two))
    found = kit.eventually(
        lambda: (
            kit.ask("127.0.0.1", port).status
            and [e for e in daemon.log() if "UF" in e.get("response_flags", "")]
        )
    )
    assert found[0]["upstream_host"] in {b.address for b in two}


def test_access_log_of_everything_in_a_file_that_is_reopened(daemon: Any, backends: Any, kit: Any):
    port = daemon.listen("shop/web")
    daemon.serve(kit.service("shop/web", [backends("one")]))
    access = {"mode": "all", "path": "access.log"}
    daemon.configure(
        telemetry={"metrics": f"127.0.0.1:{daemon.metrics_port}", "access_log": access}
    )
    daemon.start()
    path = daemon.folder / "access.log"
    kit.ask("127.0.0.1", port, "/first")
    kit.eventually(lambda: "/first" in path.read_text())
    rotated = path.rename(daemon.folder / "access.log.1")
    import signal

    daemon.signal(signal.SIGHUP)
    kit.eventually(path.exists)
    kit.ask("127.0.0.1", port, "/second")
    line = kit.eventually(path.read_text)
    entry = json.loads(line)
    assert (entry["path"], entry["response_code"]) == ("/second", 200)
    assert "/second" not in rotated.read_text()
    assert "/first" not in line
