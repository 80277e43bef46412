"""The DNS responder's answers: a pure function from a query's bytes."""

from __future__ import annotations

import struct
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeproxy.dns.answer import MAX_UDP, Zone, answer
from nodeproxy.dns.names import Names, host_name
from nodeproxy.dns.server import Responder
from registry.catalog import Catalog, Change, Merger
from registry.model import Port, Service

WEB = Service(
    "shop/web",
    ("10.97.0.5", "fd00:97::5"),
    (Port(80, "http", "http"), Port(9000, "Admin-API"), Port(7000)),
)
OTHERS = [
    Service("shop/db", ("10.97.0.6",), (Port(5432),)),
    Service("shop/hidden", (), (Port(1, "x"),)),
    Service("Shop/BIG", ("10.97.0.7",), (Port(80),)),
    Service("old/web.v1", ("10.97.0.8",), (Port(80, "http"),)),
    Service("many/vips", tuple(f"10.98.{i // 250}.{i % 250 + 1}" for i in range(600)), (Port(1),)),
    Service("bad/na me\n10.0.0.1 evil", ("10.97.0.9",), (Port(80),)),
]


def zone(*services: Service) -> Zone:
    catalog, changes = Merger(["r"]).apply("r", services or [WEB, *OTHERS], [])
    names = Names()
    names.update(changes)
    return Zone(dns.name.from_text("mesh"), 5, names, catalog)


ZONE = zone()


def ask(name: str, type_: str = "A", *, udp: bool = True, **more: Any) -> dns.message.Message:
    query = dns.message.make_query(name, type_, **more)
    made = answer(query.to_wire(), ZONE, udp=udp)
    response = dns.message.from_wire(made.wire)
    assert query.is_response(response) or response.rcode() not in (0, 3)
    assert dns.rcode.to_text(response.rcode()) == made.rcode
    assert not response.flags & dns.flags.RA
    return response


def shown(section: list[Any]) -> list[str]:
    return [line for rrset in section for line in rrset.to_text().splitlines()]


def test_a_service_has_its_addresses() -> None:
    response = ask("web.shop.mesh")
    assert shown(response.answer) == ["web.shop.mesh. 5 IN A 10.97.0.5"]
    assert response.flags & dns.flags.AA
    assert shown(ask("web.shop.mesh", "AAAA").answer) == ["web.shop.mesh. 5 IN AAAA fd00:97::5"]
    assert len(ask("web.shop.mesh", "ANY").answer) == 2
    assert shown(ask("web.v1.old.mesh").answer) == ["web.v1.old.mesh. 5 IN A 10.97.0.8"]


@pytest.mark.parametrize("name", ["WEB.Shop.MESH", "big.shop.mesh", "wEb.sHop.mesh"])
def test_case_does_not_matter_and_is_given_back(name: str) -> None:
    response = ask(name)
    assert response.answer[0].name.to_text() == f"{name}."
    assert response.question[0].name.to_text() == f"{name}."


def test_a_named_port_has_a_service_record() -> None:
    response = ask("_http._tcp.web.shop.mesh", "SRV")
    assert shown(response.answer) == ["_http._tcp.web.shop.mesh. 5 IN SRV 0 1 80 web.shop.mesh."]
    assert len(shown(response.additional)) == 2
    response = ask("_admin-api._tcp.WEB.shop.mesh", "SRV")
    assert "9000 WEB.shop.mesh." in shown(response.answer)[0]
    assert ask("_http._udp.web.shop.mesh", "SRV").rcode() == dns.rcode.NXDOMAIN
    assert ask("_._tcp.web.shop.mesh", "SRV").rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(
    ("name", "type_", "rcode"),
    [
        ("web.shop.mesh", "TXT", "NOERROR"),
        ("web.shop.mesh", "SRV", "NOERROR"),
        ("db.shop.mesh", "AAAA", "NOERROR"),
        ("hidden.shop.mesh", "A", "NOERROR"),
        # Above what exists: names without records.
        ("shop.mesh", "A", "NOERROR"),
        ("v1.old.mesh", "A", "NOERROR"),
        ("_tcp.web.shop.mesh", "A", "NOERROR"),
        ("_http._tcp.web.shop.mesh", "A", "NOERROR"),
        ("mesh", "A", "NOERROR"),
        ("mesh", "NS", "NOERROR"),
        ("_tcp.db.shop.mesh", "A", "NXDOMAIN"),
        ("none.shop.mesh", "A", "NXDOMAIN"),
        ("x.web.shop.mesh", "A", "NXDOMAIN"),
        ("none.mesh", "A", "NXDOMAIN"),
        ("_none._tcp.web.shop.mesh", "SRV", "NXDOMAIN"),
        (r"web\.shop.mesh", "A", "NXDOMAIN"),
        (r"\255.mesh", "A", "NXDOMAIN"),
        (r"na\032me\0101.bad.mesh", "A", "NXDOMAIN"),
    ],
)
def test_what_is_not_there_is_denied_with_the_soa(name: str, type_: str, rcode: str) -> None:
    response = ask(name, type_)
    assert dns.rcode.to_text(response.rcode()) == rcode
    assert not response.answer
    (soa,) = shown(response.authority)
    assert soa.startswith("mesh. 5 IN SOA ns.mesh. nobody.mesh. 1 ")


