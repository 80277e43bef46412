"""Services of endpoints, and where registries are."""

from __future__ import annotations

import httpx
import pytest

from registry.fetch import server
from registry.model import Endpoint, Port
from registry.naming import (
    DialledPort,
    ServiceSettings,
    dressed,
    endpoint_address,
    endpoint_port,
    sorted_labels,
)

ONE = (Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80))


def test_ports_are_those_of_the_endpoints() -> None:
    assert dressed("a/b", ONE).ports == (Port(80),)
    two = dressed("a/b", (*ONE, Endpoint("10.0.0.3", 81)), ServiceSettings(protocol="http"))
    assert two.ports == (Port(80, "p80", "http"), Port(81, "p81", "http"))
    assert dressed("a/b", ()).ports == ()


def test_what_is_configured_goes_first() -> None:
    ports = (DialledPort(443, "tls", "tls"), DialledPort(8080, "plain"))
    service = dressed("a/b", ONE, ServiceSettings(("2001:DB8::1",), ports, "http"))

    assert service.vips == ("2001:db8::1",)
    assert service.ports == (Port(443, "tls", "tls"), Port(8080, "plain", "http"))
    assert service.endpoints_of(service.ports[1]) == ONE


@pytest.mark.parametrize(
    "wrong",
    [
        {"vips": ("web",)},
        {"ports": (DialledPort(80, "a"), DialledPort(80, "b"))},
        {"ports": (DialledPort(80), DialledPort(81, "b"))},
        {"ports": (DialledPort(80, "a"), DialledPort(81, "a"))},
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        ServiceSettings(**wrong)  # type: ignore[arg-type]


def test_addresses_of_endpoints() -> None:
    assert endpoint_address("::ffff:10.0.0.1") == "10.0.0.1"
    assert endpoint_address("127.0.0.1", loopback=True) == "127.0.0.1"
    assert endpoint_address("::1", loopback=True) == "::1"
    for text in ("127.0.0.1", "::1", "0.0.0.0", "169.254.169.254", "fe80::1", "ff02::1", "x", ""):
        with pytest.raises(ValueError, match=r"."):
            endpoint_address(text)
    with pytest.raises(ValueError, match="link-local"):
        endpoint_address("169.254.169.254", loopback=True)


def test_ports_of_endpoints() -> None:
    assert endpoint_port("8080") == endpoint_port(8080) == 8080
    for value in (0, 65536, "x", "", "99999", None, True, 8.5, "٣"):
        with pytest.raises(ValueError, match="not a port"):
            endpoint_port(value)


def test_labels() -> None:
    assert sorted_labels([("b", "1"), ("a", "2"), ("b", "3")]) == (("a", "2"), ("b", "3"))


def test_servers() -> None:
    assert server("http://h:80/x/") == ("http://h:80/x", None, "")
    assert server("https://[2001:db8::1]:8501").url == "https://[2001:db8::1]:8501"
    assert server("unix:///run/consul.sock").unix_socket == "/run/consul.sock"
    found = server("http://us%40er:p%3Aw@h/eureka")
    assert found.url == "http://h/eureka"
    assert found.auth is not None
    request = next(found.auth.auth_flow(httpx.Request("GET", found.url)))
    assert request.headers["authorization"] == "Basic dXNAZXI6cDp3"


@pytest.mark.parametrize("text", ["h:80", "ftp://h", "http://", "http://u:secret@h:x", "unix://a"])
def test_servers_that_cannot_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|written") as caught:
        server(text)
    assert "secret" not in str(caught.value)
