"""Cutting large JSON lists: the same as a parser says, whatever the text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.pieces import _cut, _parsed, pieces

TEXT = st.text(max_size=8) | st.sampled_from(["a", "b", '"', "\\", "[{", "]}", "a\\", ","])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)
BOXES = st.dictionaries(TEXT, VALUES, max_size=3) | st.lists(VALUES, max_size=3)


def containers(found: list[bytes]) -> list[Any]:
    """Scalars that stand between are garbage, and garbage may be cut in another way."""
    return [json.loads(one) for one in found if one[:1] in b"[{"]


@given(st.lists(BOXES, max_size=5), st.sampled_from([None, 1, 3]), st.booleans())
def test_lists_are_cut_as_a_parser_would(value: list[Any], indent: int | None, deep: bool) -> None:
    text = json.dumps({"x": {"list": 1}, "a": {"y": [[]], "list": value}} if deep else value,
                      indent=indent, ensure_ascii=indent is None).encode()  # fmt: skip
    path = ("a", "list") if deep else ()

    assert containers(list(_cut(text, path))) == value
    assert containers(list(_parsed(text, path))) == value


@given(st.dictionaries(TEXT, VALUES, max_size=3))
def test_an_object_is_a_list_of_one(value: dict[str, Any]) -> None:
    text = json.dumps({"before": [{}], "list": value, "after": [{}]}).encode()

    for cut in (_cut, _parsed):
        assert [json.loads(one) for one in cut(text, ("list",))] == [value]


@pytest.mark.parametrize("cut", [_cut, _parsed])
@pytest.mark.parametrize("text", [b'{"list":null}', b'{"other":[{}]}', b'{"x":{"list":[{}]}}'])
def test_no_list_is_an_empty_one(cut: Any, text: bytes) -> None:
    assert list(cut(text, ("list",))) == []


@pytest.mark.parametrize("cut", [_cut, _parsed])
def test_scalars_between_are_not_lost(cut: Any) -> None:
    assert list(cut(b'[1, {"a":1}, "x" , [2], null]', ())) == [
        b"1", b'{"a":1}', b'"x"', b"[2]", b"null",
    ]  # fmt: skip


@given(st.lists(BOXES, min_size=1, max_size=3), st.data())
def test_a_text_that_ends_too_early_is_told(value: list[Any], data: st.DataObject) -> None:
    text = json.dumps({"list": value}).encode()
    size = data.draw(st.integers(1, len(text) - 1))

    for cut in (_cut, _parsed):
        with pytest.raises(ValueError, match=r"."):
            list(cut(text[:size], ("list",)))


def test_large_texts_are_cut_and_small_ones_parsed() -> None:
    big = [{"key": "x" * 100, "n": n} for n in range(2000)]

    assert [json.loads(p) for p in pieces(json.dumps(big).encode())] == big
    assert [json.loads(p) for p in pieces(json.dumps(big[:3]).encode())] == big[:3]


@pytest.mark.parametrize("text", [b"", b"<html>", b"[}", b"[" * 70000, b'"' * 70001])
def test_what_is_not_json_is_told(text: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        list(pieces(text))
