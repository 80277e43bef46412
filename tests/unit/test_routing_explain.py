"""explain and match give one answer, over random routes and requests; so does a plain reading of
the specification that knows no index."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nodeproxy.core.routing.conditions import View
from nodeproxy.core.routing.explain import explain, explain_listener
from nodeproxy.core.routing.shadows import hidden
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
)

SEGMENTS = st.sampled_from(["a", "b", "ab", "c"])
PATHS = st.lists(SEGMENTS, max_size=3).map(lambda parts: "/" + "/".join(parts))
HEADERS: list[dict[str, str]] = [{"x": "1"}, {"x": "2"}, {"y": "1"}, {"x": "1", "y": "1"}]
MATCHES = st.builds(
    lambda path, method, header, param: {**path, **method, **header, **param},
    st.one_of(
        PATHS.map(exact),
        PATHS.map(prefix),
        PATHS.filter(lambda p: p != "/").map(lambda p: prefix(p + "/")),
        st.sampled_from(["/a.*", "/[ab]+", ".*"]).map(regex),
        st.just({}),
    ),
    st.sampled_from([{}, {}, {"method": "GET"}, {"method": "PUT"}]),
    st.sampled_from(
        [{}, {}, headers(x="1"), headers(x="2"), headers(y="1"), headers(x="1", y="1")]
    ),
    st.sampled_from([{}, {}, query(q="1"), query(q="2", r="1")]),
)
ROUTES = st.lists(
    st.lists(st.lists(MATCHES, min_size=1, max_size=3), min_size=1, max_size=6),
    min_size=1,
    max_size=4,
)
REQUESTS = st.builds(
    lambda path, slash, q, method, lines: request(path + slash + q, method, lines=lines),
    PATHS,
    st.sampled_from(["", "/", "//"]),
    st.sampled_from(["", "?q=1", "?q=2&r=1", "?r=1&q=1&q=2"]),
    st.sampled_from(["GET", "PUT", "POST"]),
    st.sampled_from(["", "x: 1", "x: 2", "x: 1|y: 1", "y: 1", "x: 1|x: 1"]),
)


def made(shape: list[list[list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    return [
        route(*(rule(*matches) for matches in rules), name=f"r{i}") for i, rules in enumerate(shape)
    ]


@settings(max_examples=200)
@given(ROUTES, st.lists(REQUESTS, min_size=1, max_size=5))
def test_explain_and_match_give_one_answer(shape: list[Any], heads: list[Any]) -> None:
    rules = http(table(*made(shape)))
    ordered = rules.ordered()
    shadowed = {id(s.candidate.decision) for s in hidden(rules.candidates)}
    for head in heads:
        decision = rules.match(head)
        traces = explain(rules, head)
        assert len(traces) == len(ordered)
        chosen = [t for t in traces if t.chosen]
        assert [t.decision for t in chosen] == ([decision] if decision is not None else [])
        assert [t.decision is decision for t in chosen] == [True] * len(chosen)
        # The plain reading: the first of all, in order, whose conditions all hold.
        view = View(head)
        plain = next(
            (
                c.decision
                for c in ordered
                if c.path.test(view) and all(x.test(view) for x in c.conditions)
            ),
            None,
        )
        assert plain is decision
        assert id(decision) not in shadowed
        for trace in traces:
            assert trace.matches == (not trace.why)
            assert str(trace)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "a.example.com", "*.example.com", "*.a.example.com"]), MATCHES
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["a.example.com", "b.example.com", "x.a.example.com", "example.com", "z"]),
    PATHS,
)
def test_listeners_are_explained_as_they_match(
    shape: list[tuple[str, dict[str, Any]]], host: str, path: str
) -> None:
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "shop"},
        "spec": {
            "gatewayClassName": "nodeproxy",
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
        },
    }
    routes = [
        route(
            rule(match),
            name=f"r{i}",
            parents=[{"name": "edge"}],
            **({"hostnames": [name]} if name else {}),
        )
        for i, (name, match) in enumerate(shape)
    ]
    found = table(gateway, *routes).gateways["shop/edge"].listener(80, host.encode())
    assert found is not None
    assert found.http is not None
    head = request(path, host=host)
    traces = explain_listener(found.http, head)
    assert len(traces) == len(shape)
    decision = found.http.match(head)
    assert [t.decision for t in traces if t.chosen] == ([decision] if decision else [])


def test_the_first_condition_that_fails_is_named() -> None:
    rules = http(
        table(
            route(
                rule(exact("/x", method="PUT")),
                rule(prefix("/x", **headers(v="2"))),
                rule(prefix("/y")),
                rule(query(q="1")),
            )
        )
    )
    texts = [str(t) for t in explain(rules, request("/x/1?q=1", lines="v: 1"))]
    name = "HTTPRoute shop/r rules[{}].matches[0]: "
    assert texts == [
        name.format(0) + "path is /x, but the path is /x/1",
        name.format(1) + "header v is 2, but header v is 1",
        name.format(2) + "path begins with /y, but the path is /x/1",
        name.format(3) + "matches, and is the first that does",
    ]
    absent = explain(rules, request("/x", "PUT"))
    assert absent[0].chosen
    assert absent[1].why == "there is no header v"
    assert absent[3].why == "there is no query parameter q"
