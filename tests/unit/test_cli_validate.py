"""``nodeproxy validate``: every problem with its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]

SERVICES = """\
services:
  - name: shop/web
    vips: [10.96.0.10]
    ports: [{name: http, port: 80, protocol: http}]
    endpoints: [10.244.1.11:8080, 10.244.2.12:8080]
"""
BROKEN = """\
services:
  - name: shop/web
    vip: [10.96.0.10]
    ports: [{port: 80000}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "services.yaml").write_text(SERVICES)
    path = tmp_path / "np.yaml"
    path.write_text(
        "interception: {mode: none}\n"
        "listeners:\n  - {bind: 127.0.0.1:8080, service: shop/web, port: 80}\n"
        "registries: [{kind: file, path: services.yaml}]\n"
    )
    return path


def test_a_configuration_with_its_services(nodeproxy_alone: Run, config: Path) -> None:
    result = nodeproxy_alone("validate", str(config))
    assert (result.exit_code, result.stdout) == (
        0,
        f"{config}: configuration: ok (1 services, 2 endpoints)\n",
    )


def test_problems_of_the_services_are_those_of_the_configuration(
    nodeproxy_alone: Run, config: Path
) -> None:
    services = config.parent / "services.yaml"
    services.write_text(BROKEN)
    result = nodeproxy_alone("validate", str(config))
    assert result.exit_code == 1
    assert f"{services}:3: services[0].vip: unknown key 'vip'; did you mean 'vips'?" in (
        result.stdout
    )
    assert f"{services}:4: services[0].ports[0].port" in result.stdout


def test_problems_of_the_configuration(nodeproxy_alone: Run, config: Path) -> None:
    config.write_text("trafic: {}\nlog: {level: loud}\n")
    result = nodeproxy_alone("validate", str(config), "-o", "json")
    assert result.exit_code == 1
    (report,) = [json.loads(result.stdout)]
    assert [(p["line"], p["field"]) for p in report["problems"]] == [
        (1, "trafic"),
        (2, "log.level"),
    ]
    config.write_text("registries:\n  - {kind: file, pat: x}\n")
    result = nodeproxy_alone("validate", str(config))
    assert result.exit_code == 1
    assert f"{config}:2: " in result.stdout
    assert "did you mean 'path'" in result.stdout


def test_a_listener_for_an_unknown_service_is_doubtful(nodeproxy_alone: Run, config: Path) -> None:
    config.write_text(config.read_text().replace("shop/web", "shop/wep"))
    result = nodeproxy_alone("validate", str(config))
    assert result.exit_code == 0
    assert f"{config}:3: listeners[0]: no registry has the service shop/wep" in result.stdout
    assert "did you mean 'shop/web'? (warning)" in result.stdout
    config.write_text(config.read_text().replace("shop/wep, port: 80", "shop/web, port: 81"))
    assert "has no port 81 (its ports: 80)" in nodeproxy_alone("validate", str(config)).stdout


def test_services_alone_and_folders(nodeproxy_alone: Run, config: Path) -> None:
    folder = config.parent
    services = folder / "services.yaml"
    result = nodeproxy_alone("validate", str(services))
    assert result.stdout == f"{services}: services: ok (1 services, 2 endpoints)\n"
    # Beside a configuration each file is looked at for itself.
    result = nodeproxy_alone("validate", str(folder))
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    config.unlink()
    (folder / "more.yaml").write_text(SERVICES.replace("shop/web", "shop/cart"))
    result = nodeproxy_alone("validate", str(folder))
    assert result.stdout == f"{folder}: services: ok (2 services, 4 endpoints)\n"
    (folder / "more.yaml").write_text("services: [")
    result = nodeproxy_alone("validate", str(folder))
    assert result.exit_code == 1
    assert f"{folder}/more.yaml:" in result.stdout


def test_a_file_that_is_not_there_is_wrong_usage(nodeproxy_alone: Run, tmp_path: Path) -> None:
    result = nodeproxy_alone("validate", str(tmp_path / "np.yaml"))
    assert result.exit_code == 2
    assert "No such file" in result.stderr
    assert nodeproxy_alone("validate").exit_code == 2
