"""The formats of the file registry: what each says about services, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from registry.file import wire
from registry.file.formats import read
from registry.file.fragment import Content, join
from registry.file.kubernetes import protocol_of
from registry.model import Endpoint, Locality, Port, Service
from registry.strict import DocumentError


def content(text: str, source: str = "services.yaml") -> Content:
    return read(text, source)


def services(text: str, source: str = "services.yaml") -> dict[str, Service]:
    found = content(text, source)
    assert [str(p) for p in found.problems] == []
    return {f.service.name: join([f]) for f in found.fragments}


def test_the_short_form() -> None:
    text = """\
services:
- name: shop/web
  vips: [10.96.0.10, "2001:DB8::10"]
  ports:
  - {name: http, port: 80, protocol: http}
  - {name: admin, port: 81}
  labels: {team: a}
  endpoints:
  - {address: 10.244.1.11, port: 8080, zone: zone-1, labels: {version: v1}, port_name: http}
  - 10.244.2.12:8080
  - "[2001:db8::1]:8080"
  - {address: 10.244.3.1, port: 8080, weight: 0, ready: false}
- name: plain
"""
    found = services(text)
    assert found["shop/web"] == Service(
        "shop/web",
        ("10.96.0.10", "2001:db8::10"),
        (Port(80, "http", "http"), Port(81, "admin")),
        (
            Endpoint(
                "10.244.1.11",
                8080,
                "http",
                locality=Locality(zone="zone-1"),
                labels=(("version", "v1"),),
            ),
            Endpoint("10.244.2.12", 8080),
            Endpoint("2001:db8::1", 8080),
            Endpoint("10.244.3.1", 8080, weight=0, ready=False, serving=False),
        ),
        (("team", "a"),),
        "services.yaml",
    )
    assert found["default/plain"].endpoints == ()
    assert services("services: []") == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {name: a, vips: [web]}", "services[1].vips[0]: 'web' is not an IP address"),
        ("- {name: a, endpoints: ['web:80']}", "names are not resolved"),
        ("- {name: a, endpoints: [{address: web, port: 80}]}", "'web' is not an IP address"),
        ("- {name: a, endpoints: ['2001:db8::1:80']}", "in brackets"),
        ("- {name: a, ports: [{port: 80}, {port: 80}]}", "the port 80 stands twice"),
        ("- {name: a, ports: [{port: 80}, {port: 81}]}", "different names"),
        (
            "- {name: a, ports: [{port: 80, name: http}],"
            " endpoints: [{address: 10.0.0.1, port: 1, port_name: htp}]}",
            "no port is called 'htp'; did you mean 'http'?",
        ),
        ("- {name: a, endpionts: []}", "did you mean 'endpoints'?"),
        ("- {name: a/b/c}", "services[1].name: 'a/b/c' is not a service name"),
        ("- {name: a}\n- {name: default/a}", "stands twice"),
    ],
)
def test_a_wrong_entry_is_named_and_harms_no_other(text: str, words: str) -> None:
    found = content(f"services:\n- name: good\n{text}\n")
    assert any(words in str(p) for p in found.problems), found.problems
    assert [f.service.name for f in found.fragments] == ["default/good"]
    assert len(found.unreadable) == 1
    assert not found.partial


@pytest.mark.parametrize("entry", ["- 7", "- {nme: a}", "- {name: [a]}"])
def test_an_entry_without_a_name_makes_the_content_partial(entry: str) -> None:
    found = content(f"services:\n- name: good\n{entry}\n")
    assert found.partial
    assert found.problems[0].line == 3
    assert len(found.fragments) == 1


@pytest.mark.parametrize("text", ["servces: []", "a", "{}", "kind: Service", "7"])
def test_a_document_that_is_none_of_the_formats_is_refused(text: str) -> None:
    with pytest.raises(DocumentError):
        content(text)


def test_an_empty_file_is_told() -> None:
    assert "the file is empty" in str(content("# nothing\n").problems[0])


KUBERNETES = """\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: shop, uid: x, labels: {app: web}, creationTimestamp: null}
  spec:
    clusterIP: 10.96.0.10
    clusterIPs: [10.96.0.10, 2001:db8::10]
    type: ClusterIP
    selector: {app: web}
    ports:
    - {name: http, port: 80, protocol: TCP, targetPort: 8080}
    - {name: rpc, port: 90, appProtocol: kubernetes.io/h2c}
    - {name: dns, port: 53, protocol: UDP}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  ports:
  - {name: http, port: 8080, protocol: TCP}
  - {name: dns, port: 53, protocol: UDP}
  - {name: rpc}
  endpoints:
  - addresses: [10.244.1.11, 10.9.9.9]
    nodeName: node-a
    zone: zone-1
  - addresses: [10.244.1.12]
    conditions: {ready: false, serving: true, terminating: true}
  - addresses: [10.244.1.13]
    conditions: {ready: false}
