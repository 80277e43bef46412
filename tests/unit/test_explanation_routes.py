"""``explain`` with routes: every match with its first failure, the draw, answers and settings; and
it says what happens: same table, same random numbers, same end."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeproxy import explanation
from nodeproxy.admin.views import ExplainQuery, ExplainView
from nodeproxy.config import Config
from nodeproxy.core.errors import ProxyError, RouteNotFound
from nodeproxy.core.http1 import parse_request
from nodeproxy.core.routing.way import way
from nodeproxy.dataplane.node import Node
from nodeproxy.dataplane.settings import Settings
from nodeproxy.parts import Parts
from nodeproxy.telemetry.accesslog import AccessLog, AccessLogSettings
from nodeproxy.telemetry.families import Families
from nodeproxy.telemetry.metrics import Metrics
from registry.catalog import Merger
from registry.model import Endpoint, Port, Service
from tests.unit.routing_samples import exact, headers, prefix, query, route, rule, table


def known() -> list[Service]:
    ready = (Endpoint("10.244.0.1", 8080), Endpoint("10.244.0.2", 8080))
    return [
        Service("shop/web", ("10.96.0.10",), (Port(80, "http", "http"),), ready),
        Service("shop/v1", (), (Port(80, "http", "http"),), ready),
        Service("shop/v2", (), (Port(80, "http", "http"), Port(81, "g", "grpc")), ready),
        Service("shop/none", (), (Port(80, "http", "http"),), ()),
    ]


def parts(*objects: dict[str, Any]) -> Parts:
    metrics = Metrics(1000)
    reactor: Any = SimpleNamespace(now=100.0, every=lambda *_: None)
    rng = random.Random(0)
    access = AccessLog(AccessLogSettings("off", 0.0, 0.0), lambda _: None, rng)
    node = Node(Settings(), reactor, Families(metrics), access, rng=rng, log=lambda *_, **__: None)
    catalog, changes = Merger(["file"]).apply("file", known(), ())
    node.update(catalog, changes)
    node.routes = table(*objects, services=catalog)
    listener: Any = SimpleNamespace(service="shop/web:80", address=("127.0.0.1", 8080))
    node.listeners.append(listener)
    registries: Any = SimpleNamespace(catalog=catalog, statuses=lambda: ())
    return Parts(Config(), "node-a", 0.0, metrics, reactor, node, registries, None)


def ask(
    made: Parts, path: str = "/", method: str = "GET", scheme: Any = "http", **fields: str
) -> ExplainView:
    asked = ExplainQuery(
        method,
        f"{scheme}://127.0.0.1:8080{path}",
        scheme,
        "127.0.0.1",
        8080,
        path,
        tuple((k.replace("_", "-"), v) for k, v in fields.items()),
    )
    story = explanation.explain(asked, made)
    try:
        story.send(None)
    except StopIteration as done:
        view: ExplainView = done.value
        return view
    raise AssertionError("it waited")


def routing(view: ExplainView) -> list[tuple[str, bool]]:
    return [(s.what, s.matched) for s in view.steps if s.stage == "route"]


def test_every_match_is_told_with_its_first_failure() -> None:
    made = parts(
        route(
            rule(exact("/a"), {**prefix("/b"), **headers(x="1")}, to="v1", name="first"),
            rule(to="v2", name="rest"),
        )
    )
    told = ask(made, "/b/c", x="2")
    name = "routes.yaml:1: HTTPRoute shop/r rules"
    assert routing(told) == [
        (f"{name}[0].matches[0]: path is /a, but the path is /b/c", False),
        (f"{name}[0].matches[1]: header x is 1, but header x is 2", False),
        (f"{name}[1].matches[0]: matches, and is the first that does", True),
        ("rule rest: backendRefs[0] shop/v2:80", True),
    ]
    assert (told.outcome, told.service, told.backend) == ("proxied", "shop/web", "shop/v2:80")
    assert told.route == "rest"


def test_no_rule_matches() -> None:
    told = ask(parts(route(rule(exact("/a")))), "/b")
    assert (told.outcome, told.status, told.flags) == ("refused", 404, "NR")


@pytest.mark.parametrize(
    ("refs", "status", "flags"),
    [
        ([{"name": "nobody", "port": 80}], 500, "NC"),
        ([{"name": "v2", "port": 81}], 500, "NC"),
        ([{"name": "v1", "port": 80, "weight": 0}], 500, "NC"),
        ([], 500, "NC"),
        ([{"name": "none", "port": 80}], 503, "UH"),
    ],
)
def test_a_backend_that_gets_nothing(refs: list[Any], status: int, flags: str) -> None:
    told = ask(parts(route(rule(backendRefs=refs))))
    assert (told.outcome, told.status, told.flags) == ("refused", status, flags)


def test_a_redirect_is_an_answer() -> None:
    redirect = {"type": "RequestRedirect", "requestRedirect": {"hostname": "new.example"}}
    told = ask(parts(route(rule(to="", filters=[redirect], name="moved"))))
    assert (told.outcome, told.status) == ("answered", 302)
    assert told.summary == "302 Found, by rule moved"
    assert not told.candidates


def test_settings_are_told_with_who_says_so() -> None:
    policy = {
        "apiVersion": "nodeproxy.dev/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {
            "targetRefs": [
                {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "r"}
            ],
            "timeouts": {"backendRequest": "2s"},
            "retry": {"maxBackoff": "1s"},
        },
    }
    made = parts(
        route(rule(timeouts={"request": "5s"}, retry={"codes": [503], "attempts": 2})), policy
    )
    told = {s.name: (s.value, s.origin) for s in ask(made).settings}
    assert told["timeouts.request"] == ("5s", "routes.yaml:1")
    by_policy = told["timeouts.backendRequest"]
    assert by_policy[0] == "2s"
    assert by_policy[1].startswith("TrafficPolicy shop/p")
    assert told["retry.attempts"] == ("2", "routes.yaml:1")
    assert told["retry.codes"] == ("503", "routes.yaml:1")
    assert told["retry.maxBackoff"][0] == "1s"
    assert told["retry.maxBackoff"][1].startswith("TrafficPolicy shop/p")
    assert told["traffic.balance"][1] == "default"


def test_a_tcp_route_takes_connections() -> None:
    made = parts(route({"backendRefs": [{"name": "v1", "port": 80}]}, kind="TCPRoute"))
    told = ask(made, scheme="tcp")
    assert (told.outcome, told.protocol, told.backend) == ("proxied", "tcp", "shop/v1:80")
    gone = parts(route({"backendRefs": [{"name": "nobody", "port": 80}]}, kind="TCPRoute"))
    told = ask(gone, scheme="tcp")
    assert (told.outcome, told.status, told.flags) == ("refused", 0, "NC")


def test_what_is_no_request() -> None:
    told = ask(parts(route(rule())), "/a b")
    assert (told.outcome, told.status) == ("refused", 400)


# -- it is what happens -----------------------------------------------------------------------

BACKENDS = st.lists(
    st.builds(
        lambda name, weight: {"name": name, "port": 80, "weight": weight},
        st.sampled_from(["v1", "v2", "nobody", "none"]),
        st.integers(0, 3),
    ),
    max_size=3,
)
FILTERS = st.sampled_from(
    [
        [],
        [],
        [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}],
        [{"type": "ExtensionRef", "extensionRef": {"group": "g", "kind": "K", "name": "n"}}],
        [{"type": "CORS", "cors": {"allowOrigins": ["*"]}}],
    ]
)
REDIRECT = {"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}
MATCHES = st.lists(
    st.sampled_from(
        [exact("/a"), prefix("/a"), prefix("/"), headers(x="1"), query(q="1"), {"method": "PUT"}]
    ),
    min_size=1,
    max_size=2,
)
RULES = st.one_of(
    st.builds(lambda m, b, f: rule(*m, backendRefs=b, filters=f), MATCHES, BACKENDS, FILTERS),
    MATCHES.map(lambda m: rule(*m, to="", filters=[REDIRECT])),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(RULES, min_size=1, max_size=5),
    st.sampled_from(["/", "/a", "/a/b", "/a?q=1", "/b?q=2"]),
    st.sampled_from(["GET", "PUT", "OPTIONS"]),
    st.sampled_from([{}, {"x": "1"}]),
    st.integers(0, 2**32),
)
def test_it_says_what_happens(
    rules: list[Any], path: str, method: str, fields: dict[str, str], seed: int
) -> None:
    made = parts(route(*rules))
    random.seed(seed)
    told = ask(made, path, method, **fields)
    # What traffic does, with the same numbers drawn.
    drawn = random.Random(seed).random()
    lines = "".join(f"{k}: {v}\r\n" for k, v in fields.items())
    head = parse_request(
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n{lines}\r\n".encode()
    )
    assert head is not None
    found = made.node.routes.find("shop/web", 80)
    assert found is not None
    assert found.http is not None
    decision = found.http.match(head)
    if decision is None:
        assert (told.outcome, told.status, told.flags) == ("refused", 404, RouteNotFound.flag)
        return
    assert told.route == decision.rule.label
    refusal: ProxyError | None = None
    try:
        taken = way(decision, head, made.registries.catalog, drawn, 80)
    except ProxyError as error:
        refusal = error
    if refusal is not None:
        assert (told.outcome, told.status, told.flags) == ("refused", refusal.status, refusal.flag)
        return
    if taken.answer is not None:
        assert (told.outcome, told.status) == ("answered", int(taken.answer[9:12]))
        return
    assert taken.backend is not None
    assert told.backend == taken.backend.label
    if taken.backend.service == "shop/none":
        assert (told.outcome, told.status, told.flags) == ("refused", 503, "UH")
    else:
        assert told.outcome == "proxied"
