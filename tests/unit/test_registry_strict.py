"""Strict reading: what is accepted, what is refused, and where the messages point."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.scalars import plain_scalar
from registry.strict import Document, DocumentError, Duration, convert, near, parse, path_text


class Port(msgspec.Struct, forbid_unknown_fields=True):
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    name: str = ""
    protocol: Literal["http", "tcp", ""] = ""


class Service(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    name: str
    ports: list[Port] = []
    labels: dict[str, str] = {}
    endpoints: list[Port | str] = []
    enabled: bool = True
    time_out: Duration = Duration("1s")
    limit: int | None = None


class Config(msgspec.Struct, forbid_unknown_fields=True):
    services: list[Service]


def one(text: str) -> Document:
    (document,) = parse(text, "x.yaml")
    return document


def said(text: str, type_: type[Any] = Config) -> list[str]:
    value, problems = convert(one(text), type_)
    assert value is None
    return [str(p) for p in problems]


def test_all_problems_are_told_at_once_with_line_and_field() -> None:
    text = """\
services:
- name: a
  prots: []
  enabled: yes
  ports:
  - port: 22:22
  - {port: 70000, nam: x}
  - {port: 0777, protocol: htp}
  labels: {v: 1.10, w: on}
  endpoints: [1, a:1, {port: 3, port: 4}]
  timeOut: 10
  limit: x
