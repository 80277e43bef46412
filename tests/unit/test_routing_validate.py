"""Warnings, shadows, policies, and what a change means in effect."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeproxy.core.routing.compile import Compiler, run
from nodeproxy.core.routing.diff import diff
from nodeproxy.core.routing.policies import PolicyIndex
from nodeproxy.core.routing.table import RouteTable
from nodeproxy.core.routing.validate import warnings
from registry.catalog import Merger
from registry.model import Port, Service
from tests.unit.routing_samples import (
    CATALOG,
    exact,
    headers,
    http,
    load,
    parent,
    prefix,
    query,
    regex,
    request,
    route,
    rule,
    table,
)


def doubts(*objects: dict[str, Any], known: bool = True) -> list[str]:
    found = warnings(load(*objects), CATALOG if known else None)
    return [f"{p.field}: {p.message}" for p in found]


@pytest.mark.parametrize(
    ("rules", "hidden"),
    [
        pytest.param([rule(prefix("/a")), rule(prefix("/a"))], [1], id="the-same-match"),
        pytest.param([rule(), rule(prefix("/"))], [1], id="the-default-match"),
        pytest.param([rule(prefix("/a")), rule(prefix("/a/"))], [0], id="trailing-slash"),
        pytest.param([rule(prefix("/a")), rule(prefix("/a/b"))], [], id="a-longer-prefix"),
        pytest.param([rule(exact("/a")), rule(prefix("/a"))], [], id="exact-and-prefix"),
        pytest.param([rule(prefix("/a")), rule(exact("/a"))], [], id="prefix-and-exact"),
        pytest.param([rule(regex("/.*")), rule(prefix("/a"))], [1], id="pattern-for-everything"),
        pytest.param([rule(regex("/.*")), rule(exact("/a"))], [], id="exact-before-patterns"),
        pytest.param(
            [rule(regex("/.*", method="GET")), rule(prefix("/a"))], [], id="pattern-with-method"
        ),
        pytest.param(
            [rule(headers(X="1")), rule(headers(x="1"))], [1], id="header-names-without-case"
        ),
        pytest.param(
            [rule(headers(a="1", b="2")), rule(headers(b="2", a="1"))], [1], id="order-of-headers"
        ),
        pytest.param([rule(headers(a="1")), rule(headers(a="2"))], [], id="other-value"),
        pytest.param([rule(query(a="1")), rule(query(a="1"))], [1], id="query"),
        pytest.param([rule(prefix("/a"), exact("/b")), rule(exact("/b"), exact("/c"))], [1],
            id="one-match-of-two"),
    ],
)  # fmt: skip
def test_rules_that_can_never_match(rules: list[dict[str, Any]], hidden: list[int]) -> None:
    found = doubts(route(*rules))
    assert [f"spec.rules[{i}]." in f for i, f in zip(hidden, found, strict=True)] == [True] * len(
        hidden
    )
    assert all("never matches: HTTPRoute shop/r rules[" in f for f in found)


def test_shadows_across_routes_name_the_older_one() -> None:
    old = route(rule(), name="z", created="2020-01-01T00:00:00Z")
    (found,) = doubts(route(rule(), name="a"), old)
    assert "HTTPRoute shop/a: never matches: HTTPRoute shop/z rules[0]" in found
    # What is hidden at one parent and not at another one does match.
    both = route(rule(), name="a", parents=[parent(), parent("v1")])
    assert doubts(both, old) == []


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (route(rule(to="nope")), "no registry knows the service shop/nope"),
        (route(rule(to="we"), rule(exact("/"), to="vv1")), "did you mean 'shop/v1'?"),
        (
            route(rule(backendRefs=[{"name": "v1", "port": 81}])),
            "shop/v1 has no port 81 (its ports: 80) (BackendNotFound): its share of the traffic "
            "gets 500",
        ),
        (
            route(rule(backendRefs=[{"name": "v1", "port": 80, "weight": 0}])),
            "the weights sum to 0: every request gets 500",
        ),
        (route(rule(to="")), "no backendRefs: every request gets 500"),
        (route(rule(), parents=[]), "has no parentRefs"),
        (route(rule(), parents=[parent("x")]), "is not accepted (NoMatchingParent): no registry"),
        (route(rule(), hostnames=["a.example"]), "hostnames mean nothing at a Service"),
        (
            route(rule(filters=[{"type": "ExternalAuth", "externalAuth": {}}])),
            "ExternalAuth is not known here",
        ),
        (
            route(
                rule(
                    filters=[
                        {
                            "type": "RequestMirror",
                            "requestMirror": {"backendRef": {"name": "gone", "port": 80}},
                        }
                    ]
                )
            ),
            "spec.rules[0].filters[0].requestMirror: HTTPRoute shop/r: no registry",
        ),
        (route({"matches": []}, kind="GRPCRoute"), "GRPCRoute is not carried yet"),
        (
            route(*[{"backendRefs": [{"name": "v1", "port": 80}]}] * 2, kind="TCPRoute"),
            "the first rule takes every connection",
        ),
    ],
)
def test_warnings(made: dict[str, Any], words: str) -> None:
    found = doubts(made)
    assert any(words in f for f in found), found


def test_a_port_that_does_not_speak_http() -> None:
    services = [
        Service("shop/web", ports=(Port(80, "db", "tcp"), Port(81, "http", "http"))),
        Service("shop/v1", ports=(Port(80, "h2", "http2"),)),
    ]
    known = Merger(["x"]).apply("x", services, [])[0]
    found = [str(p) for p in warnings(load(route(rule(), parents=[parent(port=80)])), known)]
    assert any("port 80 is declared as tcp: no HTTP request is seen there" in f for f in found)
    assert any("speaks http2, and HTTP/1.1 is what is spoken to backends" in f for f in found)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["shop/web", "shop/v1", "shop/x"]),
            st.lists(st.sampled_from([80, 81]), unique=True, max_size=2),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_updating_gives_what_building_gives(history: list[tuple[str, list[int]]]) -> None:
    objects = load(
        route(rule(to="a"), parents=[parent(), parent("x", port=81)]),
        route(rule(to="b"), name="c", namespace="other", parents=[parent(namespace="shop")]),
        route({"backendRefs": [{"name": "t", "port": 1}]}, kind="TCPRoute",
            parents=[parent(port=81), parent("v1", port=80)]),
    )  # fmt: skip
    compiler = Compiler(objects)
    merger = Merger(["x"])
    known, _ = merger.apply("x", [], [])
    made = run(compiler.build(known))
    for name, ports in history:
        service = Service(name, ports=tuple(Port(p, f"p{p}") for p in ports))
        known, _ = merger.apply("x", [service] if ports else [], [] if ports else [name])
        made = run(compiler.update(made, known, [name]))
    fresh = run(Compiler(objects).build(known))

    def shape(table_: RouteTable) -> dict[str, Any]:
        return {
            name: {
                port: {client: rules.kind for client, rules in groups.items()}
                for port, groups in found.ports.items()
            }
            for name, found in table_.services.items()
        }

    assert shape(made) == shape(fresh)


def test_without_a_catalog_nothing_is_said_of_services() -> None:
    assert doubts(route(rule(to="nope")), known=False) == []
    assert doubts(route(rule(to="")), known=False) != []


def policy(name: str = "p", *targets: dict[str, Any], created: str = "", **spec: Any) -> Any:
    metadata = {"name": name, "namespace": "shop"}
    if created:
        metadata["creationTimestamp"] = created
    return {
        "apiVersion": "nodeproxy.dev/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": metadata,
        "spec": {"targetRefs": list(targets) or [parent()], **spec},
    }


def of_route(name: str = "r", **more: str) -> dict[str, Any]:
    return {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": name, **more}


def test_policies_field_by_field_the_nearest_and_the_oldest_first() -> None:
    objects = load(
        policy("new", timeouts={"connect": "9s", "idle": "9s"}, hedging={"after": "9s"}),
        policy(
            "old",
            created="2020-01-01T00:00:00Z",
            timeouts={"connect": "1s"},
            hedging={"after": "1s"},
        ),
        policy("port", parent(sectionName="http"), timeouts={"request": "2s", "connect": "2s"}),
    )
    index = PolicyIndex(objects)
    whole, port = index.service("shop/web"), index.service("shop/web", "http")
    assert (whole.get("timeouts.connect"), whole.get("timeouts.idle")) == (1.0, 9.0)
    assert whole.get("hedging").after == 1.0
    assert whole.origin("timeouts.connect") == "TrafficPolicy shop/old (routes.yaml:3)"
    assert [port.get(f"timeouts.{f}") for f in ("connect", "request", "idle")] == [2.0, 2.0, 9.0]
    assert index.service("shop/web", "alt") is not port
    assert index.service("shop/other").get("timeouts.connect", 7) == 7


def test_a_rules_own_fields_go_before_policies_for_routes() -> None:
    made = table(
        route(rule(name="own", timeouts={"request": "1s"}), rule(exact("/x"), name="plain")),
        policy("whole", of_route(), timeouts={"request": "5s", "backendRequest": "500ms"},
            retry={"attempts": 3, "codes": [503]}),
        policy("named", of_route(sectionName="plain"), timeouts={"request": "6s"}),
    )  # fmt: skip
    own, plain = http(made).match(request()), http(made).match(request("/x"))
    assert own is not None
    assert plain is not None
    assert (own.rule.timeouts.request, own.rule.timeouts.backend_request) == (1.0, 0.5)
    assert (plain.rule.timeouts.request, plain.rule.timeouts.backend_request) == (6.0, 0.5)
    assert plain.rule.retry is not None
    assert (plain.rule.retry.attempts, plain.rule.retry.codes) == (3, {503})


def test_the_gateway_apis_own_policy() -> None:
    made = {
        "apiVersion": "gateway.networking.x-k8s.io/v1alpha1",
        "kind": "XBackendTrafficPolicy",
        "metadata": {"name": "x", "namespace": "shop"},
        "spec": {
            "targetRefs": [parent()],
            "retryConstraint": {"budget": {"percent": 10}},
            "sessionPersistence": {"type": "Cookie"},
        },
    }
    found = table(made).policy("shop/web", "http")
    constraint = found.get("retry_constraint")
    assert (constraint.budget.percent, constraint.budget.interval) == (10, 10.0)
    assert (constraint.min_retry_rate.count, constraint.min_retry_rate.interval) == (10, 1.0)
    assert found.get("session_persistence").type == "Cookie"
    assert table(made).policy("shop/v1").settings == {}


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (parent("nope"), "no registry knows the service shop/nope"),
        (parent(sectionName="grpc"), "shop/web has no port called grpc"),
        (of_route("nope"), "there is no HTTPRoute shop/nope"),
        (of_route(sectionName="nope"), "shop/r has no rule called nope"),
    ],
)
def test_policies_without_effect(target: dict[str, Any], words: str) -> None:
    assert any(words in f for f in doubts(route(rule()), policy("p", target)))


# --- diff ---


def changes(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    return [str(d) for d in diff(load(*old), load(*new), CATALOG)]


WEB = "Service shop/web:80: HTTPRoute shop/r rules"


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        pytest.param([rule()], [rule(prefix("/"))], [], id="writing-a-default-is-no-change"),
        pytest.param(
            [rule()], [rule(), rule(exact("/x"), to="v2")],
            [f"+ {WEB}[1].matches[0] added: path is /x -> shop/v2:80"], id="added",
        ),
        pytest.param(
            [rule(), rule(exact("/x"))], [rule()],
            [f"- {WEB}[1].matches[0] removed: path is /x"], id="removed",
        ),
        pytest.param(
            [rule()], [rule(to="v2")],
            [f"~ {WEB}[0].matches[0] changed: shop/v1:80 becomes shop/v2:80"], id="backend",
        ),
        pytest.param(
            [rule(exact("/x"))], [rule(exact("/y"))],
            [f"~ {WEB}[0].matches[0] changed: path is /x becomes path is /y"], id="condition",
        ),
        pytest.param(
            [rule()], [rule(timeouts={"request": "1s"})],
            [f"~ {WEB}[0].matches[0] changed: other timeouts"], id="settings",
        ),
        pytest.param(
            [rule(exact("/x")), rule(exact("/y"))], [rule(exact("/y")), rule(exact("/y"))],
            [
                f"~ {WEB}[0].matches[0] changed: path is /x becomes path is /y",
                f"~ {WEB}[1].matches[0] shadowed: by HTTPRoute shop/r rules[0].matches[0]",
            ],
            id="shadowed",
        ),
        pytest.param(
            [rule(exact("/y")), rule(exact("/y"))], [rule(exact("/x")), rule(exact("/y"))],
            [
                f"~ {WEB}[0].matches[0] changed: path is /y becomes path is /x",
                f"~ {WEB}[1].matches[0] uncovered: it was hidden by HTTPRoute shop/r "
                "rules[0].matches[0]",
            ],
            id="uncovered",
        ),
    ],
)  # fmt: skip
def test_a_change_in_effect(old: list[Any], new: list[Any], lines: list[str]) -> None:
    refs = [parent(port=80)]
    assert changes([route(*old, parents=refs)], [route(*new, parents=refs)]) == lines


def test_changes_of_kinds_and_policies() -> None:
    refs = [parent(port=80)]
    tcp = route({"backendRefs": [{"name": "v1", "port": 80}]}, kind="TCPRoute", parents=refs)
    assert changes([tcp], []) == [
        "- Service shop/web:80: TCPRoute rules removed: TCPRoute shop/r -> shop/v1:80"
    ]
    other = route({"backendRefs": [{"name": "v2", "port": 80}]}, kind="TCPRoute", parents=refs)
    (line,) = changes([tcp], [other])
    name = "TCPRoute shop/r -> shop"
    assert line.endswith(f"changed: {name}/v1:80 becomes {name}/v2:80")
    assert changes([policy(timeouts={"connect": "1s"})], [policy(timeouts={"connect": "2s"})]) == [
        "~ Service shop/web: policy timeouts.connect changed: 1s becomes 2s"
    ]
    named = route(rule(), parents=refs)
    assert changes([named], [named, policy("p", of_route(), timeouts={"request": "1s"})]) == [
        f"~ {WEB}[0].matches[0] changed: other timeouts",
        f"~ {WEB}[0].matches[0] changed: other policy",
    ]


def test_compiling_goes_in_slices() -> None:
    routes = [
        route(*(rule(prefix(f"/r{i}/{j}")) for j in range(16)), name=f"r{i}") for i in range(40)
    ]
    compiler = Compiler(load(*routes))
    assert len(list(compiler.build(CATALOG))) > 6
    assert len(http(run(Compiler(load(*routes)).build(CATALOG))).candidates) == 640
