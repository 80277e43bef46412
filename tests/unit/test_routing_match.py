"""Matching and precedence (gateway-api 4.2), by table; the ids name the sentence."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.routing_samples import (
    exact,
    headers,
    http,
    prefix,
    query,
    regex,
    request,
    route,
    rule,
    table,
    target,
)


@pytest.mark.parametrize(
    ("match", "path", "hit"),
    [
        pytest.param(exact("/abc"), "/abc", True, id="exact-equal"),
        pytest.param(exact("/abc"), "/abc/", False, id="exact-no-trailing-slash"),
        pytest.param(exact("/abc"), "/Abc", False, id="exact-case-sensitive"),
        pytest.param(exact("/abc"), "/abc?x=1", True, id="exact-without-query"),
        pytest.param(prefix("/abc"), "/abc", True, id="prefix-equal"),
        pytest.param(prefix("/abc"), "/abc/", True, id="prefix-slash"),
        pytest.param(prefix("/abc"), "/abc/def", True, id="prefix-element"),
        pytest.param(prefix("/abc"), "/abcd", False, id="prefix-element-wise"),
        pytest.param(prefix("/abc/"), "/abc", True, id="prefix-trailing-slash-ignored"),
        pytest.param(prefix("/abc/"), "/abc/def", True, id="prefix-trailing-slash-element"),
        pytest.param(prefix("/abc/"), "/abcd", False, id="prefix-trailing-slash-no"),
        pytest.param(prefix("/"), "/", True, id="prefix-root"),
        pytest.param(prefix("/"), "/x/y?z", True, id="prefix-root-all"),
        pytest.param(prefix("/a/b/c"), "/a/b", False, id="prefix-longer-than-path"),
        pytest.param(prefix("/abc"), "/abc//def", True, id="prefix-empty-element"),
        pytest.param({}, "/whatever", True, id="default-match-is-prefix-root"),
        pytest.param(regex("/v[0-9]+/x"), "/v12/x", True, id="regex-whole"),
        pytest.param(regex("/v[0-9]+/x"), "/v12/x/y", False, id="regex-not-a-part"),
        pytest.param({"method": "POST"}, "/", False, id="method-other"),
        pytest.param({"method": "GET"}, "/", True, id="method"),
        pytest.param(headers(x="1"), "/", False, id="header-absent"),
        pytest.param(headers(version="two"), "/", True, id="header-exact"),
        pytest.param(headers(VERSION="two"), "/", True, id="header-names-case-insensitive"),
        pytest.param(headers(version="TWO"), "/", False, id="header-values-case-sensitive"),
        pytest.param(headers(many="a, b"), "/", True, id="header-repeated-is-joined"),
        pytest.param(headers(host="web.shop"), "/", True, id="header-host-in-mesh"),
        pytest.param(
            {"headers": [{"name": "version", "value": "two"}, {"name": "VERSION", "value": "3"}]},
            "/",
            True,
            id="header-of-equal-names-the-first-counts",
        ),
        pytest.param(
            {"headers": [{"type": "RegularExpression", "name": "version", "value": "t.o"}]},
            "/",
            True,
            id="header-regex",
        ),
        pytest.param(
            {"headers": [{"type": "RegularExpression", "name": "version", "value": "t"}]},
            "/",
            False,
            id="header-regex-whole",
        ),
        pytest.param(query(a="1"), "/?a=1", True, id="query-exact"),
        pytest.param(query(a="1"), "/?A=1", False, id="query-name-case-sensitive"),
        pytest.param(query(a="1"), "/?b=1&a=1", True, id="query-any-place"),
        pytest.param(query(a="1"), "/?a=1&a=2", True, id="query-first-of-repeated"),
        pytest.param(query(a="2"), "/?a=1&a=2", False, id="query-only-first-of-repeated"),
        pytest.param(query(a="x y"), "/?a=x%20y", True, id="query-decoded"),
        pytest.param(query(a="x y"), "/?a=x+y", True, id="query-plus"),
        pytest.param(query(a="1"), "/", False, id="query-absent"),
        pytest.param(
            {"queryParams": [{"type": "RegularExpression", "name": "a", "value": "[0-9]+"}]},
            "/?a=12",
            True,
            id="query-regex",
        ),
        pytest.param(
            prefix("/x", **headers(version="two")), "/y", False, id="conditions-are-anded"
        ),
        pytest.param(
            prefix("/x", method="GET", **headers(version="two"), **query(a="1")),
            "/x/y?a=1",
            True,
            id="all-conditions",
        ),
    ],
)
def test_one_match(match: dict[str, Any], path: str, hit: bool) -> None:
    rules = http(table(route(rule(match))))
    head = request(path, lines="Version: two|Many: a|Many: b")
    assert (rules.match(head) is not None) is hit


def test_matches_of_a_rule_are_ored() -> None:
    rules = http(table(route(rule(exact("/a"), exact("/b")), rule(exact("/c"), to="v2"))))
    assert [target(rules, request(p)) for p in ("/a", "/b", "/c", "/d")] == [
        "v1",
        "v1",
        "v2",
        "404",
    ]
    decision = rules.match(request("/b"))
    assert decision is not None
    assert decision.match == 1


def test_a_service_without_routes_costs_nothing() -> None:
    assert table(route(rule())).find("shop/v1", 80) is None
    assert table(route(rule())).find("shop/web", 9999) is None


# The tables of the conformance suite (httproute-path-match-order, httproute-matching,
# httproute-matching-across-routes), with our names.

PATH_ORDER = route(
    rule(exact("/match/exact/one"), to="v3"),
    rule(exact("/match/exact"), to="v2"),
    rule(exact("/match"), to="v1"),
    rule(prefix("/match/prefix/one"), to="v2"),
    rule(prefix("/match/prefix"), to="v1"),
    rule(prefix("/match"), to="v3"),
)
MATCHING = route(
    rule(prefix("/"), headers(version="one"), to="v1"),
    rule(prefix("/v2"), headers(version="two"), to="v2"),
)
ACROSS = (
    route(
        rule(prefix("/"), headers(version="one"), to="v1"),
        name="part1",
        created="2026-01-01T00:00:00Z",
    ),
    route(
        rule(prefix("/v2"), headers(version="two"), to="v2"),
        name="part2",
        created="2026-01-02T00:00:00Z",
    ),
)
QUERIES = route(
    rule(query(animal="whale"), to="v1"),
    rule(query(animal="dolphin"), to="v2"),
    rule(query(animal="dolphin", color="blue"), to="v3"),
    rule(prefix("/path3", **query(animal="shark")), to="v1"),
    rule(prefix("/path4", **query(animal="kraken"), **headers(version="one")), to="v2"),
    rule(prefix("/path5"), query(ANIMAL="hydra"), to="v3"),
)
METHODS = route(
    rule({"method": "POST"}, to="v1"),
    rule({"method": "GET"}, to="v2"),
    rule(prefix("/path1", method="GET"), to="v1"),
    rule({"method": "PUT", **headers(version="one")}, to="v2"),
    rule(prefix("/path2", method="POST", **headers(version="two")), to="v3"),
    rule(prefix("/path3", method="PATCH"), prefix("/path4", method="DELETE"), to="v1"),
    rule(prefix("/path5", method="GET"), prefix("/path5", **headers(version="four")), to="v2"),
    rule(prefix("/path5"), to="v3"),
)


@pytest.mark.parametrize(
    ("routes", "method", "path", "lines", "expected"),
    [
        ((PATH_ORDER,), "GET", "/match/exact/one", "", "v3"),
        ((PATH_ORDER,), "GET", "/match/exact", "", "v2"),
        ((PATH_ORDER,), "GET", "/match", "", "v1"),
        ((PATH_ORDER,), "GET", "/match/prefix/one/any", "", "v2"),
        ((PATH_ORDER,), "GET", "/match/prefix/any", "", "v1"),
        ((PATH_ORDER,), "GET", "/match/any", "", "v3"),
        *(
            (routes, "GET", path, lines, expected)
            for routes in ((MATCHING,), ACROSS)
            for path, lines, expected in (
                ("/", "Version: one", "v1"),
                ("/example", "", "v1"),
                ("/", "", "v1"),
                ("/example", "Version: one", "v1"),
                ("/v2", "", "v2"),
                ("/v2example", "", "v1"),
                ("/foo/v2/example", "", "v1"),
                ("/v2", "Version: two", "v2"),
                ("/v2/", "", "v2"),
                ("/", "Version: two", "v2"),
                ("/example", "Version: two", "v2"),
            )
        ),
        ((QUERIES,), "GET", "/?animal=whale", "", "v1"),
        ((QUERIES,), "GET", "/?animal=dolphin", "", "v2"),
        ((QUERIES,), "GET", "/?animal=whale&otherparam=irrelevant", "", "v1"),
        ((QUERIES,), "GET", "/?animal=dolphin&color=yellow", "", "v2"),
        ((QUERIES,), "GET", "/?animal=dolphin&color=blue", "", "v3"),
        ((QUERIES,), "GET", "/?animal=dog", "", "404"),
        ((QUERIES,), "GET", "/?animal=whaledolphin", "", "404"),
        ((QUERIES,), "GET", "/", "", "404"),
        ((QUERIES,), "GET", "/path3?animal=shark", "", "v1"),
        ((QUERIES,), "GET", "/path4?animal=kraken", "Version: one", "v2"),
        ((QUERIES,), "GET", "/path5?animal=hydra", "", "v3"),
        ((QUERIES,), "GET", "/?ANIMAL=hydra", "", "v3"),
        ((QUERIES,), "GET", "/path3", "", "404"),
        ((QUERIES,), "GET", "/path4?animal=kraken", "", "404"),
        ((METHODS,), "POST", "/", "", "v1"),
        ((METHODS,), "GET", "/", "", "v2"),
        ((METHODS,), "HEAD", "/", "", "404"),
        ((METHODS,), "GET", "/path1", "", "v1"),
        ((METHODS,), "PUT", "/", "Version: one", "v2"),
        ((METHODS,), "POST", "/path2", "Version: two", "v3"),
        ((METHODS,), "PATCH", "/path3", "", "v1"),
        ((METHODS,), "DELETE", "/path4", "", "v1"),
        ((METHODS,), "GET", "/path5", "", "v2"),
        ((METHODS,), "PATCH", "/path5", "Version: four", "v2"),
        ((METHODS,), "PATCH", "/path5", "", "v3"),
    ],
)
def test_conformance_tables(
    routes: tuple[dict[str, Any], ...], method: str, path: str, lines: str, expected: str
) -> None:
    assert target(http(table(*routes)), request(path, method, lines=lines)) == expected


GET = {"method": "GET"}
ONE, TWO = headers(a="1"), headers(a="1", b="1")
Q1, Q2 = query(q="1"), query(q="1", r="1")


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        pytest.param(exact("/p"), prefix("/p", **GET, **TWO, **Q2), id="exact-path-first"),
        pytest.param(exact("/p"), regex("/p", **GET, **TWO), id="exact-before-regex"),
        pytest.param(regex("/[p]"), prefix("/p", **GET, **TWO), id="regex-before-prefix"),
        pytest.param(regex("/[p]+"), regex("/[p]", **GET), id="regex-longest"),
        pytest.param(prefix("/p"), prefix("/", **GET, **TWO, **Q2), id="prefix-most-characters"),
        pytest.param(prefix("/p", **GET), prefix("/p", **TWO, **Q2), id="method-before-headers"),
        pytest.param(prefix("/p", **TWO), prefix("/p", **ONE, **Q2), id="most-headers"),
        pytest.param(prefix("/p", **Q2), prefix("/p", **Q1), id="most-query-parameters"),
        pytest.param(
            prefix("/p", **ONE, **Q1), prefix("/p", **ONE), id="ties-continue-with-the-next"
        ),
    ],
)
def test_precedence_within_and_across_routes(winner: dict[str, Any], loser: dict[str, Any]) -> None:
    head = request("/p?q=1&r=1", lines="a: 1|b: 1")
    within = table(route(rule(loser, to="v2"), rule(winner)))
    assert target(http(within), head) == "v1"
    across = table(
        route(rule(loser, to="v2"), name="a", created="2020-01-01T00:00:00Z"),
        route(rule(winner), name="b", created="2026-01-01T00:00:00Z"),
    )
    assert target(http(across), head) == "v1"


def test_ties_across_routes_go_to_the_oldest_then_to_the_first_by_name() -> None:
    old = route(rule(), name="z", created="2025-01-01T00:00:00Z")
    new = route(rule(to="v2"), name="a", created="2026-01-01T00:00:00+00:00")
    assert target(http(table(new, old)), request()) == "v1"
    # Without a time it counts as new.
    assert target(http(table(route(rule(to="v2"), name="a"), old)), request()) == "v1"
    first = route(rule(), name="a")
    assert target(http(table(route(rule(to="v2"), name="b"), first)), request()) == "v1"


def test_ties_inside_a_route_go_to_the_first_rule() -> None:
    rules = http(table(route(rule(prefix("/a")), rule(prefix("/a"), to="v2"))))
    assert target(rules, request("/a")) == "v1"


def test_a_more_precise_path_that_fails_later_gives_way() -> None:
    rules = http(
        table(
            route(
                rule(exact("/a/b", **GET)),
                rule(prefix("/a/b", **ONE), to="v2"),
                rule(prefix("/a"), to="v3"),
            )
        )
    )
    assert target(rules, request("/a/b")) == "v1"
    assert target(rules, request("/a/b", "PUT", lines="a: 1")) == "v2"
    assert target(rules, request("/a/b", "PUT")) == "v3"


def test_many_matches_of_one_path_are_found_by_their_header() -> None:
    routes = [
        route(
            *(rule(headers(user=f"u{16 * i + j}"), to=f"v{j % 3 + 1}") for j in range(16)),
            name=f"r{i}",
        )
        for i in range(20)
    ]
    routes.append(route(rule(headers(user="u5", extra="1"), to="v3"), name="extra"))
    routes.append(route(rule(GET, to="v2"), name="all"))
    rules = http(table(*routes))
    assert target(rules, request(method="PUT", lines="user: u100")) == "v2"
    assert target(rules, request(method="PUT", lines="user: u5")) == "v3"
    assert target(rules, request(method="PUT", lines="user: none")) == "404"
    # A method goes before any number of headers.
    assert target(rules, request(lines="user: u100|extra: 1")) == "v2"


def test_hostile_paths_stay_cheap() -> None:
    """16,000 slashes are not 16,000 look-ups: only places where a prefix ends are asked."""
    rules = http(table(route(rule(prefix("/" + "a" * 1000)), rule(prefix("/x"), to="v2"))))
    head = request("/x" + "/" * 16_000)
    assert target(rules, head) == "v2"


def test_the_label_of_a_rule_is_its_name() -> None:
    made = table(route(rule(name="checkout"), rule(exact("/x"))))
    decision = http(made).match(request())
    assert decision is not None
    assert decision.rule.label == "checkout"
    decision = http(made).match(request("/x"))
    assert decision is not None
    assert decision.rule.label == "shop/r/1"
