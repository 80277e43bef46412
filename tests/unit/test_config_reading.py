"""The configuration's reader: every problem, with its line, all together."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.config import EXAMPLE, Config, ConfigError, load, parse
from registry.duration import Duration

QUIET = "registries: [{kind: file, path: x}]\n"
"""So that no warning comes of a configuration without registries."""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "np.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_the_example_and_nothing_at_all_are_valid() -> None:
    config = parse(EXAMPLE, "/etc/nodeproxy/np.yaml")
    assert config.listeners[0].service == "default/web"
    assert config.registries[0].options == {"path": "services.yaml"}
    assert config.registries[0].origin == "/etc/nodeproxy/np.yaml:5"
    assert config.warnings == ()
    empty = parse("", "np.yaml")
    assert empty.interception.mode == "iptables"
    assert empty.node.name
    assert [w.message for w in empty.warnings] == ["no registries: nodeproxy knows no service"]


def test_the_designs_keys_are_read() -> None:
    config = parse(
        """\
node: {name: node-a, zone: zone-1}
interception: {mode: iptables, vip_cidrs: [10.96.0.0/16, "fd00:96::/112"], kernel_path: on}
outbound: registry-only
state_dir: state
listeners:
  - {bind: 127.0.0.1:8080, service: shop/web, port: 80}
  - {bind: "[::1]:8081", service: shop/web, port: 80}
registries:
  - {kind: file, path: a.yaml}
  - {kind: file, name: other, path: b.yaml}
traffic: {balance: random, connect_timeout: 1m30s, outlier: {base_ejection: 500ms}}
admin: {socket: /run/np.sock}
telemetry: {metrics: off, access_log: {mode: off, path: access.log, slow: 2s}}
log: {level: debug, format: console}
""",
        "/etc/np/np.yaml",
    )
    assert config.node.name == "node-a"
    assert config.outbound == "registry-only"
    assert config.interception.vip_cidrs == ("10.96.0.0/16", "fd00:96::/112")
    assert config.interception.kernel_path == "on"
    assert [(x.bind.host, x.bind.port) for x in config.listeners] == [
        ("127.0.0.1", 8080),
        ("::1", 8081),
    ]
    assert [entry.name for entry in config.registries] == ["file", "other"]
    assert config.traffic.connect_timeout == 90
    assert config.traffic.outlier.base_ejection == 0.5
    assert not config.telemetry.metrics.enabled
    assert config.telemetry.access_log.mode == "off"
    # Relative paths start at the file's folder.
    assert config.telemetry.access_log.path == "/etc/np/access.log"
    assert config.state_dir == "/etc/np/state"
    assert config.admin.socket == "/run/np.sock"
    assert config.base_dir == "/etc/np"


def test_origins_tell_where_a_setting_stands() -> None:
    config = parse(f"{QUIET}traffic:\n  via: false\n  connect_timeout: 2s\n", "np.yaml")
    assert config.origin("traffic.connect_timeout") == "np.yaml:4"
    assert config.origin("traffic.balance") == "default"


def test_all_problems_come_together_in_the_files_order() -> None:
    found = problems(
        """\
node: {name: a, zon: z}
interception:
  mode: iptable
  expiry: 2
listeners:
  - {bind: localhost:8080, service: web, port: 80}
  - {bind: 127.0.0.1:8080, port: 8x}
registries:
  - {path: services.yaml}
