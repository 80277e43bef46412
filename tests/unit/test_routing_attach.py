"""Attachment (gateway-api 4.1): producer and consumer routes, ports, kinds, Gateways."""

from __future__ import annotations

from typing import Any

import pytest

from nodeproxy.core.errors import InvalidBackend
from nodeproxy.core.routing.attach import hostnames_meet
from nodeproxy.core.routing.backends import target as find_backend
from nodeproxy.core.routing.backends import unresolved
from nodeproxy.core.routing.compile import Compiler, run
from nodeproxy.core.routing.rules import Backend
from nodeproxy.core.routing.table import HostRules, ListenerRules, RouteTable
from nodeproxy.core.routing.validate import RouteStatus, statuses
from registry.catalog import Merger
from registry.model import Port, Service
from tests.unit.routing_samples import (
    CATALOG,
    catalog,
    exact,
    http,
    load,
    parent,
    prefix,
    request,
    route,
    rule,
    table,
    target,
)


def status_of(*objects: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Route name -> reasons of Accepted and ResolvedRefs at its first parent."""

    def reasons(status: RouteStatus) -> tuple[str, str]:
        accepted, resolved = status.parents[0].conditions
        assert accepted.status is (accepted.reason == "Accepted")
        assert resolved.status is (resolved.reason == "ResolvedRefs")
        return accepted.reason, resolved.reason

    return {s.route.name: reasons(s) for s in statuses(load(*objects), CATALOG)}


@pytest.mark.parametrize(
    ("ref", "ports"),
    [
        pytest.param({}, {80, 81}, id="port-unset-is-all-ports"),
        pytest.param({"port": 81}, {81}, id="port-set-is-only-that-port"),
        pytest.param({"sectionName": "http"}, {80}, id="sectionName-is-the-port-name"),
        pytest.param({"sectionName": "alt", "port": 81}, {81}, id="both-must-match"),
        pytest.param({"sectionName": "http", "port": 81}, set(), id="both-must-match-not"),
        pytest.param({"port": 9}, set(), id="no-such-port"),
    ],
)
def test_ports(ref: dict[str, Any], ports: set[int]) -> None:
    made = route(rule(), parents=[parent(**ref)])
    assert {p for p in (80, 81, 9) if table(made).find("shop/web", p)} == ports
    assert status_of(made)["r"][0] == ("Accepted" if ports else "NoMatchingParent")


def test_producer_routes_are_for_all_consumer_routes_for_their_namespace() -> None:
    producer = route(rule(), rule(exact("/producer"), to="v3"))
    consumer = route(
        rule(to="v1"),
        name="c",
        namespace="other",
        parents=[parent(namespace="shop")],
    )
    made = table(producer, consumer)

    def ask(client: str, path: str = "/") -> str:
        decision = http(made, client=client).match(request(path))
        assert decision is not None
        return decision.rule.backends.entries[0].service

    assert ask("") == ask("shop") == ask("third") == "shop/v1"
    assert ask("other") == "other/v1"
    # A consumer's routes replace the producer's, they are not merged with them.
    assert ask("other", "/producer") == "other/v1"
    assert ask("third", "/producer") == "shop/v3"
    alone = table(consumer)
    assert alone.find("shop/web", 80, "shop") is None
    assert alone.find("shop/web", 80, "other") is not None


def test_routes_of_one_group_are_merged_and_unmatched_is_404() -> None:
    rules = http(table(route(rule(exact("/a")), name="a"), route(rule(exact("/b")), name="b")))
    assert [target(rules, request(p)) for p in ("/a", "/b", "/c")] == ["v1", "v1", "404"]


def l4(kind: str, name: str, to: str = "v1", **spec: Any) -> dict[str, Any]:
    return route({"backendRefs": [{"name": to, "port": 80}]}, name=name, kind=kind, **spec)


@pytest.mark.parametrize(
    ("kinds", "winner"),
    [
        (("TCPRoute", "TLSRoute"), "TLSRoute"),
        (("TLSRoute", "HTTPRoute", "TCPRoute"), "HTTPRoute"),
        (("HTTPRoute", "GRPCRoute"), "GRPCRoute"),
        (("TCPRoute",), "TCPRoute"),
    ],
)
def test_one_kind_applies_to_a_port(kinds: tuple[str, ...], winner: str) -> None:
    objects = [
        route(rule(), name=kind.lower()) if kind == "HTTPRoute" else l4(kind, kind.lower())
        for kind in kinds
    ]
    found = table(*objects).find("shop/web", 80)
    assert found is not None
    assert found.kind == winner
    assert {name for name, (reason, _) in status_of(*objects).items() if reason == "Accepted"} == {
        winner.lower()
    }
    losers = {reason for reason, _ in status_of(*objects).values()} - {"Accepted"}
    assert losers <= {"Conflicted"}


def test_a_route_that_loses_one_port_keeps_the_other() -> None:
    objects = (l4("TCPRoute", "tcp"), route(rule(), parents=[parent(port=80)]))
    made = table(*objects)
    assert [made.find("shop/web", p).kind for p in (80, 81)] == [  # type: ignore[union-attr]
        "HTTPRoute",
        "TCPRoute",
    ]
    (tcp, _) = statuses(load(*objects), CATALOG)
    condition = tcp.parents[0].conditions[0]
    assert (condition.status, condition.reason) == (True, "Conflicted")


def test_tls_routes_by_server_name() -> None:
    made = table(
        l4("TLSRoute", "one", hostnames=["a.example.com"]),
        l4("TLSRoute", "two", to="v2", hostnames=["*.example.com"]),
        l4("TLSRoute", "deep", to="v3", hostnames=["*.b.example.com", "b.example.com"]),
    )
    found = made.find("shop/web", 80)
    assert found is not None
    assert found.tls is not None

    def ask(name: bytes) -> str:
        made = found.tls.match(name)  # type: ignore[union-attr]
        return made.backends.entries[0].service if made is not None else "none"

    assert ask(b"a.example.com") == ask(b"A.Example.COM") == "shop/v1"
    assert ask(b"x.a.example.com") == "shop/v2"
    assert ask(b"c.b.example.com") == ask(b"b.example.com") == "shop/v3"
    assert ask(b"example.com") == ask(b"") == ask(b"other") == "none"
    everything = table(l4("TLSRoute", "one")).find("shop/web", 80)
    assert everything is not None
    assert everything.tls is not None
    assert everything.tls.match(b"") is not None


def test_of_tcp_routes_the_oldest_takes_all() -> None:
    made = table(l4("TCPRoute", "b"), l4("TCPRoute", "a", to="v2"))
    found = made.find("shop/web", 80)
    assert found is not None
    assert found.tcp is not None
    assert (found.tcp.backends.entries[0].service, found.tcp.label) == ("shop/v2", "shop/a")


@pytest.mark.parametrize(
    ("refs", "reason"),
    [
        ([{"name": "v1", "port": 80}], "ResolvedRefs"),
        ([{"name": "nope", "port": 80}], "BackendNotFound"),
        ([{"name": "v1", "port": 8080}], "BackendNotFound"),
        ([{"kind": "Thing", "name": "v1", "port": 80}], "InvalidKind"),
        ([{"name": "v1", "namespace": "other", "port": 80}], "ResolvedRefs"),
    ],
)
def test_resolved_refs(refs: list[dict[str, Any]], reason: str) -> None:
    assert status_of(route(rule(backendRefs=refs)))["r"] == ("Accepted", reason)


def test_a_backend_is_found_in_the_catalog_or_answers_500() -> None:
    known = Merger(["x"]).apply(
        "x", [Service("shop/a", ports=(Port(80), Port(81, "grpc", "grpc")))], []
    )[0]
    assert find_backend(known, Backend("shop/a", 80)).port.port == 80
    assert unresolved(known, Backend("shop/a", 80)) == ("", "")
    for backend, reason in (
        (Backend("shop/b", 80), "BackendNotFound"),
        (Backend("shop/a", 82), "BackendNotFound"),
        (Backend("shop/a", 81), "UnsupportedProtocol"),
        (Backend("shop/a", 80, problem="no", reason="RefNotPermitted"), "RefNotPermitted"),
    ):
        assert unresolved(known, backend)[0] == reason
        with pytest.raises(InvalidBackend, match=reason):
            find_backend(known, backend)
    assert find_backend(known, Backend("shop/a", 81), http=False).port.name == "grpc"


def test_a_service_that_nobody_knows() -> None:
    assert status_of(route(rule(), parents=[parent("nope")]))["r"][0] == "NoMatchingParent"


# --- updates ---


def test_only_services_whose_ports_change_make_a_new_table() -> None:
    objects = load(route(rule()), route(rule(), name="v", parents=[parent("v1")]))
    compiler = Compiler(objects, 7)
    first = run(compiler.build(CATALOG))
    assert first.generation == 7
    assert run(compiler.update(first, CATALOG, ["shop/web", "shop/v2"])) is first
    less = catalog("shop/web:81:alt", "shop/v1")
    second = run(compiler.update(first, less, ["shop/web"]))
    assert (second.find("shop/web", 80), first.find("shop/web", 80) is None) == (None, False)
    assert second.find("shop/web", 81) is not None
    assert second.services["shop/v1"] is first.services["shop/v1"]
    gone = run(compiler.update(second, catalog("shop/v1"), ["shop/web"]))
    assert "shop/web" not in gone.services
    back = run(compiler.update(gone, CATALOG, ["shop/web"]))
    assert target(http(back), request()) == "v1"


# --- Gateways ---


def gateway(*listeners: dict[str, Any], namespace: str = "shop") -> dict[str, Any]:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": namespace},
        "spec": {"gatewayClassName": "nodeproxy", "listeners": list(listeners)},
    }


def listener(name: str = "http", port: int = 80, **more: Any) -> dict[str, Any]:
    return {"name": name, "port": port, "protocol": "HTTP", **more}


def at(*hosts: str, name: str = "r", to: str = "v1", **more: Any) -> dict[str, Any]:
    ref = {"name": "edge", **more.pop("ref", {})}
    if hosts:
        more["hostnames"] = list(hosts)
    return route(rule(*more.pop("matches", ()), to=to), name=name, parents=[ref], **more)


def listeners(made: RouteTable, host: bytes, port: int = 80) -> ListenerRules | None:
    return made.gateways["shop/edge"].listener(port, host)


def ask(made: RouteTable, host: str, path: str = "/", port: int = 80) -> str:
    found = listeners(made, host.encode(), port)
    if found is None:
        return "none"
    assert isinstance(found.http, HostRules)
    decision = found.http.match(request(path, host=host))
    if decision is None:
        return "404"
    return decision.rule.backends.entries[0].service.partition("/")[2]


def test_the_longest_hostname_goes_first() -> None:
    made = table(
        gateway(listener()),
        at(name="all", to="v3"),
        at("*.example.com", name="wild", to="v2"),
        at("www.example.com", name="exact", to="v1", matches=[prefix("/only")]),
        at("*.a.example.com", name="deep", to="v1"),
    )
    assert ask(made, "www.example.com", "/only") == "v1"
    # A request that matches no rule of the longest goes on to the next.
    assert ask(made, "www.example.com", "/else") == "v2"
    assert ask(made, "x.a.example.com") == "v1"
    assert ask(made, "example.com:80") == "v3"
    assert ask(made, "y.example.com:8080") == "v2"


def test_listeners_are_isolated_by_their_hostname() -> None:
    made = table(
        gateway(
            listener("empty"),
            listener("wild", hostname="*.example.com"),
            listener("foo", hostname="*.foo.example.com"),
            listener("abc", hostname="abc.foo.example.com"),
        ),
        *(
            at(name=n, ref={"sectionName": n}, matches=[prefix(f"/{n}")])
            for n in ("empty", "wild", "foo", "abc")
        ),
    )
    for host, own in (
        ("bar.com", "empty"),
        ("bar.example.com", "wild"),
        ("bar.foo.example.com", "foo"),
        ("abc.foo.example.com", "abc"),
    ):
        for name in ("empty", "wild", "foo", "abc"):
            assert ask(made, host, f"/{name}") == ("v1" if name == own else "404")


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("a.example.com", "a.example.com", True),
        ("a.example.com", "b.example.com", False),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("a.example.com", "*.example.com", True),
        ("*.example.com", "*.a.example.com", True),
        ("*.example.com", "*.example.org", False),
        ("*.wildcard.io", "awildcard.io", False),
    ],
)
def test_hostname_intersection(one: str, other: str, meet: bool) -> None:
    assert hostnames_meet(one, other) is hostnames_meet(other, one) is meet
    reason = status_of(gateway(listener(hostname=one)), at(other))["r"][0]
    assert reason == ("Accepted" if meet else "NoMatchingListenerHostname")


@pytest.mark.parametrize(
    ("allowed", "namespace", "reason"),
    [
        ({}, "shop", "Accepted"),
        ({}, "other", "NotAllowedByListeners"),
        ({"namespaces": {"from": "All"}}, "other", "Accepted"),
        ({"namespaces": {"from": "None"}}, "shop", "NotAllowedByListeners"),
        ({"kinds": [{"kind": "TCPRoute"}]}, "shop", "NotAllowedByListeners"),
        ({"kinds": [{"kind": "HTTPRoute"}]}, "shop", "Accepted"),
        (
            {
                "namespaces": {
                    "from": "Selector",
                    "selector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}},
                }
            },
            "other",
            "Accepted",
        ),
    ],
)
def test_allowed_routes(allowed: dict[str, Any], namespace: str, reason: str) -> None:
    made = at(namespace=namespace, ref={"namespace": "shop"})
    assert status_of(gateway(listener(allowedRoutes=allowed)), made)["r"][0] == reason


def test_parents_that_are_not_there() -> None:
    edge = gateway(listener())
    assert status_of(at())["r"][0] == "NoMatchingParent"
    assert status_of(edge, at(ref={"sectionName": "x"}))["r"][0] == "NoMatchingParent"
    assert status_of(edge, at(ref={"port": 81}))["r"][0] == "NoMatchingParent"
    assert status_of(edge, at(ref={"port": 80}))["r"][0] == "Accepted"


def grant(kind: str = "HTTPRoute", namespace: str = "shop", **to: Any) -> dict[str, Any]:
    source = {"group": "gateway.networking.k8s.io", "kind": kind, "namespace": namespace}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "g", "namespace": "other"},
        "spec": {"from": [source], "to": [{"group": "", "kind": "Service", **to}]},
    }


@pytest.mark.parametrize(
    ("grants", "reason"),
    [
        ([], "RefNotPermitted"),
        ([grant()], "ResolvedRefs"),
        ([grant(name="v1")], "ResolvedRefs"),
        ([grant(name="v9")], "RefNotPermitted"),
        ([grant(kind="TCPRoute")], "RefNotPermitted"),
        ([grant(namespace="third")], "RefNotPermitted"),
    ],
)
def test_reference_grants_for_routes_of_gateways(grants: list[Any], reason: str) -> None:
    made = route(
        rule(backendRefs=[{"name": "v1", "namespace": "other", "port": 80}]),
        parents=[{"name": "edge"}],
    )
    objects = (gateway(listener()), made, *grants)
    assert status_of(*objects)["r"][1] == reason
    found = listeners(table(*objects), b"any")
    assert found is not None
    assert found.http is not None
    decision = found.http.match(request())
    assert decision is not None
    assert bool(decision.rule.backends.entries[0].problem) is (reason == "RefNotPermitted")


def test_tls_listeners_name_their_files() -> None:
    tls = {"certificateRefs": [{"group": "nodeproxy.dev", "kind": "File", "name": "tls/edge"}]}
    made = table(
        gateway(
            listener("https", 443, protocol="HTTPS", tls=tls),
            listener("pass", 8443, protocol="TLS", tls={"mode": "Passthrough"}),
        ),
        at(),
        l4("TLSRoute", "tls", parents=[{"name": "edge"}], hostnames=["a.example.com"]),
    )
    https = listeners(made, b"x", 443)
    assert https is not None
    assert https.certificates[0].endswith("/tls/edge")
    assert https.certificates[0].startswith("/")
    passing = listeners(made, b"a.example.com", 8443)
    assert passing is not None
    assert passing.tls is not None
    assert passing.tls.match(b"a.example.com") is not None
    assert listeners(made, b"x", 444) is None
