"""The examples and tables of docs/registries.md are true."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from nodeproxy.config import parse
from nodeproxy.settings import registry_problems
from registry.file.formats import read
from registry.plugins import Supervision, kinds, load
from registry.status import MEANING
from registry.transform import Composition, LabelFilter, Rename, Zone

TEXT = (Path(__file__).parents[2] / "docs" / "registries.md").read_text()


def test_the_examples_are_read_without_a_problem() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    configs = [e for e in examples if "registries:" in e or e.startswith("# nodeproxy.yaml")]
    files = [example for example in examples if example not in configs]
    assert len(files) >= 3
    for example in files:
        content = read(example, "example.yaml")
        assert content.problems == ()
        assert content.fragments
    assert len(configs) == 3
    for example in configs:
        config = parse(example, "nodeproxy.yaml")
        assert registry_problems(config) == []


def test_every_state_and_option_is_explained() -> None:
    for state, meaning in MEANING.items():
        assert f"| `{state}` | {meaning} |" in TEXT
    for key, default in (("keep_on_empty", "true"), ("keep_on_empty_for", "10m")):
        assert key in Supervision.__struct_fields__
        assert f"| `{key}` | `{default}` |" in TEXT
    assert Supervision().keep_on_empty
    assert str(Supervision().keep_on_empty_for) == "10m"


@pytest.mark.parametrize("type_", [Composition, LabelFilter, Zone, Rename])
def test_every_key_of_composition_is_explained_word_for_word(type_: type[msgspec.Struct]) -> None:
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(type_))).body
    assert isinstance(body, ast.ClassDef)
    said = {}
    for field, after in itertools.pairwise(body.body):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
            text = " ".join(ast.literal_eval(after.value).replace("``", "`").split())
            said[ast.unparse(field.target).rstrip("_")] = text
    fields = msgspec.structs.fields(type_)
    assert said.keys() == {field.encode_name for field in fields}
    for field in fields:
        default = field.default
        shown = "none"
        if default is msgspec.NODEFAULT:
            shown = "required" if field.default_factory is msgspec.NODEFAULT else "none"
        elif isinstance(default, bool):
            shown = f"`{str(default).lower()}`"
        elif isinstance(default, int) or default == "endpoint":
            shown = f"`{default}`"
        row = f"| `{field.encode_name}` | {shown} | {said[field.encode_name]} |"
        assert row in TEXT, row


def test_no_back_end_uses_a_key_of_ours() -> None:
    ours = set(Supervision.__struct_fields__)
    for point in kinds().values():
        if point.module.startswith("registry.") and find_spec(point.module):
            theirs = load(point.name).options_type
            assert not ours & set(theirs.__struct_encode_fields__), point.name


def test_the_plug_in_example_is_a_back_end() -> None:
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "run(" in c]
    names: dict[str, object] = {}
    exec(compile(code, "docs/registries.md", "exec"), names)
    backend = names["ExampleBackend"]
    assert isinstance(backend, type)
    assert backend.__dict__["kind"] == "example"
