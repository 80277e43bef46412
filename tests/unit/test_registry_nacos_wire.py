"""Nacos' answers, of both versions of its API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.base import Context
from registry.duration import Duration
from registry.model import Endpoint, Locality
from registry.nacos.backend import NacosBackend, pause
from registry.nacos.options import Options
from registry.nacos.wire import Refused, login, page, read_host, settings_of, unwrapped
from tests.dataplane.nacos_fake import host

OPTIONS = Options(("http://n/nacos",))


def read(**more: Any) -> Any:
    return read_host(json.dumps(host("10.0.0.1", 80) | more).encode(), OPTIONS)


def test_an_instance() -> None:
    found = read(weight=2.5, metadata={"zone": "z1", "v": "1"}, clusterName="C1")

    assert found == (
        Endpoint(
            "10.0.0.1",
            80,
            locality=Locality(zone="z1"),
            labels=(("cluster", "C1"), ("v", "1"), ("zone", "z1")),
        ),
        2.5,
    )


def test_only_what_is_enabled_and_healthy() -> None:
    assert read(enabled=False) is None
    assert read(healthy=False) is None
    assert read(weight=0)[1] == 0


@pytest.mark.parametrize(
    "more",
    [{"ip": "web.example"}, {"ip": "127.0.0.1"}, {"port": 0}, {"weight": -1}, {"weight": "x"}],
)
def test_what_cannot_be_used_is_named(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"instance"):
        read(**more)


@given(st.binary(max_size=60) | st.sampled_from([b"7", b"{}", b'{"ip":1}']))
def test_garbage_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match="instance"):
        read_host(raw, OPTIONS)


def test_lists_of_services() -> None:
    assert page(b'{"count":3,"doms":["a","b"]}', "v1") == (3, ("a", "b"))
    assert page(b'{"code":0,"data":{"count":1,"services":["a"]}}', "v2") == (1, ("a",))
    assert page(b'{"code":0,"data":null}', "v2") == (0, ())
    for body, api in ((b"<html>", "v1"), (b'{"doms":7}', "v1"), (b"[]", "v2")):
        with pytest.raises(ValueError, match=r"."):
            page(body, api)


def test_version_2_may_refuse_with_status_200() -> None:
    unwrapped(b'{"code":0,"message":"success","data":{}}', "v2")
    unwrapped(b"anything", "v1")
    with pytest.raises(Refused, match="20004: no such"):
        unwrapped(b'{"code":20004,"message":"no such","data":null}', "v2")
    with pytest.raises(Refused, match="not Nacos"):
        unwrapped(b"<html>", "v2")


def test_what_else_an_answer_says() -> None:
    assert settings_of(b'{"cacheMillis":10000,"reachProtectionThreshold":false}') == (10.0, False)
    assert settings_of(b'{"reachProtectionThreshold" : true}') == (None, True)
    long = b'{"cacheMillis":1,"hosts":[' + b" " * 9000 + b'],"reachProtectionThreshold":true}'
    assert settings_of(long) == (0.001, True)


def test_logins() -> None:
    assert login(b'{"accessToken":"t","tokenTtl":18000,"globalAdmin":true}') == ("t", 18000.0)
    assert login(b'{"accessToken":"t","tokenTtl":0}').ttl == 1.0
    with pytest.raises(ValueError, match="accessToken"):
        login(b"{}")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"list_interval": Duration("100ms")}, "list_interval"),
        ({"min_interval": Duration("10ms")}, "min_interval"),
        ({"max_interval": Duration("500ms")}, "max_interval"),
        ({"timeout": Duration("10m")}, "timeout"),
        ({"username": "x"}, "password_file"),
        ({"key_file": "x"}, "cert_file"),
        ({"servers": ("http://x?y",)}, "URL"),
    ],
)
def test_options_that_cannot_be(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NacosBackend(Options(**({"servers": ("http://x",)} | more)), Context("nacos"))


@pytest.mark.parametrize(
    ("cache", "seconds"), [(None, 10.0), (0.001, 1.0), (5.0, 5.0), (3600.0, 60.0)]
)
def test_services_are_read_as_often_as_the_server_wishes(
    cache: float | None, seconds: float
) -> None:
    assert pause(OPTIONS, cache) == seconds
