"""``nodeproxy validate`` of routes, and ``--diff``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]

SERVICES = """\
services:
  - {name: shop/web, vips: [10.96.0.10], ports: [{name: http, port: 80}]}
  - {name: shop/v1, ports: [{name: http, port: 80}]}
"""
ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
    - backendRefs: [{name: v1, port: 80}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "services.yaml").write_text(SERVICES)
    (tmp_path / "routes.d").mkdir()
    (tmp_path / "routes.d" / "web.yaml").write_text(ROUTE)
    (tmp_path / "np.yaml").write_text(
        "interception: {mode: none}\n"
        "listeners:\n  - {bind: 127.0.0.1:8080, service: shop/web, port: 80}\n"
        "registries: [{kind: file, path: services.yaml}]\n"
        "routes: routes.d\n"
    )
    return tmp_path


def test_a_configuration_with_its_routes(nodeproxy_alone: Run, folder: Path) -> None:
    config = folder / "np.yaml"
    result = nodeproxy_alone("validate", str(config))
    assert (result.exit_code, result.stdout) == (
        0,
        f"{config}: configuration: ok (2 services, 0 endpoints, 1 routes and policies)\n",
    )
    route = folder / "routes.d" / "web.yaml"
    route.write_text(ROUTE.replace("name: v1", "name: v2"))
    result = nodeproxy_alone("validate", str(config))
    assert result.exit_code == 0
    assert f"{route}:7: spec.rules[0].backendRefs[0]: " in result.stdout
    assert "no registry knows the service shop/v2; did you mean 'shop/v1'?" in result.stdout
    route.write_text(ROUTE.replace("backendRefs", "backendRef"))
    result = nodeproxy_alone("validate", str(config))
    assert result.exit_code == 1
    assert (
        f"{route}:7: spec.rules[0].backendRef: unknown key 'backendRef'; did you mean "
        "'backendRefs'?" in result.stdout
    )


def test_routes_alone(nodeproxy_alone: Run, folder: Path) -> None:
    for path in (folder / "routes.d", folder / "routes.d" / "web.yaml"):
        result = nodeproxy_alone("validate", str(path))
        assert (result.exit_code, result.stdout) == (0, f"{path}: routes: ok (1 objects)\n")


def test_routes_that_are_not_there(nodeproxy_alone: Run, folder: Path) -> None:
    config = folder / "np.yaml"
    config.write_text(config.read_text().replace("routes.d", "roots.d"))
    result = nodeproxy_alone("validate", str(config))
    assert result.exit_code == 1
    assert f"{config}:5: routes: cannot read {folder}/roots.d: No such file" in result.stdout


def test_a_difference_in_effect(nodeproxy_alone: Run, folder: Path) -> None:
    old, new = folder / "old.yaml", folder / "new.yaml"
    old.write_text(ROUTE)
    new.write_text("# moved\n" + ROUTE)
    result = nodeproxy_alone("validate", "--diff", str(old), str(new))
    assert (result.exit_code, result.stdout) == (0, "no change in effect\n")
    new.write_text(ROUTE.replace("- backendRefs", "- matches: [{method: GET}]\n      backendRefs"))
    result = nodeproxy_alone("validate", "--diff", str(old), str(new))
    expected = "path begins with / becomes path begins with / and method is GET"
    assert expected in result.stdout
    result = nodeproxy_alone("validate", "--diff", str(old), str(new), "-o", "json")
    (found,) = json.loads(result.stdout)
    assert (found["what"], found["place"]) == ("changed", "Service shop/web:80")
    new.write_text(ROUTE.replace("kind: HTTPRoute", "kind: HTTPRout"))
    result = nodeproxy_alone("validate", "--diff", str(old), str(new))
    assert result.exit_code == 1
    assert "did you mean 'HTTPRoute'" in result.stdout


def test_configurations_are_compared_by_their_routes(nodeproxy_alone: Run, folder: Path) -> None:
    config, other = folder / "np.yaml", folder / "np2.yaml"
    (folder / "other.yaml").write_text(ROUTE.replace("name: web, namespace", "name: x, namespace"))
    other.write_text(config.read_text().replace("routes.d", "other.yaml"))
    result = nodeproxy_alone("validate", "--diff", str(config), str(other))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "- Service shop/web:80: HTTPRoute shop/web rules[0].matches[0] removed: path begins with /",
        "+ Service shop/web:80: HTTPRoute shop/x rules[0].matches[0] added: path begins with / -> "
        "shop/v1:80",
    ]


def test_diff_takes_two(nodeproxy_alone: Run, folder: Path) -> None:
    assert nodeproxy_alone("validate", "--diff", str(folder / "np.yaml")).exit_code == 2
    missing = str(folder / "nope.yaml")
    assert nodeproxy_alone("validate", "--diff", missing, missing).exit_code == 2
