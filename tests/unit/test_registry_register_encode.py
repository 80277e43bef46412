"""What is announced is read as the same endpoint of the same service."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.consul.wire import Rules, read_entry
from registry.etcd.options import LAYOUTS as ETCD
from registry.layouts.entry import Layout
from registry.layouts.shape import Shape
from registry.layouts.table import Table
from registry.model import Endpoint
from registry.register.encode import Instance, Written, consul_service, encode
from registry.zookeeper.options import LAYOUTS as ZOOKEEPER

WEB = Instance("default/web", "10.0.0.1", 8080, "node-a")
KINDS = [
    *(("etcd", ETCD[name], 0) for name in ("skydns", "grpc", "registrator")),
    *(("zookeeper", ZOOKEEPER[name], 1) for name in ZOOKEEPER),
    *(("zookeeper", ZOOKEEPER[name], 2) for name in ("nerve", "serverset", "curator")),
    ("zookeeper", ZOOKEEPER["serverset"], 3),
]
LABELS = {"grpc", "nerve", "curator", "registrator"}
WEIGHTS = {"skydns", "nerve"}


def read(layout: Layout, written: Written, namespace: str) -> tuple[str, list[Endpoint]]:
    """By the read side, from the key to the service."""
    shape = Shape(namespace=namespace, port=None, protocol="", services={})
    table = Table(layout, shape, "test")
    parts = (*written.parts[:-1], written.parts[-1] + "0000000007" * written.sequential)
    table.put("key", parts, written.value)
    assert not table.problems()
    (name,) = table.services()
    service = table.build(name)
    assert service is not None
    return service.name, list(service.endpoints)


names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
addresses = st.ip_addresses().map(str).filter(lambda a: "%" not in a and "::ffff:" not in a)


@pytest.mark.parametrize(("kind", "layout", "stars"), KINDS)
@settings(max_examples=25)
@given(
    name=names,
    space=names,
    other=st.booleans(),
    address=addresses,
    port=st.integers(1, 65535),
    node=names,
    weight=st.none() | st.integers(1, 65535),
    labels=st.dictionaries(names, st.text(max_size=20), max_size=3),
)
def test_it_is_read_as_it_was_meant(
    kind: str,
    layout: Layout,
    stars: int,
    name: str,
    space: str,
    other: bool,
    address: str,
    port: int,
    node: str,
    weight: int | None,
    labels: dict[str, str],
) -> None:
    spaced = stars > 1 or layout.kind == "grpc"
    space = f"{space}.eu" if stars == 3 else space
    namespace = "elsewhere" if spaced and other else space
    weight = weight if layout.kind in WEIGHTS else None
    labelled = layout.kind in LABELS and (kind, layout.kind) != ("etcd", "registrator")
    pairs = tuple(sorted(labels.items())) if labelled else ()
    one = Instance(f"{space}/{name}", address, port, node, weight, pairs)
    written = encode(kind, layout, one, namespace, stars)
    found, (endpoint,) = read(layout, written, namespace)
    assert found == one.service
    assert (endpoint.address, endpoint.port) == (address, port)
    assert endpoint.labels == pairs
    assert endpoint.weight == (1 if weight is None else weight)
    assert encode(kind, layout, one, namespace, stars) == written


def test_the_bytes_are_those_that_the_conventions_ask_for() -> None:
    def one(kind: str, layout: Layout, stars: int = 1, **more: Any) -> tuple[str, Any]:
        web = Instance("default/web", "10.0.0.1", 8080, "node-a", **more)
        written = encode(kind, layout, web, "default", stars)
        return "/".join(written.parts), written.value

    assert one("etcd", ETCD["skydns"], weight=5) == (
        "web/10-0-0-1-8080",
        b'{"host":"10.0.0.1","port":8080,"weight":5}',
    )
    assert one("etcd", ETCD["grpc"]) == (
        "web/10.0.0.1:8080",
        b'{"Op":0,"Addr":"10.0.0.1:8080"}',
    )
    assert one("etcd", ETCD["registrator"]) == ("web/node-a:web:8080", b"10.0.0.1:8080")
    assert one("zookeeper", ZOOKEEPER["nerve"], labels=(("az", "eu-1a"),)) == (
        "web/node-a_8080_",
        b'{"host":"10.0.0.1","port":8080,"name":"node-a","labels":{"az":"eu-1a"}}',
    )
    path, value = one("zookeeper", ZOOKEEPER["serverset"])
    assert path == "web/member_"
    assert json.loads(value)["serviceEndpoint"] == {"host": "10.0.0.1", "port": 8080}
    assert json.loads(value)["status"] == "ALIVE"


@pytest.mark.parametrize(
    ("kind", "layout", "stars", "change", "message"),
    [
        ("etcd", ETCD["skydns"], 0, {"service": "shop/web"}, "namespace of the registry"),
        ("etcd", ETCD["skydns"], 0, {"labels": (("a", "b"),)}, "skydns has no labels"),
        ("etcd", ETCD["grpc"], 0, {"weight": 3}, "grpc has no weights"),
        ("etcd", ETCD["skydns"], 0, {"weight": 0}, "cannot have the weight 0|no weights"),
        ("etcd", ETCD["traefik"], 0, {}, "traefik cannot be written; skydns, grpc, registrator"),
        ("etcd", ETCD["go-micro"], 0, {}, "cannot be written"),
        ("zookeeper", ZOOKEEPER["nerve"], 3, {}, "does not fit 3 stars"),
        ("zookeeper", ZOOKEEPER["nerve"], 1, {"service": "default/w\u00f6b"}, "cannot be part of"),
        ("zookeeper", ZOOKEEPER["nerve"], 1, {"node": "base64_3"}, "cannot be written"),
        ("zookeeper", ZOOKEEPER["nerve"], 1, {"node": "a/b"}, "slash"),
    ],
)
def test_what_would_be_lost_is_refused(
    kind: str, layout: Layout, stars: int, change: dict[str, Any], message: str
) -> None:
    fields = {name: getattr(WEB, name) for name in WEB.__struct_fields__} | change
    with pytest.raises(ValueError, match=message):
        encode(kind, layout, Instance(**fields), "default", stars)


def consul_entry(body: bytes, node_address: str) -> bytes:
    """What Consul makes of a registration."""
    said = json.loads(body)
    service = {
        "ID": said["ID"],
        "Service": said["Name"],
        "Address": said.get("Address", ""),
        "Port": said["Port"],
        "Tags": said["Tags"],
        "Meta": said["Meta"],
        "Weights": said.get("Weights", {"Passing": 1, "Warning": 1}),
    }
    checks = [{"CheckID": said["Check"]["CheckID"], "Status": said["Check"]["Status"]}]
    node = {"Node": "node-1", "Address": node_address, "Datacenter": "dc1"}
    return json.dumps({"Node": node, "Service": service, "Checks": checks}).encode()


@given(
    address=st.sampled_from(["", "10.0.0.1", "2001:db8::1"]),
    weight=st.none() | st.integers(1, 65535),
    labels=st.dictionaries(names, st.text(max_size=20), max_size=3),
)
def test_consul_reads_it_back(address: str, weight: int | None, labels: dict[str, str]) -> None:
    pairs = tuple(sorted({**labels, "tag.blue": "true"}.items()))
    one = Instance("shop/web", address, 8080, "node-a", weight, pairs)
    written = consul_service(one, "shop", 15)
    endpoint = read_entry(consul_entry(written.value, "10.9.9.9"), Rules(frozenset({"passing"})))
    assert endpoint is not None
    assert (endpoint.address, endpoint.port) == (address or "10.9.9.9", 8080)
    assert (endpoint.weight, endpoint.labels) == (weight or 1, pairs)
    assert written.parts == (json.loads(written.value)["ID"],)


def test_consul_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ValueError, match="namespace of the registry, default"):
        consul_service(Instance("shop/web", "", 80, "n"), "default", 15)
    with pytest.raises(ValueError, match="weight 0"):
        consul_service(Instance("shop/web", "", 80, "n", 0), "shop", 15)
