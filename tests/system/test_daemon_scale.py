"""10,000 services with 100,000 endpoints come into a daemon that is serving.

What it takes is printed (`pytest -rP`) and not judged: tests/bench/daemon_scale.py measures.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

pytestmark = pytest.mark.system

SERVICES = 10_000
ENDPOINTS = 10


def text(web: dict[str, Any]) -> str:
    """The services file: ``web``, and the many."""
    many = [
        {
            "name": f"ns{i % 50}/service-{i}",
            "vips": [f"10.97.{i >> 8}.{i & 255}"],
            "ports": [{"port": 80, "protocol": "http"}],
            "endpoints": [f"10.{128 + j}.{i >> 8}.{i & 255}:8080" for j in range(ENDPOINTS)],
        }
        for i in range(SERVICES)
    ]
    return json.dumps({"services": [web, *many]})


def test_a_hundred_thousand_endpoints_are_loaded_under_traffic(
    single: Any, backends: Any, kit: Any
):
    daemon, port, one = single
    stop = threading.Event()
    slowest = 0.0
    statuses: dict[int, int] = {}

    def load() -> None:
        nonlocal slowest
        caller = kit.Caller("127.0.0.1", port)
        while not stop.is_set():
            began = time.monotonic()
            status = caller.ask().status
            slowest = max(slowest, time.monotonic() - began)
            statuses[status] = statuses.get(status, 0) + 1

    client = threading.Thread(target=load)
    client.start()
    try:
        daemon.replace(text(kit.service("shop/web", [one])))
        kit.eventually(lambda: daemon.status().services == SERVICES + 1, 60)
        status = kit.eventually(
            lambda: (s := daemon.status()).endpoints == SERVICES * ENDPOINTS + 1 and s, 60
        )
        assert status.ready
        print("worst_stall_seconds", status.loop.worst_stall_seconds)
        print("memory_bytes", status.loop.memory_bytes)

        # One endpoint of them all changes.
        other = backends("other")
        began = time.monotonic()
        daemon.replace(text(kit.service("shop/web", [other])))
        kit.eventually(lambda: kit.ask("127.0.0.1", port).body == "other", 60)
        print("change_seconds", time.monotonic() - began)
        print("slowest_request_seconds", slowest)
        assert daemon.registry().state == "synced"
        assert daemon.registry().endpoints == SERVICES * ENDPOINTS + 1

        # Listings of this size do not hold up the loop's other work either.
        with daemon.client() as asked:
            assert len(asked.endpoints()) == SERVICES * ENDPOINTS + 1
            assert len(asked.services()) == SERVICES + 1
    finally:
        stop.set()
        client.join()
    print("worst_stall_with_listings", daemon.status().loop.worst_stall_seconds)
    assert set(statuses) == {200}