@pytest.mark.parametrize(
    ("name", "type_", "class_"),
    [
        ("web.shop", "A", "IN"),
        ("example.org", "A", "IN"),
        (".", "NS", "IN"),
        ("shmesh", "A", "IN"),
        ("mesh", "AXFR", "IN"),
        ("web.shop.mesh", "A", "CH"),
    ],
)
def test_nothing_else_is_answered(name: str, type_: str, class_: str) -> None:
    response = ask(name, type_, rdclass=class_)
    assert response.rcode() == dns.rcode.REFUSED
    assert not response.answer
    assert not response.authority


def test_the_zone_has_an_soa() -> None:
    assert shown(ask("mesh", "SOA").answer)[0].startswith("mesh. 5 IN SOA")


def test_edns_is_answered_and_a_later_version_refused() -> None:
    response = ask("web.shop.mesh", use_edns=0, payload=4096)
    assert response.edns == 0
    assert response.payload == MAX_UDP
    assert ask("web.shop.mesh").edns == -1
    response = ask("web.shop.mesh", use_edns=1)
    assert response.rcode() == dns.rcode.BADVERS
    assert response.edns == 0


@pytest.mark.parametrize(
    ("payload", "size"), [(None, 512), (100, 512), (1000, 1000), (60000, MAX_UDP)]
)
def test_what_does_not_fit_is_asked_again_by_tcp(payload: int | None, size: int) -> None:
    options: dict[str, Any] = {} if payload is None else {"use_edns": 0, "payload": payload}
    query = dns.message.make_query("vips.many.mesh", "A", **options)
    wire = answer(query.to_wire(), ZONE, udp=True).wire
    assert len(wire) <= size
    response = dns.message.from_wire(wire)
    assert response.flags & dns.flags.TC
    assert not response.answer
    whole = dns.message.from_wire(answer(query.to_wire(), ZONE, udp=False).wire)
    assert not whole.flags & dns.flags.TC
    assert len(whole.answer[0]) == 600


def test_what_is_no_question_is_refused_or_dropped() -> None:
    notify = dns.message.make_query("mesh", "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    assert answer(notify.to_wire(), ZONE, udp=True).rcode == "NOTIMP"
    query = dns.message.make_query("web.shop.mesh", "A")
    response = answer(dns.message.make_response(query).to_wire(), ZONE, udp=True)
    assert response == (b"", "DROPPED")
    for short in (b"", b"\0" * 11):
        assert answer(short, ZONE, udp=True).rcode == "DROPPED"
    none = answer(struct.pack(">6H", 7, 0x0100, 0, 0, 0, 0), ZONE, udp=True)
    assert none.rcode == "FORMERR"
    cut = query.to_wire()[:-3]
    made = answer(cut, ZONE, udp=True)
    assert made.rcode == "FORMERR"
    assert made.wire[:2] == cut[:2]
    assert dns.message.from_wire(made.wire).rcode() == dns.rcode.FORMERR
    assert answer(query.to_wire() + b"\0" * 5000, ZONE, udp=False).rcode == "DROPPED"


def test_a_name_that_would_be_too_long_with_the_suffix_is_not_made() -> None:
    assert host_name("shop/web") == "web.shop"
    assert host_name("Shop/Web_1.x") == "web_1.x.shop"
    long = "shop/" + ".".join(["a" * 60] * 3)
    assert host_name(long) is None
    for bad in (
        "shop/",
        "shop/-a",
        "shop/a b",
        "shop/a\nb",
        "shop/" + "a" * 64,
        "shop/é",
        "shop/a/b",
    ):
        assert host_name(bad) is None


# -- any bytes ---------------------------------------------------------------------------------

QUERIES = [
    dns.message.make_query(name, type_, **options).to_wire()
    for name, type_ in [("web.shop.mesh", "A"), ("_http._tcp.web.shop.mesh", "SRV"), ("x.y", "ANY")]
    for options in ({}, {"use_edns": 0, "payload": 1232})
]


def check(wire: bytes, udp: bool) -> None:
    made = answer(wire, ZONE, udp=udp)
    if made.rcode == "DROPPED":
        assert made.wire == b""
        return
    assert made.wire[:2] == wire[:2]
    assert made.wire[2] & 0x80
    assert len(made.wire) <= (MAX_UDP if udp else 65535)
    dns.message.from_wire(made.wire)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=600), st.booleans())
