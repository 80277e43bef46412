"""Consul's answers, as the real one gives them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.base import Context
from registry.bucket import Bucket
from registry.consul.backend import ConsulBackend, Options
from registry.consul.wire import Rules, catalog_services, index_of, kv_entry, read_entry
from registry.duration import Duration
from registry.model import Endpoint, Locality
from tests.dataplane.consul_fake import instance

PASSING = Rules(frozenset({"passing"}))
ALL = Rules(frozenset({"passing", "warning", "critical", "maintenance"}), "az", True)


def entry(*statuses: str, **more: Any) -> bytes:
    found = instance("10.0.0.1", 8080, **more)
    found["Checks"] = [{"CheckID": f"c{i}", "Status": s} for i, s in enumerate(statuses)]
    return json.dumps(found).encode()


def test_an_instance() -> None:
    raw = entry("passing", tags=["v1", "eu=1"], meta={"team": "shop"}, weights={"Passing": 7})

    assert read_entry(raw, PASSING) == Endpoint(
        "10.0.0.1",
        8080,
        weight=7,
        locality=Locality("dc1", "", "node-1"),
        labels=(("tag.eu=1", "true"), ("tag.v1", "true"), ("team", "shop")),
    )


@pytest.mark.parametrize(
    ("checks", "status"),
    [
        ([], "passing"),
        (["passing", "passing"], "passing"),
        (["passing", "warning", "passing"], "warning"),
        (["critical", "warning"], "critical"),
        (["warning", "critical"], "critical"),
        (["unheard-of"], "critical"),
    ],
)
def test_the_worst_check_counts(checks: list[str], status: Any) -> None:
    raw = entry(*checks, weights={"Passing": 5, "Warning": 2})
    found = read_entry(raw, Rules(frozenset({status})))

    assert found is not None
    assert found.weight == (5 if status == "passing" else 2)
    others = frozenset({"passing", "warning", "critical", "maintenance"}) - {status}
    assert read_entry(raw, Rules(others)) is None


@pytest.mark.parametrize("check", ["_node_maintenance", "_service_maintenance:web-1"])
def test_maintenance_goes_before_all(check: str) -> None:
    found = json.loads(entry("critical", "passing"))
    found["Checks"].append({"CheckID": check, "Status": "critical"})
    raw = json.dumps(found).encode()

    assert read_entry(raw, Rules(frozenset({"critical", "passing"}))) is None
    assert read_entry(raw, Rules(frozenset({"maintenance"}))) is not None


def test_the_nodes_address_where_the_service_has_none() -> None:
    found = json.loads(entry("passing"))
    found["Service"]["Address"] = ""
    endpoint = read_entry(json.dumps(found).encode(), PASSING)

    assert endpoint is not None
    assert endpoint.address == "10.1.1.1"


def test_locality() -> None:
    found = json.loads(entry("passing", node_meta={"az": "z1"}))
    endpoint = read_entry(json.dumps(found).encode(), ALL)
    assert endpoint is not None
    assert endpoint.locality == Locality("dc1", "z1", "node-1")
    found["Service"]["Locality"] = {"Region": "eu", "Zone": "eu-1"}
    endpoint = read_entry(json.dumps(found).encode(), ALL)
    assert endpoint is not None
    assert endpoint.locality == Locality("eu", "eu-1", "node-1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Address": "db.example"}, "instance w1: 'db.example' is not an IP address"),
        ({"Address": "127.0.0.1"}, "allow_loopback"),
        ({"Address": "169.254.169.254"}, "link-local"),
        ({"Port": 0}, "instance w1: it has no port"),
        ({"Port": 70000}, "70000 is not a port"),
        ({"Port": "80"}, "instance w1: it is not an entry of Consul"),
        ({"Tags": "v1"}, "not an entry of Consul"),
    ],
)
def test_what_cannot_be_used_is_named(change: dict[str, Any], message: str) -> None:
    found = json.loads(entry("passing"))
    found["Service"] |= {"ID": "w1"} | change

    with pytest.raises(ValueError, match=message):
        read_entry(json.dumps(found).encode(), PASSING)


@given(st.binary(max_size=80) | st.from_regex(rb'\{"Service":.{0,40}\}'))
def test_garbage_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not an entry"):
        read_entry(raw, PASSING)


def test_the_list_of_services() -> None:
    body = b'{"consul":[],"web":["v1","eu"],"api":null,"odd":7}'
    found, wrong = catalog_services(body)

    assert found == {"consul": frozenset(), "web": {"v1", "eu"}, "api": frozenset()}
    assert [name for name, _ in wrong] == ["odd"]
    with pytest.raises(ValueError, match="array"):
        catalog_services(b"[]")


@pytest.mark.parametrize(
    ("text", "index"),
    [("7", 7), ("0", 1), ("", None), ("x", None), ("-1", None), ("9" * 21, None), ("٣", None)],
)
def test_the_index(text: str, index: int | None) -> None:
    assert index_of({"x-consul-index": text}) == index


def key(name: str, value: str | None) -> bytes:
    coded = None if value is None else base64.b64encode(value.encode()).decode()
    return json.dumps({"LockIndex": 0, "Key": name, "Flags": 0, "Value": coded}).encode()


def test_keys() -> None:
    found = kv_entry(key("services/web/host:web:80", "10.0.0.1:80"), "services")
    assert found == (("web", "host:web:80"), b"10.0.0.1:80")
    assert kv_entry(key("services/web/", None), "services") is None
    for raw in (
        key("other/web/x", "y"),
        b"{}",
        b"7",
        b'{"Key":"services/a/b","Value":"?"}',
    ):
        with pytest.raises(ValueError, match=r"."):
            kv_entry(raw, "services")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wait": Duration("11m")}, "wait"),
        ({"token": "a", "token_file": "b"}, "token"),
        ({"key_file": "k"}, "cert_file"),
        ({"follow": ("web",), "prefix": "w"}, "follow"),
        ({"address": "consul:8500"}, "http://HOST:PORT"),
        ({"address": "unix://consul.sock"}, "unix:///PATH"),
    ],
)
def test_options_that_contradict(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConsulBackend(Options(**options), Context("consul"))


def test_the_bucket_allows_two_at_once() -> None:
    bucket = Bucket(10.0)

    assert [bucket.take(100.0) for _ in range(4)] == [0.0, 0.0, 10.0, 20.0]
    assert bucket.take(200.0) == 0.0


@given(st.lists(st.floats(0, 5), min_size=1, max_size=60))
def test_the_bucket_never_allows_more(pauses: list[float]) -> None:
    bucket = Bucket(1.0)
    now, used = 0.0, []
    for pause in pauses:
        now += pause
        now += bucket.take(now)
        used.append(now)

    for i, first in enumerate(used):
        for j in range(i, len(used)):
            assert j - i + 1 <= used[j] - first + 2 + 1e-6
