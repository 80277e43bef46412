"""Eureka's JSON, with its oddities."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.base import Context
from registry.duration import Duration
from registry.eureka.backend import EurekaBackend
from registry.eureka.options import Options
from registry.eureka.wire import app_name, hash_code, hash_of, read_instance
from registry.model import Endpoint, Locality
from tests.dataplane.eureka_fake import instance

OPTIONS = Options(("http://e/eureka",))


def read(options: Options = OPTIONS, **more: Any) -> Any:
    return read_instance(json.dumps(instance("WEB", "10.0.0.1", 80) | more).encode(), options)


def test_an_instance() -> None:
    found = read(metadata={"@class": "x", "zone": "z1", "n": 1}, status="UP")

    assert found.key == "10.0.0.1:web:80"
    assert found.endpoint == Endpoint(
        "10.0.0.1", 80, locality=Locality(zone="z1"), labels=(("n", "1"), ("zone", "z1"))
    )
    assert (found.weight, found.wrong, found.deleted) == (1.0, "", False)


@pytest.mark.parametrize(
    ("port", "secure", "wanted", "number"),
    [
        ({"$": 80, "@enabled": "true"}, {"$": 443, "@enabled": "false"}, "any", 80),
        ({"$": "80", "@enabled": True}, None, "any", 80),
        ({"$": 80, "@enabled": "false"}, {"$": "443", "@enabled": "true"}, "any", 443),
        (80, None, "any", 80),
        ("80", None, "plain", 80),
        ({"$": 80}, {"$": 443, "@enabled": "true"}, "secure", 443),
        ({"$": 80, "@enabled": "true"}, {"$": 443, "@enabled": "false"}, "secure", 0),
        ({"$": 80, "@enabled": "false"}, {"$": 443, "@enabled": False}, "any", 0),
        ({"$": "x", "@enabled": "true"}, None, "any", 0),
        ({"$": 0, "@enabled": "true"}, None, "any", 0),
        (None, None, "any", 0),
    ],
)
def test_ports(port: Any, secure: Any, wanted: Any, number: int) -> None:
    found = read(Options(("http://e",), port=wanted), port=port, securePort=secure)

    assert (found.endpoint.port if found.endpoint else 0) == number
    assert bool(found.wrong) == (number == 0)


@pytest.mark.parametrize("status", ["DOWN", "STARTING", "OUT_OF_SERVICE", "UNKNOWN"])
def test_statuses(status: Any) -> None:
    assert read(status=status).endpoint is None
    assert read(status=status).status == status
    assert read(Options(("http://e",), statuses=(status,)), status=status).endpoint


def test_what_is_wrong_is_said_of_what_would_be_used() -> None:
    assert "not an IP address" in read(ipAddr="web.example").wrong
    assert "allow_loopback" in read(ipAddr="127.0.0.1").wrong
    assert "not a weight" in read(metadata={"weight": "heavy"}).wrong
    assert "not a weight" in read(metadata={"weight": "nan"}).wrong
    assert read(ipAddr="web.example", status="DOWN").wrong == ""
    assert read(metadata={"weight": "0.25"}).weight == 0.25
    assert read(actionType="DELETED").deleted


def test_old_servers_name_no_instance_id() -> None:
    assert read(instanceId=None).key == "10.0.0.1:80"
    with pytest.raises(ValueError, match="neither"):
        read(instanceId=None, hostName=None)


def test_the_zone_of_aws() -> None:
    info = {"name": "Amazon", "metadata": {"availability-zone": "eu-1a"}}
    found = read(dataCenterInfo=info)
    assert found.endpoint.locality.zone == "eu-1a"
    assert read(dataCenterInfo=[7]).endpoint.locality.zone == ""


@given(st.binary(max_size=60) | st.sampled_from([b"7", b"[]", b"{}", b'{"instanceId":[]}']))
def test_garbage_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_instance(raw, OPTIONS)


def test_applications() -> None:
    assert app_name(b'{"name":"web"}') == "WEB"
    for raw in (b"{}", b'{"name":""}', b'{"name":"a/b"}', b"7"):
        with pytest.raises(ValueError, match=r"."):
            app_name(raw)


def test_hash_codes() -> None:
    assert hash_of({"UP": 2, "DOWN": 1}) == "DOWN_1_UP_2_"
    assert hash_of({}) == ""
    assert hash_code(b'{"applications":{"apps__hashcode" : "UP_2_"}}') == "UP_2_"
    long = b'{"applications":{"application":[' + b" " * 9000 + b'],"apps__hashcode":""}}'
    assert hash_code(long) == ""
    assert hash_code(b"{}") is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"poll": Duration("100ms")}, "poll"),
        ({"timeout": Duration("10m")}, "timeout"),
        ({"username": "x"}, "password_file"),
        ({"key_file": "x"}, "cert_file"),
        ({"servers": ("ftp://x",)}, "http://"),
        ({"servers": ("http://user:pa$$word@x:99999",)}, "http://"),
    ],
)
def test_options_that_cannot_be(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        EurekaBackend(Options(**({"servers": ("http://x",)} | more)), Context("eureka"))
    assert "pa$$" not in str(caught.value)