"""


def test_kubernetes_objects() -> None:
    found = services(KUBERNETES)["shop/web"]
    assert found.vips == ("10.96.0.10", "2001:db8::10")
    assert found.ports == (Port(80, "http", "http"), Port(90, "rpc", "http2"))
    assert found.labels == (("app", "web"),)
    by_key = {e.key: e for e in found.endpoints}
    assert len(by_key) == 6
    first = by_key["10.244.1.11", 8080, "http"]
    assert first.locality == Locality("", "zone-1", "node-a")
    assert (first.ready, first.serving, first.terminating) == (True, True, False)
    # A slice port without a number is every port's own number.
    assert ("10.244.1.11", 90, "rpc") in by_key
    second = by_key["10.244.1.12", 8080, "http"]
    assert (second.ready, second.serving, second.terminating) == (False, True, True)
    third = by_key["10.244.1.13", 8080, "http"]
    assert (third.ready, third.serving, third.terminating) == (False, False, False)


def slice_of(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        **fields,
    }


def documents(*values: dict[str, Any]) -> str:
    return yaml.safe_dump_all(values)


def test_slices_are_merged_and_the_fitter_of_two_equal_endpoints_wins() -> None:
    address = {"addresses": ["10.0.0.1"]}
    found = services(
        documents(
            slice_of("a", endpoints=[{**address, "conditions": {"ready": False}}]),
            slice_of("b", endpoints=[address, {"addresses": ["10.0.0.2"]}]),
            slice_of("c", ports=[{"name": "http", "port": 9090}], endpoints=[address]),
            slice_of("d", addressType="FQDN", endpoints=[{"addresses": ["web.example"]}]),
            slice_of("e", endpoints=None, ports=None),
        )
    )["default/web"]
    assert [(e.key, e.ready) for e in found.endpoints] == [
        (("10.0.0.1", 8080, "http"), True),
        (("10.0.0.2", 8080, "http"), True),
        (("10.0.0.1", 9090, "http"), True),
    ]


def service_of(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}


def test_services_that_are_not_ours_and_headless_ones() -> None:
    port = [{"port": 80}]
    assert services(documents(service_of(type="ExternalName", externalName="x.example"))) == {}
    other = service_of(clusterIP="10.96.0.1", ports=port)
    other["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "cilium"}
    assert services(documents(other)) == {}
    other["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "nodeproxy"}
    assert services(documents(other))["default/web"].vips == ("10.96.0.1",)
    for spec in ({"clusterIP": "None"}, {"clusterIP": ""}, {}):
        headless = services(documents(service_of(ports=port, **spec)))["default/web"]
        assert headless.vips == ()
        assert headless.ports == (Port(80),)
    assert services(documents({"apiVersion": "apps/v1", "kind": "Deployment"})) == {}
    listed = {"apiVersion": "v1", "kind": "ServiceList", "items": [service_of(ports=port)]}
    del listed["items"][0]["kind"]
    assert set(services(documents(listed))) == {"default/web"}


def test_wrong_kubernetes_objects_are_told_and_others_stay() -> None:
    good = service_of(clusterIP="10.96.0.1", ports=[{"port": 80}])
    nowhere = slice_of("x", metadata={"name": "x"})
    local = slice_of("y", endpoints=[{"addresses": ["127.0.0.1"]}, {"addresses": ["10.0.0.1"]}])
    old = {"apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice"}
    found = content(documents(good, nowhere, local, old))
    text = " ".join(str(p) for p in found.problems)
    for words in ("service-name is missing", "127.0.0.1 is an address of the node", "v1beta1"):
        assert words in text
    assert [e.address for e in join(found.fragments[:1]).endpoints] == ["10.0.0.1"]
    found = content(documents(good, slice_of("x", endpoints=[{"addresses": []}])))
    assert found.unreadable == ("default/web",)
    found = content(documents(service_of(clusterIP="x"), {"apiVersion": "v1", "kind": "Service"}))
    assert found.unreadable == ("default/web",)
    assert found.partial


@pytest.mark.parametrize(
    ("app", "name", "protocol"),
    [
        (None, "http", "http"), (None, "http-api", "http"), (None, "grpc-web", "http"),
        (None, "grpc-x", "grpc"), (None, "https", "tls"), (None, "tls-x", "tls"),
        (None, "redis", "tcp"),
        (None, "mysql-0", "tcp"), (None, "web", ""), (None, None, ""), ("HTTP", "tcp", "http"),
        ("kubernetes.io/h2c", None, "http2"), ("kubernetes.io/wss", None, "tls"),
        ("example.com/odd", "http", ""), (None, "httpx", ""), (None, "http2-x", "http2"),
    ],
)  # fmt: skip
def test_protocols(app: str | None, name: str | None, protocol: str) -> None:
    assert protocol_of(app, name) == protocol


def test_prometheus_file_sd() -> None:
    text = """\