traffic: {connect_timeout: 1.5s}
"""
    )
    assert [re.sub(": .*", "", line) for line in found] == [
        "np.yaml:1",
        "np.yaml:3",
        "np.yaml:4",
        "np.yaml:6",
        "np.yaml:7",
        "np.yaml:7",
        "np.yaml:9",
        "np.yaml:10",
    ]
    assert "did you mean 'zone'" in found[0]
    assert "did you mean 'iptables'" in found[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "did not find expected node content"),
        ("node: {}\n---\nnode: {}", "np.yaml:3: the configuration is one document"),
        ("- 1", "expected a mapping"),
        ("trafic: {}", "np.yaml:1: trafic: unknown key 'trafic'; did you mean 'traffic'?"),
        ("node: {}\nnode: {}", "np.yaml:2: node: the key stands twice (first on line 1)"),
        ("log: {level: loud}", "np.yaml:1: log.level: 'loud' is none of debug, info"),
        ("traffic: {via: 1}", "np.yaml:1: traffic.via: expected true or false"),
        ("traffic: {max_connections: 0}", "np.yaml:1: traffic.max_connections: "),
        ("traffic: {connect_timeout: 5}", "a duration needs a unit: write 5s"),
        ("traffic: {connect_timeout: 0s}", "traffic.connect_timeout: needs to be more than 0"),
        ("traffic: {outlier: {max_ejection: 1s}}", "is shorter than base_ejection"),
        ("telemetry: {access_log: {sample: 2}}", "telemetry.access_log.sample: "),
        ("telemetry: {metrics: 15020}", "expected address:port"),
        ("telemetry: {metrics: on}", "'on' is not address:port"),
        ("interception: {vip_cidrs: [10.96.0.1/16]}", "the network is 10.96.0.0/16"),
        ("interception: {vip_cidrs: [ten]}", "'ten' is not a network"),
        ("interception: {vip_cidrs: [7]}", "expected a network"),
        ("interception: {vip_cidrs: ['::/0']}", "::/0 is everything"),
        ("interception: {vip_cidrs: [127.0.0.0/16]}", "overlaps the loopback"),
        (
            "interception: {vip_cidrs: [10.0.0.0/8, 10.96.0.0/16]}",
            "interception.vip_cidrs[1]: 10.96.0.0/16 overlaps vip_cidrs[0], 10.0.0.0/8",
        ),
        ("interception: {expiry: 1500ms}", "interception.expiry: needs to be whole seconds"),
        ("interception: {expiry: 0s}", "interception.expiry: needs to be whole seconds"),
        ("interception: {mark: 1}", "interception.mark: has bits outside of interception.mask"),
        ("traffic: {tcp_idle_timeout: 0s}", "traffic.tcp_idle_timeout: needs to be more than 0"),
        ("interception: {outbound_port: 15009}", "15009 is used by nodeproxy's own rules"),
        ("interception: {outbound_port: 70000}", "interception.outbound_port: "),
        ("listeners: [{bind: '::1:80', service: a, port: 1}]", "goes in brackets: [::1]:80"),
        ("listeners: [{bind: '[127.0.0.1]:80', service: a, port: 1}]", "only IPv6 addresses"),
        ("listeners: [{bind: '*:80', service: a, port: 1}]", "write 0.0.0.0:80"),
        ("listeners: [{bind: 127.0.0.1, service: a, port: 1}]", "is not address:port"),
        ("listeners: [{bind: 127.0.0.1:0, service: a, port: 1}]", "is not address:port"),
        ("listeners: [{bind: 127.0.0.1:1, service: a/b/c, port: 1}]", "is not a service"),
        ("listeners: [{bind: 127.0.0.1:1, service: a}]", "listeners[0]: 'port' is missing"),
        (
            "listeners:\n- {bind: 127.0.0.1:8080, service: a, port: 1}\n"
            "- {bind: 127.0.0.1:8080, service: b, port: 1}",
            "np.yaml:3: listeners[1].bind: 127.0.0.1:8080 is taken by listeners[0]",
        ),
        (
            "listeners: [{bind: 0.0.0.0:15020, service: a, port: 1}]",
            "is taken by telemetry.metrics",
        ),
        (
            "listeners: [{bind: '[::]:15001', service: a, port: 1}]",
            "is taken by interception.outbound_port",
        ),
        ("registries: [file]", "a registry is a mapping such as"),
        ("registries: [{path: x}]", "registries[0]: 'kind' is missing"),
        ("registries: [{kind: file, name: a b}]", "the name 'a b' needs"),
        (
            "registries:\n- {kind: file, path: a}\n- {kind: file, path: b}",
            'np.yaml:3: registries[1]: the name "file" is that of registries[0]',
        ),
    ],
)
def test_each_kind_of_problem(text: str, expected: str) -> None:
    assert expected in "\n".join(problems(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("telemetry: {metrics: 0.0.0.0:15020}", "can be reached from other hosts"),
        ("interception: {mode: none}", "no traffic will reach the proxy"),
        ("interception: {fail: closed, kernel_path: on}", "the kernel path carries nothing"),
    ],
)
def test_doubts_are_warnings(text: str, expected: str) -> None:
    (warning,) = parse(QUIET + text, "np.yaml").warnings
    assert expected in warning.message
    assert (warning.source, warning.line) == ("np.yaml", 2)


def test_two_listeners_may_share_a_port_on_different_addresses() -> None:
    parse(
        "listeners:\n- {bind: 127.0.0.1:80, service: a, port: 1}\n"
        "- {bind: 127.0.0.2:80, service: b, port: 1}\n- {bind: '[::]:80', service: b, port: 1}",
        "np.yaml",
    )


def test_files_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "np.yaml"
    with pytest.raises(FileNotFoundError):
        load(path)
    path.write_bytes(b"node: {name: \xff}")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(path)
    path.write_text(EXAMPLE)
    assert isinstance(load(path), Config)


@given(st.from_regex(r"([0-9]{1,5}(h|m|s|ms)){1,4}", fullmatch=True))
def test_every_gateway_api_duration_is_read(text: str) -> None:
    config = parse(f"traffic: {{response_timeout: {text}}}", "np.yaml")
    assert config.traffic.response_timeout == Duration(text)


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse(text, "np.yaml")