- ports: {}
"""
    expected = [
        "x.yaml:3: services[0].prots: unknown key 'prots'",
        "x.yaml:4: services[0].enabled: expected true or false, got a text 'yes': write true",
        "x.yaml:6: services[0].ports[0].port: expected a whole number, got a text '22:22'",
        "x.yaml:7: services[0].ports[1].nam: unknown key 'nam'; did you mean 'name'?",
        "x.yaml:7: services[0].ports[1].port: a whole number 70000 is not allowed: it must be <=",
        "x.yaml:8: services[0].ports[2].port: expected a whole number, got a text '0777': YAML ver",
        "x.yaml:8: services[0].ports[2].protocol: 'htp' is none of http, tcp; did you mean 'http'?",
        "x.yaml:9: services[0].labels.v: expected a text, got a number 1.1: put it in quotes",
        "x.yaml:10: services[0].endpoints[2].port: the key stands twice (first on line 10)",
        "x.yaml:10: services[0].endpoints[0]: expected a mapping or a text, got a whole number 1",
        "x.yaml:11: services[0].timeOut: a duration needs a unit: write 10s or 10ms",
        "x.yaml:12: services[0].limit: expected a whole number or nothing, got a text 'x'",
        "x.yaml:13: services[1]: 'name' is missing",
        "x.yaml:13: services[1].ports: expected a list, got a mapping",
    ]
    found = said(text)
    assert len(found) == len(expected)
    for want in expected:
        assert any(line.startswith(want) for line in found), (want, found)
    # The same as JSON has the same problems, each on its own line.
    value = one(text).value
    for problem in convert(one(json.dumps(value, indent=1)), Config)[1]:
        assert problem.line > 1
        assert str(problem).split(": ")[1] in " ".join(expected)


def test_valid_text_becomes_structs() -> None:
    value, problems = convert(
        one(
            "services:\n- {name: a, ports: [{port: 80}], endpoints: [x, {port: 1}], timeOut: 1m}\n"
        ),
        Config,
    )
    assert problems == []
    assert value is not None
    assert value.services[0].ports == [Port(80)]
    assert value.services[0].endpoints == ["x", Port(1)]
    assert value.services[0].time_out == 60


def test_a_part_of_a_document_is_converted_with_its_own_problems_only() -> None:
    document = one("services:\n- name: a\n- name: 1\n- {name: b, name: c}\n")
    assert convert(document, Service, ("services", 0)) == (Service("a"), [])
    _, problems = convert(document, Service, ("services", 1))
    assert [(p.line, p.field) for p in problems] == [(3, "services[1].name")]
    _, problems = convert(document, Service, ("services", 2))
    assert [(p.line, p.field) for p in problems] == [(4, "services[2].name")]
    with pytest.raises(LookupError):
        convert(document, Service, ("services", 9))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-12", -12), ("0x1F", 31), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5),
        ("1.", 1.0),
        (".inf", math.inf), ("-.INF", -math.inf), ("true", True), ("FALSE", False), ("~", None),
        ("null", None), ("yes", "yes"), ("NO", "NO"), ("on", "on"), ("off", "off"), ("y", "y"),
        ("0777", "0777"), ("0o17", "0o17"), ("22:22", "22:22"), ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("2024-01-31", "2024-01-31"), ("=", "="), ("1.2.3", "1.2.3"), ("tRue", "tRue"), ("-", "-"),
        ("1" * 5000, "1" * 5000), ("+", "+"), ("08", "08"), ("1:30.5", "1:30.5"), (".", "."),
    ],
)  # fmt: skip
def test_plain_scalars(text: str, value: Any) -> None:
    found = plain_scalar(text)
    assert found == value
    assert type(found) is type(value)


@given(st.text(alphabet="0123456789.:_-+exobinfaEtrusnlyT~", max_size=8))
def test_a_plain_scalar_is_a_text_unless_yaml_1_1_agrees(text: str) -> None:
    """What we read as a number or truth value is the same in YAML 1.1 (as PyYAML reads it)."""
    value = plain_scalar(text)
    if isinstance(value, str):
        return
    theirs = yaml.load(yaml.dump({"a": text}).replace("'", ""), Loader=yaml.CSafeLoader)["a"]
    if isinstance(theirs, str):
        # YAML 1.1 as PyYAML implements it wants a dot and a sign in "1e3".
        assert isinstance(value, float)
    else:
        assert value == theirs or (math.isnan(value) and math.isnan(theirs))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "x.yaml:2: "),
        ("a: b\n c: d: e", "x.yaml:2: "),
        ("a: *b", "x.yaml:1: a: the alias *b has no anchor before it"),
        ("a: &x [*x]", "contains itself"),
        ("a: &x {b: *x}", "contains itself"),
        ("!foo a", "the tag !foo is not known"),
        ("a: !!python/object:os.system x", "is not known"),
        ("a: !!int x", "does not fit its tag !!int"),
        ("a: \x01", "not YAML"),
        ("\ud800", "not a text"),
        ("? [a]\n: b", "a key must be a text"),
        ("? {a: b}\n: b", "a key must be a text"),
        ("[" * 1000, "nested deeper than 64"),
        ("{a: " * 1000, "nested deeper than 64"),
        ("- " * 1000 + "a", "nested deeper than 64"),
        ("<<: 1", "needs a mapping"),
        ("%YAML 9.9\n---\na", "x.yaml:"),
        ("a: \tb\n\tc: d", "x.yaml:2"),
    ],
)
def test_what_is_not_accepted_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(text, "x.yaml")
    assert words in str(caught.value)
    assert caught.value.problems[0].source == "x.yaml"


def test_aliases_cannot_unfold_to_a_billion_values() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    with pytest.raises(DocumentError, match="aliases stand for more than"):
        parse("\n".join(lines), "x.yaml")


def test_anchors_and_merge_keys_are_read() -> None:
    text = "base: &b {x: 1, y: 2}\none: {<<: *b, y: 3}\ntwo: {<<: [*b, {z: 4}], q: &k v}\nc: *k\n"
    document = one(text)
    assert document.value["one"] == {"x": 1, "y": 3}
    assert document.value["two"] == {"x": 1, "y": 2, "z": 4, "q": "v"}
    assert document.value["c"] == "v"
    assert document.line(("two", "z")) == 3
    assert parse("---\na: &x 1\n---\nb: 2\n", "")[1].value == {"b": 2}
    with pytest.raises(DocumentError):
        parse("a: &x 1\n---\nb: *x\n", "")


def test_documents_without_content_are_passed_over() -> None:
    assert parse("", "x") == []
    assert parse("# only a remark\n", "x") == []
    assert [(d.value, d.number) for d in parse("---\n---\na: 1\n---\n", "x")] == [({"a": 1}, 1)]
    assert one("\ufeffa: 1").value == {"a": 1}


def test_lines_are_those_of_the_text() -> None:
    document = one("# first\na:\n  b:\n  - c\n  -\n    d: 1\n")
    assert document.line() == 2
    assert document.line(("a", "b")) == 3
    assert document.line(("a", "b", 0)) == 4
    assert document.line(("a", "b", 1, "d")) == 6
    assert document.line(("a", "nothing", 7)) == 2
    escaped = one('{"a": "\\ud83d\\ude00 \\/",\n\t"b": [1,\n\n2]}')
    assert escaped.value["a"] == "\U0001f600 /"
    assert escaped.line(("b", 1)) == 4


def test_json_with_equal_keys_or_remarks_is_read_as_yaml() -> None:
    document = one('{"a": 1,\n"a": 2}')
    assert [(d.path, d.line, d.first) for d in document.duplicates] == [(("a",), 2, 1)]
    assert one("{a: 1} # flow style").value == {"a": 1}
    assert one("[NaN]").value == ["NaN"]


def test_paths_are_shown_as_people_write_them() -> None:
    assert path_text(("services", 3, "labels", "a/b")) == 'services[3].labels["a/b"]'
    assert path_text(()) == ""


def test_near_words() -> None:
    assert near("prots", ["ports", "name"]) == "; did you mean 'ports'?"
    assert near("PORTS", ["ports"]) == "; did you mean 'ports'?"
    assert near("zzz", ["ports", "name"]) == " (known: name, ports)"


def test_durations() -> None:
    assert Duration("1h1ms") == 3600.001
    assert str(Duration("90s")) == "1m30s"
    assert Duration.convert(0) == 0
    assert str(Duration(0)) == "0s"
    for bad in ("", "1", "s", "1.5s", "-1s", "123456s", "1s1s1s1s1s", "1d", "1 s", "1S", "\u0661s"):
        with pytest.raises(ValueError, match="not a duration"):
            Duration(bad)


@given(st.integers(0, 99999 * 3_600_000))
def test_a_durations_text_gives_the_duration(milliseconds: int) -> None:
    duration = Duration(milliseconds / 1000)
    assert Duration(str(duration)) == duration


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(plain)
def test_json_is_read_as_the_json_module_reads_it_and_has_lines(value: Any) -> None:
    value = [value]
    text = json.dumps(value, indent=1)
    (document,) = parse(text, "x.json")
    assert document.value == value

    def walk(part: Any, path: tuple[str | int, ...]) -> None:
        assert 1 <= document.line(path) <= text.count("\n") + 1
        if isinstance(part, dict):
            for key, inner in part.items():
                walk(inner, (*path, key))
        elif isinstance(part, list):
            for i, inner in enumerate(part):
                walk(inner, (*path, i))

    walk(value, ())


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from(list("ab:-[]{}&*!|>'\"#%,?@ \n\t<~1.")), max_size=30))
def test_any_text_is_read_or_refused_with_problems(text: str) -> None:
    try:
        documents = parse(text, "x.yaml")
    except DocumentError as error:
        documents, refusals = [], error.problems
        assert refusals
    for document in documents:
        value, problems = convert(document, Config)
        assert (value is None) == bool(problems)
        for problem in problems:
            assert problem.line >= 1