def test_garbage_harms_nothing(wire: bytes, udp: bool) -> None:
    check(wire, udp)


@settings(max_examples=1000, deadline=None)
@given(
    st.sampled_from(QUERIES),
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 60),
    st.binary(max_size=40),
)
def test_altered_queries_harm_nothing(
    query: bytes, changes: list[tuple[int, int]], cut: int, tail: bytes
) -> None:
    wire = bytearray(query)
    for at, value in changes:
        if at < len(wire):
            wire[at] = value
    check(bytes(wire), True)
    check(bytes(wire[: max(0, len(wire) - cut)]) + tail, True)


# -- the names ---------------------------------------------------------------------------------

SERVICES = ["a/x", "A/x", "a/X", "a/y.x", "b/x", "b/bad name", "x/a"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SERVICES), st.booleans()), max_size=25))
def test_names_follow_the_catalog(history: list[tuple[str, bool]]) -> None:
    names = Names()
    there: set[str] = set()
    for name, comes in history:
        old = Service(name) if name in there else None
        new = Service(name) if comes else None
        if old is None and new is None:
            continue
        names.update([Change(name, old, new)])
        (there.add if comes else there.discard)(name)
        made = {
            n: [s for s in sorted(there) if host_name(s) == n] for s in there if (n := host_name(s))
        }
        assert len(names) == len(made)
        for host in ("x.a", "y.x.a", "x.b", "a.x", "bad name.b"):
            assert names.service(host) == (made[host][0] if host in made else None)
        for node in ("a", "b", "x", "x.a", "y.x.a", "q"):
            assert names.exists(node) == any(n == node or n.endswith(f".{node}") for n in made)


# -- the memory --------------------------------------------------------------------------------


class Log:
    def __init__(self) -> None:
        self.errors = 0

    def error(self, *_: Any, **__: Any) -> None:
        self.errors += 1


def responder() -> tuple[Responder, list[str], Log]:
    counted: list[str] = []
    log = Log()
    return Responder("mesh", 5, count=counted.append, log=log), counted, log


def test_answers_are_remembered_until_something_changes() -> None:
    made, counted, _ = responder()
    merger = Merger(["r"])
    one, two = (dns.message.make_query("web.shop.mesh", "A") for _ in range(2))
    assert dns.message.from_wire(made.ask(one.to_wire(), udp=True)).rcode() == dns.rcode.NXDOMAIN
    made.update(*merger.apply("r", [WEB], []))
    for query in (one, two, one):
        response = dns.message.from_wire(made.ask(query.to_wire(), udp=True))
        assert query.is_response(response)
        assert response.answer
    made.update(*merger.apply("r", [], ["shop/web"]))
    assert not dns.message.from_wire(made.ask(two.to_wire(), udp=True)).answer
    assert counted == ["NXDOMAIN", "NOERROR", "NOERROR", "NOERROR", "NXDOMAIN"]


def test_the_memory_is_bounded() -> None:
    made, _, _ = responder()
    for i in range(3000):
        made.ask(dns.message.make_query(f"s{i}.shop.mesh", "A").to_wire(), udp=True)
    assert len(made._memory) == 1024


def test_an_error_of_our_own_is_told_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    made, counted, log = responder()

    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("nodeproxy.dns.server.answer", broken)
    query = dns.message.make_query("web.shop.mesh", "A")
    response = dns.message.from_wire(made.ask(query.to_wire(), udp=True))
    assert response.rcode() == dns.rcode.SERVFAIL
    assert response.id == query.id
    assert (counted, log.errors) == (["SERVFAIL"], 1)


def test_a_catalog_without_services_is_an_empty_zone() -> None:
    empty = Zone(dns.name.from_text("mesh"), 5, Names(), Catalog())
    query = dns.message.make_query("web.shop.mesh", "A")
    assert answer(query.to_wire(), empty, udp=True).rcode == "NXDOMAIN"
