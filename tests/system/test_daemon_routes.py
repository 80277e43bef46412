"""Routes of a running daemon: files that come, change and break while requests go on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system

ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
    - name: old-place
      matches: [{path: {type: PathPrefix, value: /old}}]
      filters:
        - type: RequestRedirect
          requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
    - name: all
      backendRefs: [{name: TO, port: 80}]
"""


def write(folder: Path, text: str) -> None:
    beside = folder.with_name("routes.new")
    beside.write_text(text)
    beside.replace(folder / "web.yaml")


def test_traffic_follows_the_files(single: Any, backends: Any, kit: Any) -> None:
    daemon, _, one = single
    daemon.stop()
    folder = daemon.folder / "routes.d"
    folder.mkdir()
    write(folder, ROUTE.replace("TO", "v1"))
    v1, v2 = backends("v1"), backends("v2")
    daemon.serve(
        kit.service("shop/web", [one]), kit.service("shop/v1", [v1]), kit.service("shop/v2", [v2])
    )
    port = daemon.listen("shop/web")
    daemon.configure(routes="routes.d")
    daemon.start()

    # In force from the first request on.
    assert kit.ask("127.0.0.1", port).body == "v1"
    moved = kit.ask("127.0.0.1", port, "/old/cart")
    assert (moved.status, moved.headers["location"].endswith("/new/cart")) == (302, True)
    told = daemon.explain(f"http://127.0.0.1:{port}/", "127.0.0.1", port)
    assert (told.outcome, told.route, told.backend) == ("proxied", "all", "shop/v1:80")
    assert daemon.metric("nodeproxy_requests_total", route="all", code="200") == 1
    shown = daemon.cli("routes", "shop/web").stdout
    assert "path begins with /old" in shown
    assert "web.yaml:12" in shown

    # A change takes effect as a whole, and nobody notices but by where the answer comes from.
    seen: list[tuple[int, str]] = []
    stop = threading.Event()

    def load() -> None:
        caller = kit.Caller("127.0.0.1", port)
        while not stop.is_set():
            answer = caller.ask()
            seen.append((answer.status, answer.body))
        caller.close()

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for to in ("v2", "v1", "v2"):
            write(folder, ROUTE.replace("TO", to))
            kit.eventually(lambda to=to: seen[-1:] == [(200, to)])
    finally:
        stop.set()
        thread.join()
    assert {status for status, _ in seen} == {200}

    # A broken file changes nothing, and is told of with its line.
    write(folder, ROUTE.replace("backendRefs", "backendRef"))
    status = kit.eventually(lambda: (s := daemon.status()).routes.problems and s)
    assert status.routes.problems[0].line == 13
    assert "backendRefs" in status.routes.problems[0].message
    assert kit.ask("127.0.0.1", port).body == "v2"

    # Without routes the service's own endpoints answer again.
    (folder / "web.yaml").unlink()
    kit.eventually(lambda: kit.ask("127.0.0.1", port).body == "one")
