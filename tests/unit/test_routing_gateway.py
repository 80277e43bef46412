"""Gateways: what is refused, listeners that are not served, warnings and differences."""

from __future__ import annotations

from typing import Any

import pytest

from nodeproxy.core.routing.diff import diff
from nodeproxy.core.routing.validate import warnings
from tests.unit.routing_samples import (
    CATALOG,
    load,
    prefix,
    problems_of,
    route,
    rule,
    table,
)

FILE = {"certificateRefs": [{"group": "nodeproxy.dev", "kind": "File", "name": "edge.pem"}]}


def gateway(*listeners: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "shop"},
        "spec": {"gatewayClassName": "nodeproxy", "listeners": list(listeners)},
    }


def listener(name: str = "http", port: int = 80, **more: Any) -> dict[str, Any]:
    return {"name": name, "port": port, "protocol": "HTTP", **more}


def at(*rules: dict[str, Any], name: str = "r", **more: Any) -> dict[str, Any]:
    return route(*(rules or (rule(),)), name=name, parents=[{"name": "edge"}], **more)


@pytest.mark.parametrize(
    ("made", "field", "words"),
    [
        (gateway(), "spec.listeners", ">= 1"),
        (gateway(listener(), listener(port=81)), "spec.listeners[1].name", "another listener"),
        (gateway(listener(tls=FILE)), "spec.listeners[0].tls", "does not belong"),
        (
            gateway(listener(protocol="TCP", hostname="a.io")),
            "spec.listeners[0].hostname",
            "does not belong",
        ),
        (gateway(listener(protocol="HTTPS")), "spec.listeners[0]", "needs 'tls'"),
        (
            gateway(listener(protocol="HTTPS", tls={"mode": "Passthrough"})),
            "spec.listeners[0].tls.mode",
            "write protocol: TLS",
        ),
        (
            gateway(listener(protocol="TLS", tls={"mode": "Terminate"})),
            "spec.listeners[0].tls",
            "certificateRefs is needed",
        ),
        (
            gateway(
                listener(protocol="HTTPS", tls={"certificateRefs": [{"kind": "File", "name": "x"}]})
            ),
            "spec.listeners[0].tls.certificateRefs[0]",
            "write group: nodeproxy.dev",
        ),
        (
            gateway(listener(allowedRoutes={"namespaces": {"from": "Selector"}})),
            "spec.listeners[0].allowedRoutes.namespaces",
            "go together",
        ),
        (gateway(listener(protocol="http")), "spec.listeners[0].protocol", "did you mean"),
        (gateway(listener(hostname="*")), "spec.listeners[0].hostname", "must"),
        (gateway(listener(hostname="A.io")), "spec.listeners[0].hostname", "must"),
    ],
)
def test_refused(made: dict[str, Any], field: str, words: str) -> None:
    found = problems_of(made)
    assert any(f.startswith(f"{field}: ") for f in found), found
    if words != "did you mean":
        assert any(words in f for f in found), found


def test_listeners_that_cannot_be_told_apart_are_not_served() -> None:
    objects = [
        gateway(
            listener("one"),
            listener("two"),
            listener("tcp", protocol="TCP"),
            listener("host", hostname="a.io"),
        ),
        at(),
    ]
    served = table(*objects).gateways["shop/edge"].ports[80]
    assert [each.name for each in served] == ["host", "one"]
    found = [p.message for p in warnings(load(*objects), CATALOG)]
    assert [f.partition(": ")[2] for f in found] == [
        "the listener two is not served (Conflicted): one has the same port and hostname",
        "the listener tcp is not served (Conflicted): one has the same port and hostname",
    ]


def test_https_and_tls_may_share_a_port() -> None:
    objects = [
        gateway(
            listener("web", 443, protocol="HTTPS", hostname="a.io", tls=FILE),
            listener("raw", 443, protocol="TLS", hostname="b.io", tls={"mode": "Passthrough"}),
            listener("plain", 443, hostname="c.io"),
        )
    ]
    served = table(*objects).gateways["shop/edge"].ports[443]
    assert [each.name for each in served] == ["web", "raw"]


def test_secrets_cannot_be_read_from_files() -> None:
    made = gateway(
        listener(protocol="HTTPS", tls={"certificateRefs": [{"name": "edge"}]}),
    )
    (found,) = warnings(load(made), CATALOG)
    assert "the Secret edge can't be read from files (InvalidCertificateRef)" in found.message
    assert table(made).gateways["shop/edge"].ports[80][0].certificates == ()


@pytest.mark.parametrize(
    ("key", "operator", "values", "allowed"),
    [
        ("kubernetes.io/metadata.name", "In", ["shop"], True),
        ("kubernetes.io/metadata.name", "In", ["other"], False),
        ("kubernetes.io/metadata.name", "NotIn", ["shop"], False),
        ("kubernetes.io/metadata.name", "Exists", [], True),
        ("team", "Exists", [], False),
        ("team", "DoesNotExist", [], True),
    ],
)
def test_namespaces_by_selector(key: str, operator: str, values: list[str], allowed: bool) -> None:
    expression = {"key": key, "operator": operator, "values": values}
    namespaces = {"from": "Selector", "selector": {"matchExpressions": [expression]}}
    made = table(gateway(listener(allowedRoutes={"namespaces": namespaces})), at())
    http = made.gateways["shop/edge"].ports[80][0].http
    assert http is not None
    assert bool(http.other.candidates) is allowed


def test_shadows_are_seen_for_each_hostname() -> None:
    edge = gateway(listener())
    twice = [
        at(rule(prefix("/a")), hostnames=["a.io", "*.b.io"]),
        at(rule(prefix("/a")), name="s", hostnames=["a.io"]),
    ]
    (found,) = warnings(load(edge, *twice), CATALOG)
    assert "HTTPRoute shop/s: never matches: HTTPRoute shop/r" in found.message
    wider = at(rule(prefix("/a")), name="s", hostnames=["a.io", "c.io"])
    assert warnings(load(edge, twice[0], wider), CATALOG) == []


def test_differences_at_gateways() -> None:
    edge = gateway(listener(), listener("db", 5432, protocol="TCP"))
    tcp = route(
        {"backendRefs": [{"name": "v1", "port": 80}]},
        kind="TCPRoute",
        name="db",
        parents=[{"name": "edge", "sectionName": "db"}],
    )
    old = load(edge, at(hostnames=["a.io"]))
    new = load(edge, at(hostnames=["*.a.io"]), tcp)
    assert [str(d) for d in diff(old, new, CATALOG)] == [
        "+ Gateway shop/edge/http at *.a.io: HTTPRoute shop/r rules[0].matches[0] added: "
        "path begins with / -> shop/v1:80",
        "- Gateway shop/edge/http at a.io: HTTPRoute shop/r rules[0].matches[0] removed: "
        "path begins with /",
        "~ Gateway shop/edge/db: TCP rules changed: 5432 becomes 5432 TCPRoute shop/db -> "
        "shop/v1:80",
    ]
