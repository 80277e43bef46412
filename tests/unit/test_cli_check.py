"""``nodeproxy check``: each check on hosts that are made up, and the whole command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner, Result

from nodeproxy.admin import views
from nodeproxy.cli import checks
from nodeproxy.cli.main import cli
from nodeproxy.cli.session import Session
from nodeproxy.config import Config, parse

Run = Callable[..., Result]


def results(result: Result) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for check in json.loads(result.stdout):
        found.setdefault(check["id"], []).append(check["result"])
    return found


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "services.yaml").write_text("services: [{name: shop/web, vips: [127.0.0.1]}]\n")
    path = tmp_path / "np.yaml"
    path.write_text(
        "interception: {mode: none}\n"
        "telemetry: {metrics: off}\n"
        "listeners: [{bind: 127.0.0.1:1, service: shop/web, port: 80}]\n"
        "registries: [{kind: file, path: services.yaml}]\n"
        "state_dir: state\n"
        "admin: {socket: admin.sock}\n"
    )
    return path


def test_preflight_without_a_daemon(nodeproxy_alone: Run, config: Path) -> None:
    result = nodeproxy_alone("check", "--config", str(config), "-o", "json")
    found = results(result)
    assert found["config.valid"] == ["ok"]
    assert found["daemon.answers"] == ["warn"]
    assert found["host.state_dir"] == ["ok"]
    assert "ok" in found["registries.valid"]
    assert "interception.programs" not in found  # mode none needs none


def test_a_wrong_configuration_fails(nodeproxy_alone: Run, config: Path) -> None:
    config.write_text("a: 1\nb: 2\n")
    result = nodeproxy_alone("check", "--config", str(config))
    assert result.exit_code == 1
    assert f"{config}:1: a: unknown key" in result.stdout
    assert f"{config}:2: b: unknown key" in result.stdout


def test_a_registry_that_cannot_be_read_fails(nodeproxy_alone: Run, config: Path) -> None:
    (config.parent / "services.yaml").write_text("services: [{nam: x}]\n")
    result = nodeproxy_alone("check", "--config", str(config))
    assert result.exit_code == 1
    assert f"{config.parent}/services.yaml:1: services[0].nam: unknown key" in result.stdout


def with_daemon(config: Path, transport: httpx.BaseTransport) -> Result:
    return CliRunner().invoke(
        cli,
        ["check", "--config", str(config), "-o", "json"],
        obj=Session(socket="/x", transport=transport),
    )


def test_a_healthy_daemon(config: Path, fake_daemon: httpx.BaseTransport, fake_view: Any) -> None:
    fake_view.known = [views.ServiceView("shop/web", vips=("127.0.0.1", "::1"))]
    result = with_daemon(config, fake_daemon)
    found = results(result)
    assert found["daemon.ready"] == ["ok"]
    assert found["registries.synced"] == ["ok"]
    assert found["interception.live"] == ["ok"]
    assert found["interception.rules"] == ["ok"]
    assert "host.ports" not in found  # the daemon has them
    assert result.exit_code == 0


def test_the_daemon_knows_its_configuration(nodeproxy: Run, config: Path, fake_view: Any) -> None:
    fake_view.state = msgspec.structs.replace(
        fake_view.state, config=str(config), interception=views.InterceptionView(mode="none")
    )
    result = nodeproxy("check", "-o", "json")  # by its socket alone
    assert results(result)["config.valid"] == ["ok"]
    assert str(config) in result.stdout
    assert "interception.programs" not in results(result)
    assert result.exit_code == 0


def test_an_ill_daemon(config: Path, fake_daemon: httpx.BaseTransport, fake_view: Any) -> None:
    problem = views.ProblemView("port 0", "services.yaml", 7)
    stale = msgspec.structs.replace(
        fake_view.registry, state="stale", last_error="gone", problems=(problem,), age_seconds=90.0
    )
    failed = msgspec.structs.replace(fake_view.registry, state="failed", meaning="nothing known")
    fake_view.drift = (views.DriftView("no jump"), views.DriftView("no set"))
    fake_view.state = msgspec.structs.replace(
        fake_view.state,
        ready=False,
        reasons=("one", "two"),
        registries=(stale, failed),
        conflicts=(views.ProblemView("10.96.0.1:80 is claimed twice"),),
        interception=msgspec.structs.replace(fake_view.state.interception, live=False),
        loop=views.LoopView(worst_stall_seconds=0.2),
    )
    result = with_daemon(config, fake_daemon)
    found = results(result)
    assert found["daemon.ready"] == ["fail", "fail"]
    assert found["registries.synced"] == ["warn", "fail"]
    assert found["registries.problems"] == ["warn"]
    assert found["registries.conflicts"] == ["warn"]
    assert found["daemon.loop"] == ["warn"]
    assert found["interception.live"] == ["fail"]
    assert found["interception.rules"] == ["fail"]
    assert result.exit_code == 1
    hinted = [c for c in json.loads(result.stdout) if c["result"] == "fail"]
    assert all(check["hint"] for check in hinted)


# --- single checks --------------------------------------------------------------------------


def iptables(text: str = "") -> Config:
    return parse("registries: [{kind: file, path: x}]\n" + text, "np.yaml")


def test_programs() -> None:
    assert checks.programs(iptables(), lambda name: f"/sbin/{name}").result == "ok"
    missing = checks.programs(iptables(), lambda name: None if name == "ipset" else name)
    assert (missing.result, missing.message) == ("fail", "not found in PATH: ipset")
    assert "apt-get install" in missing.hint

    def no_nft(name: str) -> str | None:
        return None if name == "nft" else name

    assert checks.programs(iptables(), no_nft).result == "warn"
    assert checks.programs(iptables("interception: {kernel_path: on}"), no_nft).result == "fail"
    assert checks.programs(iptables("interception: {kernel_path: off}"), no_nft).result == "ok"
    no_six = checks.programs(
        iptables("interception: {ipv6: off}"), lambda name: None if "6" in name else name
    )
    assert no_six.result == "ok"


@pytest.mark.parametrize(
    ("held", "result", "words"),
    [
        (0x1FFFFFFFFFF, "ok", "has NET_ADMIN and NET_RAW"),
        (1 << 12 | 1 << 13, "ok", "has NET_ADMIN and NET_RAW"),
        (1 << 12, "fail", "lacks NET_RAW"),
        (0, "fail", "lacks NET_ADMIN and NET_RAW"),
    ],
)
def test_capabilities(tmp_path: Path, held: int, result: str, words: str) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tx\nCapEff:\t{held:016x}\n")
    found = checks.capabilities(status)
    assert found.result == result
    assert words in found.message
    assert checks.capabilities(tmp_path / "gone").result == "skip"


def test_kernel(tmp_path: Path) -> None:
    assert checks.kernel(iptables(), tmp_path).result == "fail"
    (tmp_path / "sys/net/netfilter").mkdir(parents=True)
    assert checks.kernel(iptables(), tmp_path).result == "ok"
    (tmp_path / "sys/net/ipv4").mkdir()
    (tmp_path / "sys/net/ipv4/ip_forward").write_text("0\n")
    assert checks.kernel(iptables(), tmp_path).result == "warn"
    assert checks.kernel(iptables("interception: {ipv6: on}"), tmp_path).result == "fail"


def test_kernel_modules(tmp_path: Path) -> None:
    loaded, modules = tmp_path / "loaded", tmp_path / "modules"
    loaded.mkdir()
    assert checks.kernel_modules(modules, loaded).result == "skip"
    folder = modules / os.uname().release
    folder.mkdir(parents=True)
    names = ["ip_set", "ip_set_hash_ipport", "ip_set_list_set", "xt_set", "nf-nat"]
    (folder / "modules.dep").write_text(
        "".join(f"kernel/net/{name}.ko.xz: kernel/a.ko\n" for name in names)
    )
    missing = checks.kernel_modules(modules, loaded)
    assert (missing.result, missing.message) == ("fail", "this kernel has no nf_conntrack")
    (folder / "modules.builtin").write_text("kernel/net/nf_conntrack.ko\n")
    assert checks.kernel_modules(modules, loaded).result == "ok"
    for name in (*names, "nf_nat", "nf_conntrack"):
        (loaded / name).mkdir()
    assert checks.kernel_modules(tmp_path / "nowhere", loaded).result == "ok"


def test_vips_routed() -> None:
    assert checks.vips_routed([]).result == "skip"
    assert checks.vips_routed(["10.96.0.1"], lambda vip: "").result == "ok"
    found = checks.vips_routed([f"10.96.0.{i}" for i in range(9)], lambda vip: "unreachable")
    assert found.result == "fail"
    assert "10.96.0.0 (unreachable)" in found.message
    assert "and 4 more" in found.message
    assert "vip_cidrs" in found.hint
    many = checks.vips_routed([f"10.96.{i // 250}.{i % 250}" for i in range(1500)], lambda vip: "")
    assert "the first 1000" in many.message


def test_state_dir(tmp_path: Path) -> None:
    config = parse(f"state_dir: {tmp_path}/a/b", "np.yaml")
    assert checks.state_dir(config).result == "ok"
    (tmp_path / "a").write_text("a file")
    assert checks.state_dir(config).result == "fail"
