"""What is refused, and in which words: the limits of the Gateway API and our own."""

from __future__ import annotations

from typing import Any

import pytest

from nodeproxy.core.routing.objects import KINDS, Key
from nodeproxy.routes.reading import read
from registry.strict import DocumentError
from tests.unit.routing_samples import (
    exact,
    headers,
    load,
    parent,
    prefix,
    problems_of,
    query,
    read_all,
    regex,
    route,
    rule,
)


def filtered(kind: str, field: str, value: Any, **more: Any) -> dict[str, Any]:
    return rule(filters=[{"type": kind, field: value}], **more)


def redirect(**what: Any) -> dict[str, Any]:
    return rule(to="", filters=[{"type": "RequestRedirect", "requestRedirect": what}])


def rewrite(**path: Any) -> dict[str, Any]:
    return rule(prefix("/"), filters=[{"type": "URLRewrite", "urlRewrite": {"path": path}}])


MANY = [{"name": f"x{i}", "value": "1"} for i in range(17)]


@pytest.mark.parametrize(
    ("made", "field", "words"),
    [
        # limits
        pytest.param(route(*[rule()] * 17), "spec.rules", "<= 16", id="rules-16"),
        pytest.param(route(), "spec.rules", ">= 1", id="rules-1"),
        pytest.param(
            route(rule(*[prefix("/")] * 65)), "spec.rules[0].matches", "<= 64", id="matches-64"
        ),
        pytest.param(
            route(*[rule(*[prefix("/")] * 43)] * 3), "spec.rules", "at most 128", id="matches-128"
        ),
        pytest.param(
            route(rule(filters=[{"type": "RequestMirror"}] * 17)),
            "spec.rules[0].filters",
            "<= 16",
            id="filters-16",
        ),
        pytest.param(
            route(rule(backendRefs=[{"name": "a", "port": 80}] * 17)),
            "spec.rules[0].backendRefs",
            "<= 16",
            id="backendRefs-16",
        ),
        pytest.param(
            route(rule({"headers": MANY})), "spec.rules[0].matches[0].headers", "<= 16",
            id="headers-16",
        ),
        pytest.param(
            route(rule({"queryParams": MANY})), "spec.rules[0].matches[0].queryParams", "<= 16",
            id="queryParams-16",
        ),
        pytest.param(
            route(rule(), hostnames=[f"h{i}.io" for i in range(17)]), "spec.hostnames", "<= 16",
            id="hostnames-16",
        ),
        pytest.param(
            route(rule(exact("/" + "a" * 1024))), "spec.rules[0].matches[0].path.value", "<= 1024",
            id="path-1024",
        ),
        pytest.param(
            route(rule(headers(x="a" * 4097))), "spec.rules[0].matches[0].headers[0].value",
            "<= 4096", id="header-value-4096",
        ),
        pytest.param(
            route(rule(headers(x=""))), "spec.rules[0].matches[0].headers[0].value", ">= 1",
            id="header-value-1",
        ),
        pytest.param(
            route(rule(backendRefs=[{"name": "a", "port": 80, "weight": 1_000_001}])),
            "spec.rules[0].backendRefs[0].weight", "<= 1000000", id="weight",
        ),
        pytest.param(
            route(rule(to="v1", matches=[{"method": "get"}])),
            "spec.rules[0].matches[0].method", "'get' is none of GET", id="method-upper-case",
        ),
        # paths
        *(
            pytest.param(
                route(rule({"path": {"type": kind, "value": value}})),
                "spec.rules[0].matches[0].path.value",
                words,
                id=f"path-{value}",
            )
            for kind, value, words in (
                ("Exact", "abc", "must begin with a slash"),
                ("PathPrefix", "", "must begin with a slash"),
                ("PathPrefix", "/a//b", "'//'"),
                ("Exact", "/a/./b", "'/./'"),
                ("Exact", "/a/../b", "'/../'"),
                ("Exact", "/a%2fb", "'%2f'"),
                ("Exact", "/a%2Fb", "'%2F'"),
                ("Exact", "/a#b", "'#'"),
                ("Exact", "/a/..", "end with"),
                ("Exact", "/a/.", "end with"),
                ("Exact", "/a?b", "no path has"),
                ("RegularExpression", "(a", "not a regular expression"),
                ("RegularExpression", "/(a+)+", "repeat inside of a repeat"),
            )
        ),
        # parents
        pytest.param(
            route(rule(), parents=[{"kind": "Service", "name": "web"}]), "spec.parentRefs[0]",
            'write group: ""', id="service-needs-the-empty-group",
        ),
        pytest.param(
            route(rule(), parents=[{"group": "", "kind": "IPAddress", "name": "x"}]),
            "spec.parentRefs[0]", "can't be attached to a IPAddress", id="IPAddress-rejected",
        ),
        pytest.param(
            route(rule(), parents=[parent(), parent()]), "spec.parentRefs[1]", "twice",
            id="parent-twice",
        ),
        # rules
        pytest.param(
            route(rule(name="a"), rule(name="a")), "spec.rules[1].name", "another rule",
            id="rule-names-are-unique",
        ),
        pytest.param(
            route(rule(filters=[{"type": "RequestRedirect", "requestRedirect": {}}])),
            "spec.rules[0].backendRefs", "RequestRedirect", id="redirect-excludes-backendRefs",
        ),
        pytest.param(
            route(
                rule(
                    to="",
                    filters=[
                        {"type": "RequestRedirect", "requestRedirect": {}},
                        {"type": "URLRewrite", "urlRewrite": {}},
                    ],
                )
            ),
            "spec.rules[0].filters", "exclude", id="redirect-and-rewrite",
        ),
        pytest.param(
            route(
                rule(
                    filters=[
                        {"type": "RequestHeaderModifier", "requestHeaderModifier": {}},
                        {"type": "RequestHeaderModifier", "requestHeaderModifier": {}},
                    ]
                )
            ),
            "spec.rules[0].filters", "twice", id="filter-twice",
        ),
        pytest.param(
            route(rule(filters=[{"type": "URLRewrite"}])), "spec.rules[0].filters[0]",
            "needs 'urlRewrite'", id="filter-without-its-field",
        ),
        pytest.param(
            route(rule(filters=[{"type": "CORS", "cors": {}, "urlRewrite": {}}])),
            "spec.rules[0].filters[0].urlRewrite", "does not belong", id="filter-other-field",
        ),
        pytest.param(
            route(rewrite(type="ReplaceFullPath", replacePrefixMatch="/x")),
            "spec.rules[0].filters[0].urlRewrite.path", "needs 'replaceFullPath'",
            id="path-modifier-field",
        ),
        pytest.param(
            route(
                rule(
                    prefix("/a"),
                    prefix("/b"),
                    filters=[
                        {
                            "type": "URLRewrite",
                            "urlRewrite": {
                                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}
                            },
                        }
                    ],
                )
            ),
            "spec.rules[0].filters[0].urlRewrite.path", "exactly one match",
            id="ReplacePrefixMatch-needs-one-PathPrefix",
        ),
        pytest.param(
            route(
                filtered(
                    "RequestMirror",
                    "requestMirror",
                    {"backendRef": {"name": "a", "port": 1}, "percent": 1, "fraction":
                        {"numerator": 3, "denominator": 2}},
                )
            ),
            "spec.rules[0].filters[0].requestMirror", "exclude", id="percent-or-fraction",
        ),
        pytest.param(
            route(redirect(statusCode=304)),
            "spec.rules[0].filters[0].requestRedirect.statusCode", "304", id="redirect-status",
        ),
        pytest.param(
            route(redirect(scheme="ftp")),
            "spec.rules[0].filters[0].requestRedirect.scheme", "'ftp' is none of http, https",
            id="redirect-scheme",
        ),
        *(
            pytest.param(
                route(filtered("RequestHeaderModifier", "requestHeaderModifier", what)),
                field, words, id=name,
            )
            for what, field, words, name in (
                (
                    {"set": [{"name": "Transfer-Encoding", "value": "x"}]},
                    "spec.rules[0].filters[0].requestHeaderModifier.set[0]",
                    "frames the message",
                    "framing-is-not-ours",
                ),
                (
                    {"remove": ["host"]},
                    "spec.rules[0].filters[0].requestHeaderModifier.remove[0]",
                    "Host can only be set",
                    "host-not-removed",
                ),
                (
                    {"set": [{"name": "A", "value": "x"}], "remove": ["a"]},
                    "spec.rules[0].filters[0].requestHeaderModifier.remove[0]",
                    "named by 'set' already",
                    "one-action-a-name",
                ),
                (
                    {"set": [{"name": "A", "value": "x\r\ny: z"}]},
                    "spec.rules[0].filters[0].requestHeaderModifier.set[0].value",
                    "must",
                    "no-line-breaks-in-values",
                ),
            )
        ),
        pytest.param(
            route(filtered("CORS", "cors", {"allowOrigins": ["*", "https://a"]})),
            "spec.rules[0].filters[0].cors.allowOrigins", "stands alone", id="cors-star",
        ),
        pytest.param(
            route(rule(timeouts={"request": "1s", "backendRequest": "2s"})),
            "spec.rules[0].timeouts.backendRequest", "longer than request",
            id="backendRequest-at-most-request",
        ),
        pytest.param(
            route(rule(timeouts={"request": "1.5s"})), "spec.rules[0].timeouts.request",
            "not a duration", id="gep-2257-durations",
        ),
        pytest.param(
            route(rule(retry={"codes": [399]})), "spec.rules[0].retry.codes[0]", ">= 400",
            id="retry-codes-400-599",
        ),
        pytest.param(
            route(rule(retry={"attempts": 0})), "spec.rules[0].retry.attempts", ">= 1",
            id="retry-attempts-at-least-1",
        ),
        pytest.param(
            route(rule(sessionPersistence={"cookieConfig": {"lifetimeType": "Permanent"}})),
            "spec.rules[0].sessionPersistence", "absoluteTimeout",
            id="Permanent-needs-absoluteTimeout",
        ),
    ],
)  # fmt: skip
def test_refused(made: dict[str, Any], field: str, words: str) -> None:
    found = problems_of(made)
    assert any(f.startswith(f"{field}: ") and words in f for f in found), found


