"""docs/register.md says what the code does; the configuration is checked as a whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nodeproxy.config import ConfigError, parse
from nodeproxy.settings import register_entries, registry_problems
from registry.register import checks, runner
from registry.register.encode import _LAYOUTS
from registry.register.machine import State

TEXT = (Path(__file__).parents[2] / "docs" / "register.md").read_text(encoding="utf-8")
TEXT = " ".join(TEXT.split(" "))
WORDS = " ".join(TEXT.split())


def test_the_example_can_be_used() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    config = parse(example, "nodeproxy.yaml")
    assert registry_problems(config) == []
    web, db = register_entries(config)
    assert (web.origin, web.field, web.what.name) == ("nodeproxy.yaml:5", "register[0]", "shop/web")
    assert [check.kind for check in db.what.checks] == ["tcp", "command"]


def test_every_state_and_layout_is_explained() -> None:
    for state in State:
        assert f"| `{state.name.lower()}` | {state.value} |" in TEXT
    for kind, layout in _LAYOUTS:
        assert f"| `{kind}` | `{layout}` |" in TEXT


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"first {checks.OUTPUT} bytes of its output" in WORDS
    assert f"At most {runner.CHECKS} checks and {runner.COMMANDS} commands" in WORDS
    assert f"after {runner.BASE:g} s at first, {runner.CAP:g} s at most" in WORDS


def test_what_is_wrong_is_told_with_its_place() -> None:
    text = (
        "registries:\n  - {kind: etcd, name: main, endpoints: ['http://127.0.0.1:1'],"
        " layout: skydns}\nregister:\n  - {service: web, port: 80, registry: mian}\n"
        "  - {service: shop/web, port: 80, registry: main}\n"
        "  - {service: web, port: 80, registry: {kind: file}}\n"
    )
    found = [str(problem) for problem in registry_problems(parse(text, "n.yaml"))]
    assert found[0] == (
        "n.yaml:4: register[0].registry: no registry is called 'mian'; did you mean 'main'?"
    )
    assert "n.yaml:5: register[1].registry: in this layout every service" in found[1]
    assert "nothing can be announced to a registry of kind file" in found[2]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            "[{service: web, port: 80, registry: x}, {service: default/web, port: 80,"
            " registry: x}]",
            r"register\[1\]: is announced by register\[0\] already",
        ),
        ("[{service: a b, port: 80, registry: x}]", "regex"),
        ("[{service: a, port: 80, registry: x, ttl: 1s}]", "`ttl` must be 2s to 10m"),
        ("[{service: a, port: 80, registry: x, checks: [{kind: command}]}]", "needs `run`"),
        ("[{service: a, port: 80, registry: x, chekcs: []}]", "did you mean 'checks'"),
        ("[{service: a, port: 80, registry: x, checks: [{kind: htp}]}]", "did you mean 'http'"),
    ],
)
def test_the_configuration_refuses(entries: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(f"register: {entries}\n", "n.yaml")
