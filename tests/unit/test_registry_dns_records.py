"""DNS answers, and the endpoints that follow from them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import dns.message
import dns.name
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.base import Context, RegistryError
from registry.dns.backend import DnsBackend, _chosen, _complete, _system_servers, pause
from registry.dns.options import DnsService, Options, nameserver
from registry.dns.records import Srv, addresses, by_priority, shares, srvs
from registry.duration import Duration


def answer(text: str) -> dns.message.QueryMessage:
    found = dns.message.from_text("id 7\nopcode QUERY\nflags QR RD RA\n" + text)
    assert isinstance(found, dns.message.QueryMessage)
    return found


SOA = "test. 300 IN SOA ns. host. 1 3600 600 86400 30"


def test_addresses_through_aliases_with_the_smallest_ttl() -> None:
    found = addresses(
        answer(
            ";QUESTION\nweb.test. IN A\n;ANSWER\nweb.test. 20 IN CNAME real.test.\n"
            "real.test. 60 IN A 10.0.0.2\nreal.test. 60 IN A 10.0.0.1\n"
        )
    )
    assert found == (("10.0.0.1", "10.0.0.2"), 20, True)


@pytest.mark.parametrize(
    ("rcode", "authority", "ttl"),
    [("NXDOMAIN", SOA, 30), ("NOERROR", SOA, 30), ("NXDOMAIN", "", 5), ("NOERROR", "", 5)],
)
def test_there_is_none_is_an_answer(rcode: str, authority: str, ttl: int) -> None:
    text = f"rcode {rcode}\n;QUESTION\nweb.test. IN A\n;ANSWER\n;AUTHORITY\n{authority}\n"

    assert addresses(answer(text)) == ((), ttl, rcode == "NOERROR")
    found = srvs(answer(text.replace("IN A\n", "IN SRV\n")))
    assert found == ((), ttl, rcode == "NOERROR", {})


def test_srv_with_what_comes_along() -> None:
    found = srvs(
        answer(
            ";QUESTION\n_w._tcp.test. IN SRV\n;ANSWER\n"
            "_w._tcp.test. 60 IN SRV 2 5 80 b.test.\n_w._tcp.test. 60 IN SRV 1 0 81 a.test.\n"
            "_w._tcp.test. 60 IN SRV 1 1 81 .\n"
            ";AUTHORITY\n;ADDITIONAL\na.test. 10 IN A 10.0.0.1\na.test. 90 IN AAAA 2001:db8::1\n"
            "other.test. 1 IN A 10.0.0.9\n"
        )
    )
    a, b = dns.name.from_text("a.test."), dns.name.from_text("b.test.")
    assert found.found == (Srv(1, 0, 81, a), Srv(2, 5, 80, b))
    assert found.ttl == 10
    assert found.additional == {a: ("10.0.0.1", "2001:db8::1")}
    assert [[srv.port for srv in group] for group in by_priority(found.found)] == [[81], [80]]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([], []),
        ([0, 0], [1, 1]),
        ([3, 1], [3, 1]),
        ([0, 3], [1, 300]),
        ([0, 65535], [1, 65535]),
    ],
)
def test_shares(weights: list[int], expected: list[int]) -> None:
    assert shares(weights) == expected


@given(st.lists(st.integers(0, 65535), max_size=8))
def test_shares_are_weights_of_ours(weights: list[int]) -> None:
    found = shares(weights)

    assert all(1 <= weight <= 65535 for weight in found)
    for before, share in zip(pairwise(weights), pairwise(found), strict=True):
        assert share[0] <= share[1] or before[0] >= before[1]


@pytest.mark.parametrize(
    ("ttl", "exists", "seconds"),
    [(0, True, 2), (7, True, 7), (86400, True, 50), (0, False, 2), (3, False, 3), (60, False, 4)],
)
def test_ttls_have_a_floor_and_a_ceiling(ttl: float, exists: bool, seconds: float) -> None:
    options = Options(
        {"web": DnsService(("web.test",), port=80)},
        min_ttl=Duration("2s"),
        max_ttl=Duration("50s"),
        max_negative_ttl=Duration("4s"),
    )
    assert pause(options, ttl, exists=exists) == seconds


@pytest.mark.parametrize(
    ("families", "chosen"),
    [
        ("ipv4", ("10.0.0.1",)),
        ("ipv6", ("::2",)),
        ("prefer-ipv4", ("10.0.0.1",)),
        ("prefer-ipv6", ("::2",)),
        ("both", ("10.0.0.1", "::2")),
    ],
)
def test_families(families: str, chosen: tuple[str, ...]) -> None:
    assert _chosen(("::2", "10.0.0.1"), families) == chosen
    assert _chosen((), families) == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.0.0.53", ("10.0.0.53", 53)),
        ("10.0.0.53:5353", ("10.0.0.53", 5353)),
        ("2001:DB8::53", ("2001:db8::53", 53)),
        ("[2001:db8::53]:54", ("2001:db8::53", 54)),
    ],
)
def test_nameservers(text: str, found: tuple[str, int]) -> None:
    assert nameserver(text) == found


def test_names_and_searches() -> None:
    assert [str(n) for n in _complete("web", ())] == ["web."]
    assert [str(n) for n in _complete("web", ("a.test", "b.test."))] == [
        "web.a.test.",
        "web.b.test.",
    ]
    assert [str(n) for n in _complete("web.", ("a.test",))] == ["web."]
    with pytest.raises(ValueError, match="not a DNS name"):
        _complete("a..b", ())


def test_what_kind_of_record_is_asked_for() -> None:
    service = DnsService(("_http._tcp.web.test",))
    assert service.is_srv("_http._tcp.web.test")
    assert not service.is_srv("web.test")
    assert DnsService(("web.test",), type="srv").is_srv("web.test")
    assert not DnsService(("_a._tcp.b",), type="address", port=1).is_srv("_a._tcp.b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "services"),
        ({"services": {}}, "length"),
        ({"services": {"web": {"names": []}}}, "length"),
        ({"services": {"web": {"names": ["web.test"]}}}, "port"),
        ({"services": {"web": {"names": ["_a._b.c"], "vips": ["x"]}}}, "x"),
        ({"services": {"web": {"names": ["_a._b.c"]}}, "nameservers": ["ns.test"]}, "IP address"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(options, Options)


@pytest.mark.parametrize(
    "more",
    [{"min_ttl": Duration("50ms")}, {"max_ttl": Duration("500ms")}, {"timeout": Duration("1m")}],
)
def test_times_that_cannot_be(more: dict[str, Any]) -> None:
    services = {"web": DnsService(("web.test",), port=80)}
    with pytest.raises(ValueError, match=r"ttl|timeout"):
        DnsBackend(Options(services, **more), Context("dns"))


def test_the_systems_nameservers(tmp_path: Any) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("search x\nnameserver 10.0.0.53\nnameserver fe80::1%lo\nnameserver ::1\n")
    assert _system_servers(str(path)) == [("10.0.0.53", 53), ("::1", 53)]
    path.write_text("nameserver fe80::1%lo\n")
    with pytest.raises(RegistryError, match="no nameserver"):
        _system_servers(str(path))