@pytest.mark.parametrize(
    "rules",
    [
        [rule(redirects) for redirects in ({},)],
        [rule(timeouts={"request": "0s", "backendRequest": "2s"})],
        [rule(exact("/a%20b"), prefix("/~x/@:1"), regex("/[0-9]+"))],
        [redirect(path={"type": "ReplaceFullPath", "replaceFullPath": "/x"})],
        [rule(to="", filters=[{"type": "RequestMirror", "requestMirror": {
            "backendRef": {"name": "v1", "port": 80}}}] * 2, backendRefs=[])],
        [rule(query(a="1"), name="a.b-c")],
        [rule({"headers": [{"name": "X", "value": "1"}, {"name": "x", "value": "2"}]})],
    ],
)  # fmt: skip
def test_accepted(rules: list[dict[str, Any]]) -> None:
    assert len(load(route(*rules))) == 1


def test_an_object_without_rules_has_the_default_rule() -> None:
    made = route()
    del made["spec"]["rules"]
    (one,) = load(made).all
    assert one.object.spec.rules[0].matches[0].path.value == "/"  # type: ignore[union-attr]


def test_all_problems_at_once_with_file_line_and_suggestion() -> None:
    text = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a, namespace: shop}
spec:
  parentRef: [{group: "", kind: Service, name: web}]
  rules:
    - matches:
        - path: {type: PathPrefx, value: /a}
      backendRefs: [{name: v1, prot: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoutes
metadata: {name: b}
---
apiVersion: gateway.networking.x-k8s.io/v1
kind: XBackendTrafficPolicy
metadata: {name: c}
spec: {targetRefs: [{group: "", kind: Service, name: web}]}
"""
    loaded, problems = read(text, "r.yaml")
    assert loaded == []
    assert [str(p) for p in problems] == [
        "r.yaml:5: spec.parentRef: unknown key 'parentRef'; did you mean 'parentRefs'?",
        "r.yaml:8: spec.rules[0].matches[0].path.type: 'PathPrefx' is none of Exact, PathPrefix, "
        "RegularExpression; did you mean 'PathPrefix'?",
        "r.yaml:9: spec.rules[0].backendRefs[0].prot: unknown key 'prot'; did you mean 'port'?",
        "r.yaml:12: kind: 'HTTPRoutes' is not read here; did you mean 'HTTPRoute'?",
        "r.yaml:15: apiVersion: 'gateway.networking.x-k8s.io/v1' is none of "
        "gateway.networking.x-k8s.io/v1alpha1; did you mean "
        "'gateway.networking.x-k8s.io/v1alpha1'?",
    ]


def test_what_kubectl_prints_is_read() -> None:
    text = """\
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: gateway.networking.k8s.io/v1
  kind: HTTPRoute
  metadata:
    annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
    creationTimestamp: "2026-05-01T10:00:00Z"
    generation: 2
    managedFields: [{manager: kubectl}]
    name: web
    namespace: shop
    resourceVersion: "123"
    uid: 6f0c1d5b
  spec:
    parentRefs: [{group: "", kind: Service, name: web}]
    rules:
    - backendRefs: [{group: "", kind: Service, name: v1, port: 80, weight: 1}]
      matches: [{path: {type: PathPrefix, value: /}}]
  status:
    parents: [{controllerName: x, conditions: [], parentRef: {name: web}}]
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: other}
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: other}
"""
    loaded, problems = read(text, "r.yaml")
    assert problems == []
    (one,) = loaded
    assert one.key == Key("HTTPRoute", "shop", "web")
    assert (one.origin, one.rule_lines) == ("r.yaml:5", (19,))
    assert one.object.status is None
    assert one.object.metadata.age[0] == 1777629600.0


def test_two_objects_with_one_name() -> None:
    made, problems = read_all(route(rule(name="one")), route(rule(name="two")))
    assert [str(p) for p in problems] == [
        "routes.yaml:3: metadata.name: HTTPRoute shop/r: stands twice; the one at routes.yaml:1 "
        "counts"
    ]
    assert made.all[0].object.spec.rules[0].name == "one"  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["a: [", "a: b: c"])
def test_what_is_no_yaml(text: str) -> None:
    with pytest.raises(DocumentError):
        read(text, "r.yaml")


@pytest.mark.parametrize("text", ["services: []", "- 1", "kind: HTTPRoute"])
def test_what_is_no_object(text: str) -> None:
    assert read(text, "r.yaml")[1][0].message.startswith("expected an object with apiVersion")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_strict(kind: str) -> None:
    version = {
        "TrafficPolicy": "nodeproxy.dev/v1alpha1",
        "XBackendTrafficPolicy": "gateway.networking.x-k8s.io/v1alpha1",
        "ReferenceGrant": "gateway.networking.k8s.io/v1beta1",
    }.get(kind, "gateway.networking.k8s.io/v1")
    made = {"apiVersion": version, "kind": kind, "metadata": {"name": "A_"}, "sepc": {}}
    found = problems_of(made)
    assert any("unknown key 'sepc'; did you mean 'spec'?" in f for f in found)
    assert any(f.startswith("metadata.name: ") for f in found)


def policy(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "nodeproxy.dev/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {"targetRefs": [parent()], **spec},
    }


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"faultInjection": {"abort": {"status": 500}}}, "'until' is missing"),
        ({"faultInjection": {"until": "2026-01-01T00:00:00Z"}}, "needs 'delay' or 'abort'"),
        ({"faultInjection": {"until": "tomorrow", "abort": {"status": 500}}}, "not a time"),
        ({"loadBalancing": {"algorithm": "Maglev"}}, "needs 'hashOn'"),
        ({"loadBalancing": {"algorithm": "Random", "hashOn": {"type": "Path"}}}, "only"),
        (
            {"loadBalancing": {"algorithm": "Maglev", "hashOn": {"type": "Header"}}},
            "need a name",
        ),
        ({"rateLimits": [{"by": "Header", "rate": {}}]}, "go together"),
        ({"timeouts": {"request": "1s", "backendRequest": "2s"}}, "longer"),
        ({"outlierDetection": {"baseEjection": "9s", "maxEjection": "1s"}}, "below"),
        ({"healthCheck": {"type": "TCP", "http": {}}}, "HTTP only"),
        ({"healthCheck": {"type": "TCP", "interval": "1s", "timeout": "2s"}}, "above"),
        ({"hedging": {"after": "0s"}}, "above 0"),
        ({"targetRefs": [{"group": "", "kind": "Servce", "name": "x"}]}, "did you mean 'Service'"),
        ({"targetRefs": [{"group": "x", "kind": "HTTPRoute", "name": "x"}]}, "write group"),
        ({"outlierDetection": {"consecutive5x": 1}}, "did you mean 'consecutive5xx'"),
    ],
)
def test_policies_are_checked(spec: dict[str, Any], words: str) -> None:
    found = problems_of(policy(**spec))
    assert any(words in f for f in found), found


def test_a_policy_with_every_field() -> None:
    made = policy(
        timeouts={"connect": "1s", "request": "5s", "backendRequest": "2s", "idle": "1h"},
        retry={
            "on": ["ConnectFailure", "5xx"], "codes": [503], "attempts": 2, "backoff": "25ms",
            "maxBackoff": "250ms", "bodyLimit": 65536,
        },
        loadBalancing={
            "algorithm": "RingHash", "hashOn": {"type": "Header", "name": "x-user"},
            "slowStart": {"window": "30s"}, "locality": {"prefer": "Zone"}, "panicPercent": 50,
            "subset": {"version": "v1"},
        },
        outlierDetection={
            "consecutive5xx": 5, "consecutiveGatewayFailures": 5, "baseEjection": "30s",
            "maxEjection": "5m", "maxEjectionPercent": 30, "successRate": {},
        },
        circuitBreaker={"maxConnections": 1, "maxPending": 2, "maxRequests": 3},
        healthCheck={"type": "HTTP", "http": {"path": "/ready"}},
        hedging={"after": "50ms"},
        rateLimits=[{"by": "Client", "rate": {"count": 5}, "burst": 3}],
        faultInjection={
            "until": "2027-01-01T00:00:00Z", "header": {"name": "x", "value": "1"},
            "delay": {"duration": "1s", "percent": 0.5}, "abort": {"status": 503, "percent": 10},
        },
        connections={"maxAge": "10m", "jitterPercent": 10, "idle": "1m"},
    )  # fmt: skip
    assert len(load(made)) == 1
