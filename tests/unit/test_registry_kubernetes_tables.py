"""From the API server's JSON to services: single objects, and any sequence of lists and events."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.kubernetes import wire
from registry.kubernetes.tables import ServiceDecoder, Table, View, decode_slice
from registry.model import Endpoint, Locality, Port, Service
from tests.dataplane.kube_api import KubeApi
from tests.dataplane.kube_objects import endpoint_object, service_object, slice_object
from tests.dataplane.kube_rules import Query

# As `kubectl get --raw` prints them, with what nobody here reads.
SERVICE: dict[str, Any] = {
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "uid": "5f7a7a0c-8a1e-4c59-9b7b-0e3f6f1c2d11",
        "resourceVersion": "1204",
        "creationTimestamp": "2026-03-01T10:00:00Z",
        "labels": {"app": "web"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}\n"},
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:ports": {}}}}],
    },
    "spec": {
        "type": "LoadBalancer",
        "clusterIP": "10.96.0.10",
        "clusterIPs": ["10.96.0.10", "FD00:10:96::0A"],
        "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "PreferDualStack",
        "externalIPs": ["192.0.2.7"],
        "externalTrafficPolicy": "Cluster",
        "internalTrafficPolicy": "Cluster",
        "sessionAffinity": "None",
        "selector": {"app": "web"},
        "ports": [
            {"name": "http", "port": 80, "protocol": "TCP", "targetPort": "web", "nodePort": 30080},
            {"name": "rpc", "port": 90, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"},
            {"name": "dns", "port": 80, "protocol": "UDP", "targetPort": 53},
        ],
    },
    "status": {
        "loadBalancer": {
            "ingress": [
                {"ip": "198.51.100.1", "ipMode": "VIP"},
                {"ip": "198.51.100.2", "ipMode": "Proxy"},
                {"hostname": "lb.example.org"},
            ]
        }
    },
}
SLICE: dict[str, Any] = {
    "metadata": {
        "name": "web-abc12",
        "namespace": "shop",
        "generateName": "web-",
        "resourceVersion": "1300",
        "labels": {
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            "kubernetes.io/service-name": "web",
        },
        "ownerReferences": [{"kind": "Service", "name": "web", "controller": True}],
    },
    "addressType": "IPv4",
    "endpoints": [
        {
            "addresses": ["10.244.1.5"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": "node-1",
            "zone": "a",
            "targetRef": {"kind": "Pod", "name": "web-1", "namespace": "shop"},
        },
        {"addresses": ["10.244.1.6", "10.244.9.9"]},
        {
            "addresses": ["10.244.1.7"],
            "conditions": {"ready": False, "serving": True, "terminating": True},
            "hints": {"forZones": [{"name": "a"}]},
        },
        {"addresses": ["10.244.1.8"], "conditions": {"ready": False}},
        {"addresses": ["127.0.0.1"]},
    ],
    "ports": [
        {"name": "http", "port": 8080, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    ],
}


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value).encode())


def changed(value: dict[str, Any], part: str, **changes: Any) -> dict[str, Any]:
    return value | {part: value[part] | changes}


def test_a_service() -> None:
    entry = ServiceDecoder()(raw(SERVICE))

    assert entry.key == entry.service == "shop/web"
    assert entry.version == "1204"
    assert not entry.local
    assert entry.declared == Service(
        "shop/web",
        ("10.96.0.10", "fd00:10:96::a"),
        (Port(80, "http", "http"), Port(90, "rpc", "http2")),
        labels=(("app", "web"),),
        origin="Service shop/web",
    )


def test_other_addresses_of_a_service_are_taken_where_the_options_say_so() -> None:
    decode = ServiceDecoder(external_ips=True, load_balancer_ips=True)
    entry = decode(raw(SERVICE))
    assert entry.declared is not None
    assert entry.declared.vips[2:] == ("192.0.2.7", "198.51.100.1")

    # A firewall that only kube-proxy applies.
    guarded = changed(SERVICE, "spec", loadBalancerSourceRanges=["203.0.113.0/24"])
    entry = decode(raw(guarded))
    assert entry.declared is not None
    assert entry.declared.vips[2:] == ("192.0.2.7",)


@pytest.mark.parametrize(
    "service",
    [
        changed(SERVICE, "spec", type="ExternalName"),
        changed(SERVICE, "spec", clusterIP="None", clusterIPs=["None"]),
        changed(SERVICE, "spec", clusterIP="", clusterIPs=[]),
        changed(SERVICE, "metadata", labels={"service.kubernetes.io/service-proxy-name": "cilium"}),
    ],
    ids=["external name", "headless", "no address yet", "another proxy's"],
)
def test_services_that_are_not_ours(service: dict[str, Any]) -> None:
    entry = ServiceDecoder(external_ips=True)(raw(service))

    assert entry.declared is None
    assert not entry.problems


def test_a_slice() -> None:
    entry = decode_slice(raw(SLICE))

    assert (entry.key, entry.service, entry.version) == ("shop/web-abc12", "shop/web", "1300")
    assert entry.endpoints == (
        Endpoint("10.244.1.5", 8080, "http", locality=Locality("", "a", "node-1")),
        Endpoint("10.244.1.6", 8080, "http"),
        Endpoint("10.244.1.7", 8080, "http", ready=False, serving=True, terminating=True),
        Endpoint("10.244.1.8", 8080, "http", ready=False, serving=False),
    )
    (problem,) = entry.problems
    assert str(problem).startswith("EndpointSlice shop/web-abc12: endpoints[4]: 127.0.0.1")


def test_slices_of_names_and_of_nobody() -> None:
    assert decode_slice(raw(SLICE | {"addressType": "FQDN"})).endpoints == ()
    (problem,) = decode_slice(raw(changed(SLICE, "metadata", labels=None))).problems
    assert "kubernetes.io/service-name" in problem.message


# --- the view ---


class Mirror:
    """Tables and view as a back end has them, and what it would have published."""

    def __init__(self) -> None:
        self.view = View()
        self.services = Table("Service", ServiceDecoder(), self.view.service)
        self.slices = Table("EndpointSlice", decode_slice, self.view.slice)
        self.tables = {"services": self.services, "endpointslices": self.slices}
        self.published: dict[str, Service] = {}

    def put(self, resource: str, *objects: dict[str, Any]) -> None:
        for found in objects:
            self.tables[resource].event("ADDED", raw(found))

    def publish(self) -> dict[str, Service]:
        while self.view.dirty:
            name, _ = self.view.dirty.popitem()
            service = self.view.build(name)
            if service is None:
                self.published.pop(name, None)
            else:
                self.published[name] = service
        return self.published

    def list(self, api: KubeApi, resource: str, limit: int) -> None:
        """In pages, as the back end does it."""
        table = self.tables[resource]
        fresh = {}
        params = {"limit": str(limit)}
        while True:
            page = wire.page(api._list(Query(resource, "", params)))
            for item in page.items or ():
                entry = table.read(item)
                assert entry is not None
                fresh[entry.key] = entry
            if not page.metadata.continue_:
                break
            params = {"limit": str(limit), "continue": page.metadata.continue_}
        for _ in table.replace(fresh, page.metadata.version):
            pass

    def watch(self, api: KubeApi, resource: str, count: int, back: int = 0) -> bool:
        """Up to ``count`` events, some of them again; False for 410 Gone."""
        table = self.tables[resource]
        position = int(table.version)
        if position < api.compacted:
            return False
        position = max(position - back, api.compacted)
        for _, kind, found in api._since(position, Query(resource, "", {}))[:count]:
            table.event(kind, raw(found))
        return True


def slice_of(name: str, **changes: Any) -> dict[str, Any]:
    found = changed(SLICE, "metadata", name=name)
    return found | changes


def test_a_named_target_port_may_differ_from_slice_to_slice() -> None:
    mirror = Mirror()
    mirror.put("services", SERVICE)
    other = [{"name": "http", "port": 9090}]
    mirror.put("endpointslices", slice_of("a", endpoints=[{"addresses": ["10.0.0.1"]}]))
    mirror.put(
        "endpointslices", slice_of("b", endpoints=[{"addresses": ["10.0.0.2"]}], ports=other)
    )

    (service,) = mirror.publish().values()

    assert [(e.address, e.port) for e in service.endpoints] == [
        ("10.0.0.1", 8080),
        ("10.0.0.2", 9090),
    ]


def test_an_endpoint_that_moves_between_slices_is_one_endpoint() -> None:
    mirror = Mirror()
    mirror.put("services", SERVICE)
    gone = {"addresses": ["10.0.0.1"], "conditions": {"ready": False}}
    mirror.put("endpointslices", slice_of("a", endpoints=[gone]))
    mirror.put("endpointslices", slice_of("b", endpoints=[{"addresses": ["10.0.0.1"]}]))

    (service,) = mirror.publish().values()

    assert [(e.address, e.ready) for e in service.endpoints] == [("10.0.0.1", True)]


def test_a_port_without_a_number_serves_each_under_its_own() -> None:
    mirror = Mirror()
    mirror.put("services", SERVICE)
    found = slice_of("a", endpoints=[{"addresses": ["10.0.0.1"]}], ports=[{"name": ""}])
    mirror.put("endpointslices", found)

    (service,) = mirror.publish().values()

    assert [(e.port, e.port_name) for e in service.endpoints] == [(80, "http"), (90, "rpc")]


def test_what_becomes_unreadable_stays_as_it_was_and_is_told() -> None:
    mirror = Mirror()
    mirror.put("services", SERVICE)
    mirror.put("endpointslices", SLICE)
    before = dict(mirror.publish())

    mirror.put("services", changed(SERVICE, "metadata", resourceVersion="2000") | {"spec": 7})
    broken = changed(SLICE, "metadata", resourceVersion="2001") | {"addressType": None}
    mirror.put("endpointslices", broken)

    assert mirror.publish() == before
    problems = [*mirror.services.problems(), *mirror.slices.problems()]
    assert [p.source for p in problems] == ["Service shop/web", "EndpointSlice shop/web-abc12"]
    mirror.services.event("DELETED", raw(changed(SERVICE, "metadata", resourceVersion="2002")))
    assert mirror.publish() == {}
    assert not [*mirror.services.problems()]


def test_objects_without_a_name_are_counted_and_harm_nothing() -> None:
    mirror = Mirror()
    mirror.put("services", {"metadata": {}, "spec": {}}, {"metadata": 5}, SERVICE)

    assert len([*mirror.services.problems()]) == 2
    assert mirror.services.version == "1204"


def test_an_unknown_event_is_no_event() -> None:
    with pytest.raises(ValueError, match="unknown type 'PATCHED'"):
        Mirror().services.event("PATCHED", raw(SERVICE))


NAMES = st.sampled_from(["a/x", "a/y", "b/x"])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("service"), NAMES, st.integers(1, 3)),
        st.tuples(st.just("slice"), NAMES, st.integers(0, 3)),
        st.tuples(st.just("delete"), NAMES, st.sampled_from(["services", "endpointslices"])),
        st.tuples(
            st.just("watch"),
            st.sampled_from(["services", "endpointslices"]),
            st.tuples(st.integers(0, 4), st.integers(0, 5)),
        ),
        st.tuples(st.just("list"), st.sampled_from(["services", "endpointslices"]), st.just(2)),
        st.tuples(st.just("compact"), st.none(), st.none()),
        st.tuples(st.just("lose"), st.none(), st.none()),
        st.tuples(st.just("publish"), st.none(), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(OPERATIONS)
def test_any_sequence_ends_as_a_fresh_list(operations: list[tuple[str, Any, Any]]) -> None:
    api, mirror = KubeApi(), Mirror()
    for resource in mirror.tables:
        mirror.list(api, resource, 2)
    for kind, what, how in operations:
        if kind == "service":
            api.write("services", what, service_object(f"10.96.0.{how}"))
        elif kind == "slice":
            # One key, but each time another service's: slices may be relabelled.
            name = what.partition("/")[2] if how else "y"
            endpoints = [endpoint_object(f"10.0.0.{i + 1}") for i in range(how)]
            api.write("endpointslices", f"{what}-s", slice_object(name, *endpoints))
        elif kind == "delete":
            api.write(how, what if how == "services" else f"{what}-s", None)
        elif kind == "watch":
            mirror.watch(api, what, *how)
        elif kind == "list":
            mirror.list(api, what, how)
        elif kind == "compact":
            api.compact()
        elif kind == "lose":
            api.lose_etcd()
            for resource in mirror.tables:
                mirror.list(api, resource, 2)
        else:
            mirror.publish()

    fresh = Mirror()
    for resource in mirror.tables:
        if not mirror.watch(api, resource, 1000):
            mirror.list(api, resource, 2)
        fresh.list(api, resource, 500)
    # A service that once had a slice is published without one; a fresh list cannot know of it.
    assert {n: s for n, s in mirror.publish().items() if s.endpoints} == {
        n: s for n, s in fresh.publish().items() if s.endpoints
    }
    assert set(fresh.published) <= set(mirror.published)


# --- lines and versions ---


@given(st.lists(st.text(alphabet="a\u2028\x85\r {}", min_size=1), max_size=8), st.data())
def test_lines_end_with_lf_only_and_come_out_however_they_come_in(
    texts: list[str], data: st.DataObject
) -> None:
    wanted = [t.encode() for t in texts if t.encode().strip()]
    stream = b"".join(t.encode() + b"\n" for t in texts)
    lines = wire.Lines()
    got: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += lines.feed(stream[:size])
        stream = stream[size:]
    assert got == wanted


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_LINE", 10)
    with pytest.raises(ValueError, match="too long"):
        list(wire.Lines().feed(b"x" * 11))


@pytest.mark.parametrize(
    ("version", "than", "older"),
    [
        ("9", "10", True),
        ("10", "9", False),
        ("10", "10", False),
        ("a9", "b", False),
        ("", "1", False),
    ],
)
def test_versions_are_compared_where_they_are_numbers(version: str, than: str, older: bool) -> None:
    assert wire.is_older(version, than) is older
