"""The folder of Linkerd 1.x, file by file."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.file.linkerd import read, reading
from registry.model import Endpoint, Port
from registry.weights import MOST, whole


def test_hosts_ports_and_weights() -> None:
    content = read("10.0.0.1 8080\n\n2001:DB8::1\t8081 * 2 # new\n# gone\n", "/disco/web")

    (fragment,) = content.fragments
    assert fragment.service.name == "default/web"
    assert fragment.service.ports == (Port(8080), Port(8081))
    assert fragment.service.endpoints == (
        Endpoint("10.0.0.1", 8080),
        Endpoint("2001:db8::1", 8081, weight=2),
    )
    assert content.problems == ()
    assert reading("10.0.0.1 1", "/disco/web").parts


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("10.0.0.1 1 * 0.5\n10.0.0.2 1 * 1.5\n10.0.0.3 1", [1, 3, 2]),
        ("10.0.0.1 1*0\n10.0.0.2 1*3", [0, 3]),
        ("10.0.0.1 1 * 1e6\n10.0.0.2 1 * 1", [65535, 1]),
    ],
)
def test_weights_are_whole_numbers_in_proportion(text: str, weights: list[int]) -> None:
    (fragment,) = read(text, "/disco/web").fragments

    assert [e.weight for e in fragment.service.endpoints] == weights


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("web.example 80", "not an IP address"),
        ("10.0.0.1", "not `HOST PORT`"),
        ("10.0.0.1 80 2", "not `HOST PORT`"),
        ("10.0.0.1 0", "not a port"),
        ("10.0.0.1 99999999999999999999", "not a port"),
        ("10.0.0.1 80 * -1", "not a weight"),
        ("10.0.0.1 80 * nan", "not a weight"),
        ("10.0.0.1 80 * many", "not a weight"),
        ("0.0.0.0 80", "unspecified"),
    ],
)
def test_a_wrong_line_is_told_and_the_service_stays_as_it_was(line: str, message: str) -> None:
    content = read(f"10.0.0.2 80\n{line}\n", "/disco/web")

    assert content.fragments == ()
    assert content.unreadable == ("default/web",)
    (problem,) = content.problems
    assert message in problem.message
    assert (problem.source, problem.line) == ("/disco/web", 2)


def test_an_empty_file_says_nothing_and_a_comment_that_there_is_no_endpoint() -> None:
    empty, none = read(" \n", "/disco/web"), read("# none\n", "/disco/web")

    assert (empty.fragments, len(empty.problems)) == ((), 1)
    assert none.fragments[0].service.endpoints == ()
    assert none.problems == ()


def test_a_file_that_is_named_like_no_service_is_told() -> None:
    assert "name" in read("10.0.0.1 80", "/disco/a b").problems[0].message


@given(st.lists(st.floats(min_value=0, max_value=1e9), max_size=20))
def test_whole_weights_are_in_range_and_only_zero_is_zero(weights: list[float]) -> None:
    found = whole(weights)

    assert all(0 <= weight <= MOST for weight in found)
    assert [w == 0 for w in found] == [w == 0 for w in weights]
    assert sorted(range(len(found)), key=lambda i: weights[i]) == sorted(
        range(len(found)), key=lambda i: (found[i], weights[i])
    )


@given(st.lists(st.integers(min_value=0, max_value=MOST), max_size=20))
def test_whole_numbers_stay(weights: list[int]) -> None:
    assert whole(weights) == weights
    assert math.gcd(*whole([w / 2 for w in weights])) in (0, 1) or all(w % 2 == 0 for w in weights)
