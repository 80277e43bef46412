"""``nodeproxy hosts``, and what ``nodeproxy registries`` shows of several registries."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import yaml
from click.testing import Result

from nodeproxy.admin import views
from nodeproxy.registryviews import host_views
from registry.catalog import Merger
from registry.model import Port, Service

Run = Callable[..., Result]


def test_lines_of_a_hosts_file(nodeproxy: Run) -> None:
    result = nodeproxy("hosts")
    assert result.exit_code == 0
    assert result.stdout == "10.96.0.10 web.shop.mesh web.shop\nfd00:96::a web.shop.mesh web.shop\n"
    assert "web.shop.test web.shop" in nodeproxy("hosts", "--suffix", "test").stdout


def test_other_formats(nodeproxy: Run, fake_view: Any) -> None:
    found = json.loads(nodeproxy("hosts", "-o", "json").stdout)
    assert found == yaml.safe_load(nodeproxy("hosts", "-o", "yaml").stdout)
    assert found[0] == {
        "address": "10.96.0.10",
        "names": ["web.shop.mesh", "web.shop"],
        "service": "shop/web",
    }
    fake_view.known = []
    result = nodeproxy("hosts")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "No service has a virtual address" in result.stderr


def test_a_suffix_is_a_name(nodeproxy: Run) -> None:
    result = nodeproxy("hosts", "--suffix", "a b\n10.0.0.1 evil")
    assert result.exit_code == 1
    assert "is not a DNS name" in result.stderr


def test_no_registry_can_write_a_line_of_its_own() -> None:
    services = [
        Service(name, ("10.96.0.1",), (Port(80),))
        for name in ("shop/web", "x/a\n10.0.0.1 evil.example", "x/a b", "x/#", "X/Big")
    ]
    catalog, _ = Merger(["r"]).apply("r", services, [])
    assert [view.names for view in host_views(catalog, "mesh")] == [
        ("big.x.mesh", "big.x"),
        ("web.shop.mesh", "web.shop"),
    ]


def test_registries_show_what_each_one_adds(nodeproxy: Run, fake_view: Any) -> None:
    one = fake_view.registry
    assert "ONLY HERE" not in nodeproxy("registries").stdout  # with one it says nothing
    near = msgspec.structs.replace(one, name="near", services=5, services_alone=2, services_used=5)
    far = msgspec.structs.replace(
        one, name="far", services=4, services_alone=1, services_used=1, priority=3
    )
    fake_view.registries = lambda: (near, far)
    lines = nodeproxy("registries").stdout.splitlines()
    assert lines[0].split("  ") != []
    for title in ("PRIORITY", "ONLY HERE", "IN RESERVE"):
        assert title in lines[0]
    at = {title: lines[0].index(title) + len(title) for title in ("PRIORITY", "ONLY HERE")}
    assert lines[1][: at["ONLY HERE"]].endswith(" 2")
    assert lines[2][: at["PRIORITY"]].endswith(" 3")
    assert lines[2][: lines[0].index("IN RESERVE") + len("IN RESERVE")].endswith(" 3")


def test_status_tells_of_given_addresses(nodeproxy: Run, fake_view: Any) -> None:
    assert "given VIPs" not in nodeproxy("status").stdout
    problem = views.ProblemView("no address is left for shop/db")
    fake_view.state = msgspec.structs.replace(
        fake_view.state,
        vips=views.VipsView(("10.97.0.0/29",), 6, 1, 2, 6, (problem,)),
    )
    shown = nodeproxy("status").stdout
    assert "6 of 6 in 10.97.0.0/29, 1 kept for services that are gone, 2 lack one" in shown
    assert "no address is left for shop/db" in shown