- targets: [10.0.0.1:9100, 10.0.0.2:9101]
  labels: {zone: z1, env: prod, __meta_x: y}
- targets: ["[2001:db8::1]:80"]
  labels: {job: web, namespace: shop}
"""
    found = services(text, "targets/node.yml")
    assert found["default/node"].ports == (Port(9100), Port(9101))
    assert found["default/node"].vips == ()
    assert found["default/node"].endpoints[0] == Endpoint(
        "10.0.0.1",
        9100,
        locality=Locality(zone="z1"),
        labels=(("env", "prod"), ("zone", "z1")),
    )
    assert found["shop/web"].endpoints[0].address == "2001:db8::1"
    bad = content(
        '[{"targets": ["host:80"], "labels": {"service": "a"}}, {"target": []}]', "x.json"
    )
    assert bad.unreadable == ("default/a",)
    assert bad.partial


# --- the wire between the parsing process and the loop ---


def job(tmp_path: Any, data: bytes, known: bytes = b"") -> wire.Job:
    (tmp_path / "services.yaml").write_bytes(data)
    return wire.Job(str(tmp_path / "services.yaml"), "s", len(data), known)


@given(st.data())
def test_frames_survive_any_cutting(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    text = b"services: [{name: a}, {name: b, endpoints: ['10.0.0.1:80']}]"
    stream = b"".join(wire.answer(job(tmp_path_factory.mktemp("x"), text)))
    splitter = wire.Splitter()
    frames: list[bytes] = []
    at = 0
    while at < len(stream):
        step = data.draw(st.integers(1, 80))
        frames += splitter.feed(stream[at : at + step])
        at += step
    assert splitter.clean
    head = wire.decode_head(frames[0])
    assert head.parts == len(frames) - 1 == 2
    part = wire.decode_part(frames[2])
    assert wire.decode_fragment(part.fragment).service.endpoints == (Endpoint("10.0.0.1", 80),)


def test_an_answer_tells_what_is_wrong_with_the_file(tmp_path: Any) -> None:
    def head(data: bytes, known: bytes = b"") -> wire.Head:
        frames = [
            f for a in wire.answer(job(tmp_path, data, known)) for f in wire.Splitter().feed(a)
        ]
        return wire.decode_head(frames[0])

    good = head(b"services: []")
    assert not good.bad
    assert head(b"services: []", good.digest) == wire.Head(good.digest)
    assert head(b"services: [").bad
    latin = head(b"a: b\nc: \xe4\n")
    assert latin.bad
    assert (latin.problems[0].line, latin.problems[0].source) == (2, "s")
    gone = next(iter(wire.Splitter().feed(next(wire.answer(wire.Job("/nonexistent", "s"))))))
    assert wire.decode_head(gone).gone
    with pytest.raises(ValueError, match="too large"):
        list(wire.Splitter().feed(b"\xff" * 8))
