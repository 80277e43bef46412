"""From the file's tree to the settings of the parts."""

from __future__ import annotations

from nodeproxy import settings
from nodeproxy.config import parse


def test_defaults_agree_with_those_of_the_parts() -> None:
    # A part's own defaults are for its tests; what the daemon does, the file's tree says. Where
    # the two differ, somebody has changed one and forgotten the other.
    config = parse("", "np.yaml")
    made = settings.interception_settings(config)
    assert made == type(made)()
    carried = settings.dataplane_settings(config)
    assert carried == type(carried)(mark=0x4E500000)


def test_settings_are_handed_on() -> None:
    config = parse(
        """\
interception: {expiry: 4s, vip_cidrs: [10.96.0.0/16], fail: closed, mark: 0x10000}
outbound: registry-only
traffic: {connect_timeout: 250ms, max_connections: 7, outlier: {consecutive_5xx: 9}}
registries: [{kind: file, path: x, keep_on_empty: false}]
""",
        "/etc/np/np.yaml",
    )
    made = settings.interception_settings(config)
    assert (made.expiry, made.vip_cidrs, made.fail) == (4, ("10.96.0.0/16",), "closed")
    carried = settings.dataplane_settings(config)
    assert carried.mark == made.mark == 0x10000
    assert carried.registry_only
    assert carried.policy.connect_timeout == 0.25
    assert carried.policy.max_connections == 7
    assert carried.policy.outlier.consecutive_5xx == 9
    (spec,) = settings.registry_specs(config)
    assert (spec.name, spec.kind, spec.base_dir) == ("file", "file", "/etc/np")
    assert spec.options == {"path": "x", "keep_on_empty": False}
    assert spec.origin == "/etc/np/np.yaml:4"


def test_no_mark_without_interception() -> None:
    config = parse("interception: {mode: none}", "np.yaml")
    assert settings.dataplane_settings(config).mark == 0


def test_unknown_kinds_are_found_where_they_stand() -> None:
    config = parse("registries:\n- {kind: fil, path: x}", "np.yaml")
    (problem,) = settings.registry_problems(config)
    assert str(problem).startswith("np.yaml:2: kind: unknown registry kind 'fil'")
