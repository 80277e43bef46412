"""The pages of registries name every option, and their examples are in order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from registry.aws import options as aws
from registry.consul import options as consul
from registry.dns import options as dns
from registry.docker import options as docker
from registry.eureka import options as eureka
from registry.nacos import options as nacos
from registry.plugins import Spec, Supervision, check
from registry.strict import parse
from registry.xds import backend as xds

PAGES = Path(__file__).parents[2] / "docs" / "registries"
STRUCTS: dict[str, list[type[msgspec.Struct]]] = {
    "aws": [aws.Options, aws.CloudMap, aws.TargetGroups, aws.Instances],
    "consul": [consul.Options],
    "dns": [dns.Options, dns.DnsService],
    "docker": [docker.Options],
    "eureka": [eureka.Options],
    "nacos": [nacos.Options],
    "xds": [xds.Options],
}


def shown(field: Any) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if value is None or value == "":
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return f"`{'true' if value else 'false'}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


@pytest.mark.parametrize("kind", STRUCTS)
def test_every_option_is_explained(kind: str) -> None:
    text = (PAGES / f"{kind}.md").read_text()
    for struct in STRUCTS[kind]:
        for field in msgspec.structs.fields(struct):
            assert f"| `{field.encode_name}` | {shown(field)} | " in text


@pytest.mark.parametrize("kind", STRUCTS)
def test_no_option_is_taken_already(kind: str) -> None:
    ours = set(Supervision.__struct_fields__) | {"name", "kind"}
    assert not ours & set(STRUCTS[kind][0].__struct_fields__)


@pytest.mark.parametrize("kind", STRUCTS)
def test_the_examples_are_in_order(kind: str) -> None:
    text = (PAGES / f"{kind}.md").read_text()
    examples = [e for e in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "kind:" in e]
    assert examples
    for example in examples:
        for entry in parse(example, "example.yaml")[0].value["registries"]:
            options = {k: v for k, v in entry.items() if k not in ("kind", "name")}
            assert check(Spec(entry.get("name", kind), entry["kind"], options)) == []
