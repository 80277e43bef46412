"""Labels, containers and tasks of Docker, decoded from what a real engine said."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from registry.base import Context, RegistryError
from registry.docker import wire
from registry.docker.api import chosen_version
from registry.docker.backend import DockerBackend
from registry.docker.labels import Exposed, Facts, Hidden, default_name, read
from registry.docker.members import Seen, of_container, of_task, service_facts, service_of
from registry.docker.options import Options
from registry.model import NOWHERE, Endpoint, Locality, Port
from registry.naming import DialledPort, ServiceSettings

BOTH = ("traefik", "registrator")


def names(facts: Facts, unlabelled: str = "name") -> list[tuple[str, int]]:
    return [(e.service, e.port) for e in read(facts, BOTH, unlabelled)[0]]


def label(service: str, field: str, value: str, kind: str = "http") -> dict[str, str]:
    return {f"traefik.{kind}.services.{service}.loadbalancer.server.{field}": value}


def test_traefik() -> None:
    labels = {
        "Traefik.HTTP.Services.web.LoadBalancer.Server.Port": "8080",
        **label("api", "port", "9090"), **label("api", "scheme", "h2c"),
        **label("db", "port", "5432", "tcp"), **label("db", "weight", "3", "tcp"),
        "traefik.http.routers.web.rule": "Host(`x`)",
    }  # fmt: skip
    found, problems = read(Facts("c", labels, ports=(80,)), BOTH, "name")

    assert problems == []
    assert found == [
        Exposed("web", 8080, "http"),
        Exposed("api", 9090, "http2"),
        Exposed("db", 5432, "tcp", 3),
    ]


def test_traefik_without_a_port_takes_the_lowest_and_without_a_service_the_name() -> None:
    enabled = {"traefik.enable": "true"}
    assert names(Facts("web", enabled, ports=(80, 443))) == [("web", 80)]
    routers = {"traefik.http.routers.web.rule": "Host(`x`)"}
    assert names(Facts("c", routers | label("api", "scheme", "http"), ports=(81,))) == [("api", 81)]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (label("web", "port", "http"), "not a port"),
        (label("web", "scheme", "http"), "no port"),
        (label("we b", "port", "80"), "not the name"),
        (label("web", "port", "80") | label("web", "weight", "x"), "not a weight"),
    ],
)
def test_labels_that_cannot_be_used(labels: dict[str, str], message: str) -> None:
    found, problems = read(Facts("c", labels), BOTH, "name")
    assert found == []
    assert message in problems[0]


def test_what_is_none_of_our_business() -> None:
    with pytest.raises(Hidden):
        read(Facts("c", {"traefik.enable": "false"} | label("web", "port", "80")), BOTH, "name")
    with pytest.raises(Hidden):
        read(Facts("c", {}, ports=(80,)), BOTH, "skip")
    assert names(Facts("c", {"traefik.enable": "false"}, ports=(80,))._replace(labels={})) == [
        ("c", 80)
    ]


# The examples of registrator's documentation, "Service Object".
@pytest.mark.parametrize(
    ("variables", "ports", "expected"),
    [
        ({"SERVICE_TAGS": "a"}, (6379,), [("redis", 6379)]),
        ({"SERVICE_NAME": "db"}, (6379,), [("db", 6379)]),
        ({"SERVICE_TAGS": "a"}, (80, 443), [("redis-80", 80), ("redis-443", 443)]),
        ({"SERVICE_NAME": "x"}, (80, 443), [("x-80", 80), ("x-443", 443)]),
        ({"SERVICE_80_NAME": "http", "SERVICE_443_NAME": "https"}, (80, 443),
         [("http", 80), ("https", 443)]),
        ({"SERVICE_80_NAME": "http", "SERVICE_443_IGNORE": "yes"}, (80, 443), [("http", 80)]),
        ({"SERVICE_IGNORE": "true"}, (80,), []),
    ],
)  # fmt: skip
def test_registrator(
    variables: dict[str, str], ports: tuple[int, ...], expected: list[tuple[str, int]]
) -> None:
    facts = Facts("c", {}, variables, "quay.io/x/redis:6@sha256:1", ports, len(ports) > 1)
    assert names(facts) == expected


def test_attributes_of_registrator_are_labels_the_ports_own_first() -> None:
    variables = {"SERVICE_NAME": "x", "SERVICE_80_NAME": "web", "SERVICE_TAGS": "a,b",
                 "SERVICE_REGION": "eu", "SERVICE_80_REGION": "us", "SERVICE_CHECK_HTTP": "/",
                 "SERVICE_ID": "1", "SERVICE_WEIGHT": "5"}  # fmt: skip
    (found,), problems = read(Facts("c", {}, variables, "i", (80,)), BOTH, "name")
    assert found == Exposed("web", 80, "", 5, (("region", "us"), ("tags", "a,b")))
    assert problems == []
    assert read(Facts("c", {}, {"SERVICE_NAME": "x"}), BOTH, "name")[1]


def test_default_names() -> None:
    compose = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}
    stack = {
        "com.docker.stack.namespace": "shop",
        "com.docker.swarm.service.name": "shop_web",
    }
    assert default_name(Facts("shop-web-1", compose)) == "shop/web"
    assert default_name(Facts("shop_web.1.x", stack)) == "shop/web"
    assert default_name(Facts("web", {})) == "web"


# --- containers ---


def container(**changes: Any) -> wire.Container:
    value: dict[str, Any] = {
        "Id": "3b1682b2a677", "Name": "/one",
        "State": {"Status": "running", "Running": True, "Paused": False, "Restarting": False},
        "Config": {"Image": "web:1", "Env": ["PATH=/bin"], "Labels": {},
                   "ExposedPorts": {"8080/tcp": {}, "53/udp": {}}},
        "HostConfig": {"NetworkMode": "default"},
        "NetworkSettings": {
            "Ports": {"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "32768"}], "53/udp": None},
            "Networks": {"bridge": {"IPAddress": "10.251.7.2", "GlobalIPv6Address": ""},
                         "back": {"IPAddress": "", "GlobalIPv6Address": "2001:db8::2"}},
        },
    }  # fmt: skip
    for key, change in changes.items():
        value[key] = value[key] | change if isinstance(change, dict) else change
    return wire.decode_container(msgspec.json.encode(value))


def seen(found: wire.Container, **options: Any) -> Seen:
    return of_container(found, Options(**options), Locality("", "z", "n"))


def endpoint(found: Seen) -> Endpoint:
    (member,) = found.members
    return member.endpoint


def test_a_container() -> None:
    (member,) = seen(container(), network="bridge").members
    assert (member.service, member.port) == ("default/one", 8080)
    assert member.endpoint == Endpoint("10.251.7.2", 8080, locality=Locality("", "z", "n"))
    assert endpoint(seen(container())).address == "2001:db8::2"
    label = {"Labels": {"traefik.docker.network": "bridge", "traefik.enable": "true"}}
    assert endpoint(seen(container(Config=label))).address == "10.251.7.2"


@pytest.mark.parametrize(
    ("state", "count", "ready"),
    [
        ({}, 1, True),
        ({"Health": {"Status": "none"}}, 1, True),
        ({"Health": {"Status": "healthy"}}, 1, True),
        ({"Health": {"Status": "starting"}}, 1, False),
        ({"Health": {"Status": "unhealthy"}}, 1, False),
        ({"Paused": True}, 1, False),
        ({"Restarting": True}, 0, False),
        ({"Running": False}, 0, False),
    ],
)
def test_states(state: dict[str, Any], count: int, ready: bool) -> None:
    found = seen(container(State=state))
    assert len(found.members) == count
    if count:
        assert endpoint(found).ready == endpoint(found).serving == ready


def test_published_ports_and_the_hosts_network() -> None:
    published = {"address": "published"}
    assert seen(container(), **published).problems == (
        "the machine's address is needed: set `host_address`",
    )
    there = endpoint(seen(container(), **published, host_address="192.0.2.1"))
    assert (there.address, there.port) == ("192.0.2.1", 32768)
    one = {"Ports": {"8080/tcp": [{"HostIp": "192.0.2.9", "HostPort": "81"}]}}
    there = endpoint(seen(container(NetworkSettings=one), **published))
    assert (there.address, there.port) == ("192.0.2.9", 81)
    none = {"Ports": {"8080/tcp": None}}
    assert seen(container(NetworkSettings=none), **published) == Seen()
    host = container(HostConfig={"NetworkMode": "host"}, NetworkSettings={"Ports": {}})
    there = endpoint(seen(host, host_address="192.0.2.1"))
    assert (there.address, there.port) == ("192.0.2.1", 8080)


def test_without_an_address_only_who_asked_for_traffic_is_told() -> None:
    nowhere = {"Networks": {"none": {"IPAddress": ""}}}
    assert seen(container(NetworkSettings=nowhere)) == Seen()
    labelled = {"Labels": label("web", "port", "80")}
    assert seen(container(NetworkSettings=nowhere, Config=labelled)).problems
    assert "network 'x'" in seen(container(), network="x").problems[0]
    shared = container(HostConfig={"NetworkMode": "container:abc"})
    assert "another container" in seen(shared).problems[0]


def test_a_list_entry_is_the_same_as_long_as_nothing_but_time_changes() -> None:
    def listed(status: str, state: str = "running") -> object:
        value = {"Id": "1", "State": state, "Status": status, "Names": ["/a"]}
        return wire.decode_listed(msgspec.json.encode(value)).fingerprint()

    assert listed("Up 1 second (healthy)") == listed("Up 3 weeks (healthy)")
    assert listed("Up 1 second (healthy)") != listed("Up 1 second (unhealthy)")
    assert listed("Up 1 second") != listed("Up 1 second", "paused")


def test_services_of_members() -> None:
    facts = {"Labels": {**label("web", "port", "80"), **label("api", "port", "81")}}
    members = seen(container(Config=facts), network="bridge").members
    renamed = [msgspec.structs.replace(m, service="default/web") for m in members]
    both = service_of("default/web", renamed, None, "o")
    assert both.ports == (Port(80, "p80", "http"), Port(81, "p81", "http"))
    assert {(e.port, e.port_name) for e in both.endpoints} == {(80, "p80"), (81, "p81")}
    settings = ServiceSettings(("10.96.0.1",), (DialledPort(8000),), "tcp")
    fixed = service_of("default/web", members[:1], settings, "o")
    assert (fixed.vips, fixed.ports) == (("10.96.0.1",), (Port(8000, "", "tcp"),))
    spoken = service_of("default/web", members[:1], ServiceSettings(protocol="tcp"), "o")
    assert spoken.ports == (Port(80, "", "tcp"),)


# --- Swarm ---

SERVICE = wire.decode_service(
    b'{"ID":"s","Spec":{"Name":"shop_web","Labels":{"com.docker.stack.namespace":"shop"},'
    b'"TaskTemplate":{"ContainerSpec":{"Image":"web:1"}}},"Endpoint":{"Ports":['
    b'{"Protocol":"tcp","TargetPort":8080,"PublishedPort":80,"PublishMode":"host"}]}}'
)
NODES = {
    "n": wire.decode_node(
        b'{"ID":"n","Description":{"Hostname":"vm"},"Status":{"State":"ready","Addr":"192.0.2.1"}}'
    ),
    "down": wire.decode_node(b'{"ID":"down","Status":{"State":"down"}}'),
}


def task(state: str = "running", desired: str = "running", node: str = "n") -> wire.Task:
    value = {
        "ID": "t", "ServiceID": "s", "NodeID": node, "DesiredState": desired,
        "Status": {"State": state, "PortStatus": {"Ports": [
            {"Protocol": "tcp", "TargetPort": 8080, "PublishedPort": 30000}]}},
        "NetworksAttachments": [
            {"Network": {"Spec": {"Name": "in", "Ingress": True}}, "Addresses": ["10.0.0.2/24"]},
            {"Network": {"Spec": {"Name": "mesh"}}, "Addresses": ["10.0.1.4/24"]}],
    }  # fmt: skip
    return wire.decode_task(msgspec.json.encode(value))


def of(found: wire.Task, **options: Any) -> Seen:
    chosen = Options(mode="swarm", **options)
    return of_task(found, service_facts(SERVICE, chosen), NODES, chosen)


def test_a_task() -> None:
    (member,) = of(task()).members
    assert (member.service, member.port) == ("shop/web", 8080)
    assert member.endpoint == Endpoint("10.0.1.4", 8080, locality=Locality(node="vm"))
    published = endpoint(of(task(), address="published"))
    assert (published.address, published.port) == ("192.0.2.1", 30000)
    assert endpoint(of(task("starting"))).ready is False
    assert endpoint(of(task(node="down"))).ready is False
    assert of(task(node="unknown"), address="published").problems
    assert of(task(desired="shutdown")) == of(task("failed")) == Seen()


# --- versions and options ---


@pytest.mark.parametrize(
    ("newest", "oldest", "chosen"),
    [("1.41", "1.12", "1.41"), ("1.99", "1.44", "1.51"), ("1.24", "1.12", "1.24")],
)
def test_the_version_is_the_newest_that_both_know(newest: str, oldest: str, chosen: str) -> None:
    assert chosen_version(wire.Version(newest, oldest)) == chosen


@pytest.mark.parametrize(("newest", "oldest"), [("1.23", "1.0"), ("2.5", "2.0"), ("x", "1.0")])
def test_versions_that_are_not_known(newest: str, oldest: str) -> None:
    with pytest.raises(RegistryError):
        chosen_version(wire.Version(newest, oldest))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resync": 0.01}, "resync"),
        ({"poll": 0.01}, "poll"),
        ({"timeout": 0.01}, "timeout"),
        ({"key_file": "k"}, "cert_file"),
        ({"mode": "swarm", "host_address": "192.0.2.1"}, "host_address"),
        ({"endpoint": "docker.sock"}, "http://HOST:PORT"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DockerBackend(Options(**options), Context("docker"))


def test_an_engine_somewhere_else_has_no_place() -> None:
    context = Context("docker", "node-1", "zone-1")
    assert DockerBackend(Options(), context).where == Locality("", "zone-1", "node-1")
    assert DockerBackend(Options(endpoint="http://x:2375"), context).where == NOWHERE


def test_events() -> None:
    one = wire.decode_event(
        b'{"Type":"network","Action":"connect","Actor":{"ID":"n","Attributes":{"container":"c"}}}'
    )
    two = wire.decode_event(b'{"Type":"container","Action":"start","Actor":{"ID":"c"}}')
    assert one.container == two.container == "c"
    assert wire.decode_event(b'{"Type":"network","Actor":{"ID":"n"}}').container == ""
