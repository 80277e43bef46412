"""Endpoints that die, as clients, operators and metrics see it."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

pytestmark = pytest.mark.system


def test_an_endpoint_that_dies_costs_no_request_and_is_ejected(web: Any, kit: Any):
    daemon, port, (one, two) = web
    caller = kit.Caller("127.0.0.1", port)
    assert {caller.ask().status for _ in range(30)} == {200}
    one.close()
    answers = [caller.ask() for _ in range(60)]
    assert {(answer.status, answer.body) for answer in answers[-20:]} == {(200, "two")}
    assert {answer.status for answer in answers} == {200}
    found = json.loads(daemon.cli("endpoints", "shop/web", "-o", "json").stdout)
    states = {e["address"]: e for e in found}
    assert states[two.address]["state"] == "ready"
    ejected = states[one.address]
    assert (ejected["state"], ejected["eligible"]) == ("ejected", False)
    assert ejected["ejected_seconds"] > 0
    assert "connect" in ejected["last_failure"].lower() or "refused" in ejected["last_failure"]
    assert daemon.log("endpoint ejected")[0]["endpoint"] == one.address
    assert daemon.metric("nodeproxy_endpoints", service="shop/web", state="ejected") == 1
    assert daemon.status().endpoints_ejected == 1
    told = daemon.explain(f"http://127.0.0.1:{port}/", "127.0.0.1", port)
    assert told.pick == two.address
    out = next(c for c in told.candidates if not c.eligible)
    assert "ejected after failures in a row" in out.why


def test_all_endpoints_fail_and_the_last_one_stays_in(web: Any, kit: Any):
    daemon, port, (one, two) = web
    one.close()
    two.close()
    answers = [kit.ask("127.0.0.1", port).status for _ in range(20)]
    assert set(answers) == {503}
    found = json.loads(daemon.cli("endpoints", "shop/web", "-o", "json").stdout)
    assert sum(e["eligible"] for e in found) == 1
    flags = kit.eventually(lambda: {e["response_flags"] for e in daemon.log() if "code" in str(e)})
    assert flags == {"UF"}
    assert daemon.status().errors == 20


def test_a_502_of_the_endpoint_is_passed_on_and_counted(web: Any, kit: Any):
    daemon, port, (one, _) = web
    daemon.serve(kit.service("shop/web", [one]))
    kit.eventually(lambda: daemon.status().endpoints == 1)
    assert kit.ask("127.0.0.1", port, "/status/502").status == 502
    assert daemon.metric("nodeproxy_requests_total", code="502", service="shop/web") == 1
    assert daemon.status().errors == 0


def test_a_client_that_idles_does_not_hold_up_the_end(single: Any, kit: Any):
    """Between two requests there is nothing to wait for."""
    daemon, port, _ = single
    caller = kit.Caller("127.0.0.1", port)
    assert caller.ask().status == 200
    daemon.signal(signal.SIGTERM)
    assert daemon.wait(5) == 0
    assert caller.sock.recv(1) == b""
