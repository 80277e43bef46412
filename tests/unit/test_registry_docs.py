"""The examples and tables of docs/registries.md are true."""

from __future__ import annotations

import re
from pathlib import Path

from registry.file.formats import read
from registry.plugins import Supervision
from registry.status import MEANING
from registry.strict import parse

TEXT = (Path(__file__).parents[2] / "docs" / "registries.md").read_text()


def test_the_file_examples_are_read_without_a_problem() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    files = [example for example in examples if "registries:" not in example]
    assert len(files) == 3
    for example in files:
        content = read(example, "example.yaml")
        assert content.problems == ()
        assert content.fragments
    (config,) = [example for example in examples if "registries:" in example]
    assert [entry["kind"] for entry in parse(config, "x")[0].value["registries"]] == ["file"] * 2


def test_every_state_and_option_is_explained() -> None:
    for state, meaning in MEANING.items():
        assert f"| `{state}` | {meaning} |" in TEXT
    for key, default in (("keep_on_empty", "true"), ("keep_on_empty_for", "10m")):
        assert key in Supervision.__struct_fields__
        assert f"| `{key}` | `{default}` |" in TEXT
    assert Supervision().keep_on_empty
    assert str(Supervision().keep_on_empty_for) == "10m"


def test_the_plug_in_example_is_a_back_end() -> None:
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "run(" in c]
    names: dict[str, object] = {}
    exec(compile(code, "docs/registries.md", "exec"), names)
    backend = names["ExampleBackend"]
    assert isinstance(backend, type)
    assert backend.__dict__["kind"] == "example"
