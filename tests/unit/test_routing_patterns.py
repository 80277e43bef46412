"""Regular expressions: what is refused, and that the rest is quick."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeproxy.core.routing.patterns import (
    LONGEST,
    BadPattern,
    compile_pattern,
    matches_all,
)


@pytest.mark.parametrize(
    "text",
    [
        "(a+)+",
        "(a*)*b",
        "(a|a)*",
        "(a|ab)+c",
        "((a{1,9})x){2,}",
        "(?:a?){30}a{30}",
        "(x+x+)+y",
        r"(a)\1",
        "(?=a)b",
        "(?<!a)b",
        "(?i:a)",
        ".*a.*b",
        "(?:a)*(?:a)*(?:a)*",
        "[a-z]*[a-m]*[b-c]*c",
    ],
)
def test_what_could_take_long_is_refused(text: str) -> None:
    with pytest.raises(BadPattern):
        compile_pattern(text)


@pytest.mark.parametrize("text", ["(", "a{2,1}", "[b-a]", "*", r"\Q"])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(BadPattern, match="not a regular expression"):
        compile_pattern(text)


@pytest.mark.parametrize(
    ("text", "value", "hit"),
    [
        ("/users/[^/]+/orders/[^/]+/items/[^/]+/tags/[^/]+", "/users/1/orders/2/items/3/tags/4", 1),
        ("/v[0-9]+(/.*)?", "/v1/x", 1),
        ("/v[0-9]+(/.*)?", "/v1x", 0),
        ("/(de|en|fr)/.*", "/de/x", 1),
        ("(one|two)", "two", 1),
        ("(a[0-9]){1,3}", "a1a2", 1),
        (r"/\d{4}-\d{2}/.*\.html", "/2026-11/a.html", 1),
        ("^/a$", "/a", 1),
        ("", "", 1),
        (".*", "anything", 1),
        ("(?:ab)*c", "ababc", 1),
    ],
)
def test_usual_patterns(text: str, value: str, hit: int) -> None:
    assert (compile_pattern(text).fullmatch(value.encode()) is not None) is bool(hit)


ATOMS = st.sampled_from(["a", "[ab]", "[^a]", ".", "b", r"\w", "/"])
PIECES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds(lambda x, q: f"(?:{x}){q}", inner, st.sampled_from(["*", "+", "?", "{2,5}"])),
        st.builds(lambda x, y: f"(?:{x}|{y})", inner, inner),
        st.builds(lambda x, y: x + y, inner, inner),
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(PIECES, st.text("ab/", max_size=40))
def test_what_is_let_through_means_the_same_and_ends(text: str, value: str) -> None:
    try:
        compiled = compile_pattern(text)
    except BadPattern:
        return
    data = value.encode()
    assert (compiled.fullmatch(data) is None) is (re.fullmatch(text.encode(), data) is None)
    # Ends at all, on what makes a backtracking engine work: many of the same, and no end.
    compiled.fullmatch(b"a" * (LONGEST - 1) + b"!")
    compiled.fullmatch(b"ab" * (LONGEST // 2 - 1) + b"!")


def test_patterns_that_match_all() -> None:
    assert matches_all(".*")
    assert matches_all("/.*")
    assert not matches_all("/a.*")
