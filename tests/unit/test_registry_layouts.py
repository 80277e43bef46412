"""What deployments write into key-value stores, as they write it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.etcd.options import LAYOUTS as ETCD
from registry.layouts.entry import MAIN, Entry, Layout, Unusable
from registry.layouts.shape import PortOption, ServiceOption, Shape
from registry.layouts.table import MAX_PROBLEMS, Table
from registry.model import Endpoint, Port, Service
from registry.zookeeper.options import LAYOUTS as ZOOKEEPER

LAYOUTS: dict[str, Layout] = {f"etcd {k}": v for k, v in ETCD.items()}
LAYOUTS |= {f"zookeeper {k}": v for k, v in ZOOKEEPER.items()}


def in_name(value: Mapping[str, Any]) -> str:
    text = base64.urlsafe_b64encode(json.dumps(value).encode()).decode()
    return f"base64_{len(text)}_{text}_0000000007"


NERVE = {"host": "10.0.0.1", "port": 1234, "name": "i-1"}
TRAEFIK = "http/services/web/loadbalancer"

GOOD: list[tuple[str, str, str, str | None, Entry | None]] = [
    # Layout, key below the prefix, value, service, what the key says.
    (
        "etcd skydns",
        "local/skydns/x1",
        '{"host":"1.1.1.1","port":8080,"priority":10,"weight":20,"ttl":"60","group":"g1"}',
        "skydns.local",
        Entry((Endpoint("1.1.1.1", 8080),), weight=20, priority=10),
    ),
    (
        "etcd skydns",
        "web/host:web-1:80",
        '{"host":"2001:DB8::1","port":80}',
        "web",
        Entry((Endpoint("2001:db8::1", 80),), priority=10),
    ),
    (
        "etcd skydns",
        "web/a",
        '{"host":"1.1.1.1"}',
        "web",
        Entry((Endpoint("1.1.1.1", 0),), priority=10),
    ),
    ("etcd skydns", "web/t", '{"text":"hello"}', "web", None),
    ("etcd skydns", "web/mx", '{"host":"1.1.1.1","mail":true,"priority":10}', "web", None),
    ("etcd skydns", "arpa/in-addr/10/0/0/1", '{"host":"web.local"}', None, None),
    ("etcd skydns", "local/dns/ns/ns1", '{"host":"1.1.1.1"}', None, None),
    (
        "etcd grpc",
        "my-service/10.0.0.1:8080",
        '{"Op":0,"Addr":"10.0.0.1:8080","Metadata":null}',
        "my-service",
        Entry((Endpoint("10.0.0.1", 8080),)),
    ),
    (
        "etcd grpc",
        "eu/prod/web/lease-1",
        '{"Op":0,"Addr":"[2001:db8::1]:80","Metadata":{"zone":"a","canary":true,"x":[1]}}',
        "eu.prod/web",
        Entry((Endpoint("2001:db8::1", 80, labels=(("canary", "true"), ("zone", "a"))),)),
    ),
    ("etcd grpc", "web/x", '{"Op":1,"Addr":"10.0.0.1:8080"}', "web", None),
    (
        "etcd registrator",
        "web/host-1:web-1:8080",
        "10.0.0.1:8080",
        "web",
        Entry((Endpoint("10.0.0.1", 8080),)),
    ),
    (
        "etcd go-micro",
        "go.micro.srv.greeter/greeter-1a2b",
        '{"name":"go.micro.srv.greeter","version":"latest","metadata":null,"endpoints":[],"nodes":'
        '[{"id":"greeter-1a2b","address":"10.0.0.1:36841","metadata":{"transport":"http"}}]}',
        "go.micro.srv.greeter",
        Entry(
            (Endpoint("10.0.0.1", 36841, labels=(("transport", "http"), ("version", "latest"))),)
        ),
    ),
    (
        "etcd traefik",
        f"{TRAEFIK}/servers/0/url",
        "http://10.0.0.1:8080/",
        "web",
        Entry((Endpoint("10.0.0.1", 8080),), protocol="http", more="http/0"),
    ),
    (
        "etcd traefik",
        "HTTP/Services/Web/LoadBalancer/Servers/s1/URL",
        "https://[2001:db8::1]",
        "web",
        Entry((Endpoint("2001:db8::1", 443),), protocol="tls", more="http/s1"),
    ),
    ("etcd traefik", f"{TRAEFIK}/servers/0/weight", "3", "web", Entry(weight=3, more="http/0")),
    (
        "etcd traefik",
        "tcp/services/db/loadbalancer/servers/0/address",
        "10.0.0.1:5432",
        "db",
        Entry((Endpoint("10.0.0.1", 5432),), protocol="tcp", more="tcp/0"),
    ),
    ("etcd traefik", f"{TRAEFIK}/healthcheck/path", "/health", None, None),
    ("etcd traefik", "http/routers/web/rule", "Host(`web`)", None, None),
    (
        "zookeeper nerve",
        "web/i-1_0000000001",
        '{"host":"10.0.0.1","port":1234,"name":"i-1","weight":5,"labels":{"az":"eu-1a"}}',
        "web",
        Entry((Endpoint("10.0.0.1", 1234, labels=(("az", "eu-1a"),)),), weight=5),
    ),
    (
        "zookeeper nerve",
        "web/i-1_0000000001",
        '{"host":"10.0.0.1","port":"1234","name":"i-1","haproxy_server_options":"inter 2s backup"}',
        "web",
        Entry((Endpoint("10.0.0.1", 1234),), priority=1),
    ),
    ("zookeeper nerve", f"web/{in_name(NERVE)}", "", "web", Entry((Endpoint("10.0.0.1", 1234),))),
    (
        "zookeeper curator",
        "web/4a1c2b",
        '{"name":"web","id":"4a1c2b","address":"10.0.0.1","port":8080,"sslPort":8443,"payload":'
        '{"@class":"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance","id":"web:8080",'
        '"name":"web","metadata":{"version":"v1"}},"registrationTimeUTC":1700000000000,'
        '"serviceType":"DYNAMIC","uriSpec":{"parts":[{"value":"scheme","variable":true}]}}',
        "web",
        Entry(
            (
                Endpoint("10.0.0.1", 8080, MAIN, labels=(("version", "v1"),)),
                Endpoint("10.0.0.1", 8443, "ssl", labels=(("version", "v1"),)),
            )
        ),
    ),
    (
        "zookeeper curator",
        "web/1",
        '{"name":"web","id":"1","address":"10.0.0.1","port":8080,"enabled":false}',
        "web",
        Entry(),
    ),
    (
        "zookeeper registrator",
        "web/10.0.0.1:8080",
        '{"Name":"web","IP":"10.0.0.1","PublicPort":8080,"PrivatePort":80,"ContainerID":"abc",'
        '"Tags":["v1",""],"Attrs":{"zone":"a"}}',
        "web",
        Entry((Endpoint("10.0.0.1", 8080, labels=(("tag.v1", "true"), ("zone", "a"))),)),
    ),
    ("zookeeper serverset", "www/prod/web/lock", "", None, None),
]


@pytest.mark.parametrize(("layout", "key", "value", "service", "says"), GOOD)
def test_payloads(
    layout: str, key: str, value: str, service: str | None, says: Entry | None
) -> None:
    parts = key.split("/")
    assert LAYOUTS[layout].service(parts) == service
    if service is not None:
        assert LAYOUTS[layout].decode(parts, value.encode()) == says


BAD = [
    ("etcd skydns", "x1", '{"host":"1.1.1.1","port":1}', "prefix is too long"),
    ("etcd skydns", "web/x", '{"host":"web-1.example","port":1}', "not an IP address"),
    ("etcd skydns", "web/x", '{"host":"1.1.1.1","port":70000}', "70000 is not a port"),
    ("etcd skydns", "web/x", '{"host":["1.1.1.1"]}', "not of this layout"),
    ("etcd skydns", "we b/x", "{}", "cannot be part of a service's name"),
    ("etcd grpc", "x", '{"Op":0,"Addr":"10.0.0.1:8080"}', "prefix is too long"),
    ("etcd grpc", "web/x", '{"Op":0,"Addr":"10.0.0.1"}', "ADDRESS:PORT"),
    ("etcd grpc", "web/x", '{"Op":7,"Addr":"10.0.0.1:1"}', "7 is not an Op"),
    ("etcd grpc", "web/x", "nonsense", "not JSON: 'nonsense'"),
    ("etcd registrator", "web/a/b", "10.0.0.1:80", "not PREFIX/SERVICE/INSTANCE"),
    ("etcd registrator", "web/a", "10.0.0.1:" + "9" * 400, "not ADDRESS:PORT"),
    ("etcd registrator", "web/a", "\x00", "not ADDRESS:PORT"),
    ("etcd go-micro", "web/n", '{"nodes":[{"address":"a:1"}]}', "not an IP address"),
    ("etcd traefik", f"{TRAEFIK}/servers/0/url", "ftp://10.0.0.1/", "not an http"),
    ("etcd traefik", f"{TRAEFIK}/servers/0/url", "http://[1/", "not a URL"),
    ("etcd traefik", f"{TRAEFIK}/servers/0/url", "http://10.0.0.1:99999", "not a URL"),
    ("etcd traefik", f"{TRAEFIK}/servers/0/weight", "-1", "not a weight"),
    ("zookeeper nerve", "web/x_1", '{"port":1}', "not of this layout"),
    ("zookeeper nerve", "web/x_1", '{"host":"10.0.0.1","port":0}', "0 is not a port"),
    ("zookeeper nerve", "web/x_1", '{"host":"10.0.0.1","port":1,"weight":-3}', "not a weight"),
    ("zookeeper nerve", "web/base64_5_abcde_1", "", "holds no base64"),
    ("zookeeper nerve", "web/base64_9_abc_1", "", "holds 3 characters, not 9"),
    ("zookeeper nerve", "web/base64_x", "", "not base64_LENGTH_VALUE_NUMBER"),
    ("zookeeper curator", "web/1", '{"address":"10.0.0.1"}', "it has no port"),
    ("zookeeper curator", "web/1", '{"address":"","port":1}', "it has no address"),
    ("zookeeper registrator", "web/1", '{"IP":"10.0.0.1"}', "not of this layout"),
    ("etcd grpc", "web/x", '{"Addr":"x","Metadata":' + "[" * 5000, "JSON of too many levels"),
    (
        "zookeeper serverset",
        "a/b/c/vector_1",
        '{"vector":[{"select":"shard=0","weight":-1}]}',
        "weight",
    ),
]


@pytest.mark.parametrize(("layout", "key", "value", "words"), BAD)
def test_what_cannot_be_used_is_told(layout: str, key: str, value: str, words: str) -> None:
    parts = key.split("/")

    def read() -> None:
        LAYOUTS[layout].service(parts)
        LAYOUTS[layout].decode(parts, value.encode())

    with pytest.raises(Unusable, match=re.escape(words)):
        read()


class Scribe:
    """A table, written by key."""

    def __init__(self, layout: str, **options: Any) -> None:
        chosen: dict[str, Any] = {
            "namespace": "default",
            "port": None,
            "protocol": "",
            "services": {},
        }
        self.table = Table(LAYOUTS[layout], Shape(**chosen | options), "test")

    def put(self, key: str, value: object) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        self.table.put(key, key.split("/"), text.encode())

    def built(self, name: str) -> Service:
        service = self.table.build(name)
        assert service is not None
        return service

    def weights(self, name: str) -> dict[str, int]:
        return {e.address: e.weight for e in self.built(name).endpoints}


def member(address: str, port: int, **more: Any) -> dict[str, Any]:
    return {"serviceEndpoint": {"host": address, "port": port}, "status": "ALIVE", **more}


def test_a_server_set() -> None:
    scribe = Scribe("zookeeper serverset")
    where = "www/prod/web"
    extra = {"additionalEndpoints": {"http": {"host": "10.0.0.1", "port": 81}}}
    scribe.put(f"{where}/member_0000000001", member("10.0.0.1", 80, shard=0))
    scribe.put(f"{where}/member_0000000002", member("10.0.0.2", 80, shard=1))
    scribe.put(f"{where}/member_0000000003", member("10.0.0.3", 80) | {"status": "STARTING"})
    name = "www.prod/web"
    assert scribe.built(name).ports == (Port(80),)
    assert scribe.weights(name) == {"10.0.0.1": 1, "10.0.0.2": 1}
    scribe.put(
        f"{where}/vector_0000000001",
        {
            "vector": [
                {"select": "member=member_0000000001", "weight": 0.5, "priority": 1},
                {"select": "shard=1", "weight": 2.0, "priority": 1},
                {"select": "inet=10.0.0.2:80", "weight": 1.5, "priority": 1},
                {"select": "nonsense", "weight": 9.0},
            ]
        },
    )
    assert scribe.weights(name) == {"10.0.0.1": 50, "10.0.0.2": 300}
    scribe.table.delete(f"{where}/vector_0000000001")
    scribe.put(f"{where}/member_0000000001", member("10.0.0.1", 80, **extra))
    service = scribe.built(name)
    assert service.ports == (Port(80, MAIN), Port(81, "http"))
    assert {(e.address, e.port, e.port_name) for e in service.endpoints} == {
        ("10.0.0.1", 80, MAIN),
        ("10.0.0.1", 81, "http"),
        ("10.0.0.2", 80, MAIN),
    }


def test_priorities_and_weights() -> None:
    scribe = Scribe("etcd skydns")
    scribe.put("web/1", {"host": "10.0.0.1", "port": 80, "priority": 20})
    assert scribe.weights("default/web") == {"10.0.0.1": 1}
    scribe.put("web/2", {"host": "10.0.0.2", "port": 80, "weight": 20})
    scribe.put("web/3", {"host": "10.0.0.3", "port": 80})
    assert scribe.weights("default/web") == {"10.0.0.2": 20, "10.0.0.3": 100}
    scribe.put("web/3", {"host": "10.0.0.3", "port": 80, "weight": 1_000_000_000})
    assert scribe.weights("default/web") == {"10.0.0.2": 1, "10.0.0.3": 65535}


def test_traefik_weights_belong_to_their_server() -> None:
    scribe = Scribe("etcd traefik")
    scribe.put(f"{TRAEFIK}/servers/a/weight", "3")
    scribe.put(f"{TRAEFIK}/servers/a/url", "http://10.0.0.1/")
    scribe.put(f"{TRAEFIK}/servers/b/url", "http://10.0.0.2/")
    assert scribe.weights("default/web") == {"10.0.0.1": 3, "10.0.0.2": 1}
    assert scribe.built("default/web").ports == (Port(80, protocol="http"),)


def test_the_configuration_gives_addresses_and_ports() -> None:
    services = {
        "web": ServiceOption(("10.96.0.10",), (PortOption(80), PortOption(443, "ssl", "tls")))
    }
    scribe = Scribe("zookeeper curator", services=services, port=8000, protocol="http")
    instance = {"address": "10.0.0.1", "port": 8080, "sslPort": 8443}
    scribe.put("web/1", instance)
    scribe.put("api/1", instance)
    scribe.put("plain/1", {"address": "10.0.0.1", "port": 8080})
    web = scribe.built("default/web")
    assert web.vips == ("10.96.0.10",)
    assert web.ports == (Port(80, MAIN), Port(443, "ssl", "tls"))
    assert [e.port for p in web.ports for e in web.endpoints_of(p)] == [8080, 8443]
    assert scribe.built("default/api").ports == (
        Port(8000, MAIN, "http"),
        Port(8443, "ssl", "tls"),
    )
    assert scribe.built("default/plain").ports == (Port(8000, "", "http"),)


def test_an_endpoint_without_a_port_serves_the_services_ports() -> None:
    scribe = Scribe(
        "etcd skydns", services={"web": ServiceOption((), (PortOption(80), PortOption(81, "b")))}
    )
    for name in ("web", "api"):
        scribe.put(f"{name}/1", {"host": "10.0.0.1"})
    assert scribe.built("default/web").endpoints == (
        Endpoint("10.0.0.1", 80),
        Endpoint("10.0.0.1", 81, "b"),
    )
    assert scribe.built("default/api").endpoints == ()
    (problem,) = scribe.table.problems()
    assert "no port" in problem.message
    scribe.table.delete("api/1")
    assert scribe.table.build("default/api") is None
    assert scribe.table.problems() == []


@pytest.mark.parametrize(
    ("services", "words"),
    [
        ({"web": ServiceOption(("web",))}, "'web' is not an IP address"),
        ({"web": ServiceOption((), (PortOption(1), PortOption(2)))}, "a name of its own"),
        ({"web": ServiceOption((), (PortOption(1, "a"), PortOption(1, "b")))}, "number"),
    ],
)
def test_wrong_configurations(services: dict[str, ServiceOption], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Scribe("etcd skydns", services=services)


def test_a_key_that_cannot_be_read_keeps_what_it_said() -> None:
    scribe = Scribe("etcd registrator")
    scribe.put("web/1", "10.0.0.1:80")
    scribe.put("api/1", "nonsense")
    assert scribe.table.unreadable() == {"default/api"}
    scribe.put("web/1", "nonsense")
    assert scribe.weights("default/web") == {"10.0.0.1": 1}
    assert [p.source for p in scribe.table.problems()] == ["api/1", "web/1"]
    assert scribe.table.unreadable() == {"default/api"}
    scribe.put("api/1", "10.0.0.2:80")
    scribe.table.delete("web/1")
    assert scribe.table.problems() == []
    assert scribe.table.build("default/web") is None
    scribe.table.fail("api/1", ("api", "1"), "NoAuthError")
    assert scribe.weights("default/api") == {"10.0.0.2": 1}
    assert [str(p) for p in scribe.table.problems()] == ["api/1: NoAuthError"]
    scribe.put("api/1", "10.0.0.2:80")
    assert scribe.table.problems() == []


def test_the_same_value_is_decoded_once() -> None:
    scribe = Scribe("etcd registrator")
    for _ in range(3):
        scribe.put("web/1", "10.0.0.1:80")
    assert scribe.table.decoded == 1
    scribe.table.dirty.clear()
    scribe.put("web/1", " 10.0.0.1:80 ")
    assert not scribe.table.dirty, "other words, but the same endpoint"


def test_problems_are_bounded() -> None:
    scribe = Scribe("etcd registrator")
    for i in range(MAX_PROBLEMS + 5):
        scribe.put(f"web/{i}", "nonsense")
    problems = scribe.table.problems()
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1].message == "5 more keys cannot be used"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "host",
        "port",
        "weight",
        "priority",
        "Op",
        "Addr",
        "Metadata",
        "nodes",
        "address",
        "metadata",
        "version",
        "IP",
        "PublicPort",
        "Tags",
        "Attrs",
        "serviceEndpoint",
        "additionalEndpoints",
        "status",
        "shard",
        "vector",
        "sslPort",
        "enabled",
        "payload",
        "labels",
        "haproxy_server_options",
        "mail",
    ]
)
VALUES = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(
        FIELDS, JSON | st.sampled_from(["10.0.0.1", "10.0.0.1:80", "ALIVE"]), max_size=6
    ).map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"10.0.0.1:80", b"http://10.0.0.1/", b'{"host":"10.0.0.1","port":80}']),
)
PARTS = st.lists(
    st.text(max_size=12)
    | st.sampled_from(
        ["web", "member_1", "vector_1", "http", "services", "loadbalancer", "servers", "url"]
    ),
    min_size=1,
    max_size=7,
)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(writes=st.lists(st.tuples(PARTS, VALUES), max_size=8))
def test_garbage_never_breaks_a_table(layout: str, writes: list[tuple[list[str], bytes]]) -> None:
    """Whatever is written: what comes out is sound, and every key may go again."""
    scribe = Scribe(layout)
    table = scribe.table
    for parts, value in writes:
        table.put("/".join(parts), parts, value)
    for name in table.services():
        service = table.build(name)
        if service is None:
            continue
        msgspec.json.encode(service)
        for endpoint in service.endpoints:
            assert 1 <= endpoint.port <= 65535
            assert 0 <= endpoint.weight <= 65535
        numbers = [port.port for port in service.ports]
        assert len(set(numbers)) == len(numbers)
    for key in list(table):
        table.delete(key)
    for name in list(table.dirty):
        assert table.build(name) is None
    assert table.problems() == []
    assert list(table.services()) == []
