"""The catalog and its merger, held against a naive model that starts from nothing each time."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.address import canonical, is_proxyable, normalised, split_host_port
from registry.catalog import EMPTY, STEP, Catalog, Change, Merger
from registry.model import Endpoint, Port, Service

ADDRESSES = ["10.0.0.1", "10.0.0.2", "fd00::1"]


def service(
    name: str = "default/web",
    *,
    vips: Iterable[str] = ("10.96.0.1",),
    ports: Iterable[int] = (80,),
    endpoints: Iterable[tuple[str, int]] = (),
) -> Service:
    return Service(
        name,
        vips=tuple(vips),
        ports=tuple(Port(p) for p in ports),
        endpoints=tuple(Endpoint(a, p) for a, p in endpoints),
    )


def test_a_service_is_found_by_name_and_by_address() -> None:
    web = service(endpoints=[("10.0.0.1", 8080)])
    catalog, changes = Merger(["file"]).apply("file", [web], [])
    assert catalog.get("default/web") == web
    assert catalog.at("10.96.0.1", 80) == (web, Port(80))
    assert catalog.at("10.96.0.1", 81) is None
    assert catalog.is_vip("10.96.0.1")
    assert not catalog.is_vip("10.0.0.1")
    assert catalog.owners("10.0.0.1", 8080) == ("default/web",)
    assert changes == (Change("default/web", None, web),)
    assert len(catalog) == 1
    assert list(catalog) == [web]
    assert "default/web" in catalog
    assert len(EMPTY) == 0


def test_an_ipv4_mapped_address_is_the_ipv4_address() -> None:
    web = service(vips=["::ffff:10.96.0.1", "2001:DB8:0::1"], endpoints=[("::ffff:10.0.0.1", 1)])
    catalog, _ = Merger(["file"]).apply("file", [web], [])
    found = catalog.get("default/web")
    assert found is not None
    assert found.vips == ("10.96.0.1", "2001:db8::1")
    assert found.endpoints[0].address == "10.0.0.1"
    for address in ("10.96.0.1", "::ffff:10.96.0.1", "2001:db8::1", "2001:DB8::0001"):
        assert catalog.at(address, 80) == (found, Port(80))
        assert catalog.is_vip(address)
    assert catalog.owners("::ffff:10.0.0.1", 1) == ("default/web",)
    assert catalog.at("no:address", 80) is None


def test_the_first_registry_wins_and_endpoints_are_united() -> None:
    merger = Merger(["file", "dns"])
    first = msgspec.structs.replace(
        service(endpoints=[("10.0.0.1", 1)]), labels=(("from", "file"),)
    )
    second = service(vips=["10.96.9.9"], ports=[99], endpoints=[("10.0.0.1", 1), ("10.0.0.2", 2)])
    merger.apply("dns", [second], [])
    catalog, changes = merger.apply("file", [first], [])
    merged = catalog.get("default/web")
    assert merged is not None
    assert [e.key[:2] for e in merged.endpoints] == [("10.0.0.1", 1), ("10.0.0.2", 2)]
    assert merged.vips == first.vips
    assert merged.ports == first.ports
    assert merged.labels == (("from", "file"),)
    assert changes == (Change("default/web", second, merged),)
    assert not catalog.is_vip("10.96.9.9")


def test_a_contested_address_goes_to_the_earlier_registry_then_name() -> None:
    merger = Merger(["file", "dns"])
    merger.apply("dns", [service("default/a")], [])
    catalog, changes = merger.apply("file", [service("default/b")], [])
    assert catalog.at("10.96.0.1", 80) == (service("default/b"), Port(80))
    assert [c.name for c in changes] == ["default/b", "default/a"]
    assert changes[1].old == changes[1].new == service("default/a")
    assert [p.field for p in catalog.conflicts] == ["default/a"]
    assert "default/b" in catalog.conflicts[0].message
    catalog, changes = merger.apply("file", [], ["default/b"])
    assert catalog.at("10.96.0.1", 80) == (service("default/a"), Port(80))
    assert [c.name for c in changes] == ["default/b", "default/a"]
    assert catalog.conflicts == ()


def test_saying_the_same_again_makes_no_new_catalog() -> None:
    merger = Merger(["file"])
    before, _ = merger.apply("file", [service()], [])
    after, changes = merger.apply("file", [service()], ["default/unknown"])
    assert after is before
    assert changes == ()


def test_what_can_never_work_is_left_out_and_told() -> None:
    bad = service(vips=["web.example"], ports=[80, 0], endpoints=[("10.0.0.1", 0), ("x", 1)])
    merger = Merger(["file"])
    catalog, _ = merger.apply("file", [bad], [])
    assert catalog.get("default/web") == Service("default/web", ports=(Port(80),))
    assert len(list(merger.problems_of("file"))) == 4
    merger.apply("file", [service()], [])
    assert not list(merger.problems_of("file"))


def test_the_work_of_a_change_does_not_grow_with_the_catalog() -> None:
    def work(size: int) -> int:
        merger = Merger(["file"])
        many = [
            service(
                f"default/s{i}", vips=[f"10.96.{i >> 8}.{i & 255}"], endpoints=[("10.0.0.1", i + 1)]
            )
            for i in range(size)
        ]
        merger.apply("file", many, [])
        return sum(merger.steps("file", [service("default/s1", vips=["10.96.0.1"])], []))

    assert work(2000) == work(20)


def test_a_huge_service_is_worked_on_in_steps() -> None:
    huge = service(endpoints=[(f"10.{i >> 8}.{i & 255}.1", 80) for i in range(5000)])
    merger = Merger(["file"])
    assert max(merger.steps("file", [huge], [])) <= 2 * len(huge.endpoints) + 2
    catalog = merger.catalog
    assert len(catalog.owners("10.0.7.1", 80)) == 1
    assert len(huge.endpoints) > STEP


# --- against a model ----------------------------------------------------------------------

services = st.builds(
    service,
    st.sampled_from(["n/a", "n/b", "n/c"]),
    vips=st.lists(st.sampled_from(["10.96.0.1", "10.96.0.2", "fd00::96"]), max_size=2, unique=True),
    ports=st.lists(st.integers(80, 82), max_size=2, unique=True),
    endpoints=st.lists(
        st.tuples(st.sampled_from(ADDRESSES), st.integers(1, 2)), max_size=4, unique=True
    ),
)
REGISTRIES = ["one", "two", "three"]
operations = st.lists(
    st.tuples(
        st.sampled_from(REGISTRIES),
        st.lists(services, max_size=3),
        st.lists(st.sampled_from(["n/a", "n/b", "n/c"]), max_size=2),
    ),
    max_size=12,
)


class Model:
    """The merge rule, from scratch, in the fewest words."""

    def __init__(self) -> None:
        self.said: dict[str, dict[str, Service]] = {r: {} for r in REGISTRIES}

    def apply(self, registry: str, upserts: list[Service], removals: list[str]) -> None:
        for name in removals:
            self.said[registry].pop(name, None)
        for one in upserts:
            self.said[registry][one.name] = one

    def merged(self) -> dict[str, tuple[int, Service]]:
        out: dict[str, tuple[int, Service]] = {}
        for rank, registry in enumerate(REGISTRIES):
            for name, one in self.said[registry].items():
                if name not in out:
                    out[name] = (rank, one)
                    continue
                first_rank, first = out[name]
                known = {e.key for e in first.endpoints}
                extra = tuple(e for e in one.endpoints if e.key not in known)
                out[name] = (
                    first_rank,
                    msgspec.structs.replace(first, endpoints=first.endpoints + extra),
                )
        return out

    def vips(self) -> dict[tuple[str, int], str]:
        ranked = sorted((rank, name, one) for name, (rank, one) in self.merged().items())
        owners: dict[tuple[str, int], str] = {}
        for _, name, one in ranked:
            for vip in one.vips:
                for port in one.ports:
                    owners.setdefault((vip, port.port), name)
        return owners


def check(catalog: Catalog, model: Model) -> None:
    merged = {name: one for name, (_, one) in model.merged().items()}
    assert {s.name: s for s in catalog} == merged
    vips = model.vips()
    claims = 0
    for one in merged.values():
        claims += len(one.vips) * len(one.ports)
        for vip in one.vips:
            assert catalog.is_vip(vip)
    for (vip, port), name in vips.items():
        assert catalog.at(vip, port) == (merged[name], merged[name].port(port))
    assert len(catalog._vips) == len(vips)
    assert set(catalog._vip_use) == {v for one in merged.values() for v in one.vips}
    assert len(catalog.conflicts) == claims - len(vips)
    for address in ADDRESSES:
        for port in (1, 2):
            owners = sorted(
                n
                for n, s in merged.items()
                if any(e.key == (address, port, "") for e in s.endpoints)
            )
            assert catalog.owners(address, port) == tuple(owners)


@settings(max_examples=300, deadline=None)
@given(operations)
def test_any_history_ends_in_the_models_state(
    history: list[tuple[str, list[Service], list[str]]],
) -> None:
    merger, model = Merger(REGISTRIES), Model()
    for registry, upserts, removals in history:
        upserts = list({s.name: s for s in upserts}.values())
        before = merger.catalog
        held = {key: value[0].name for key, value in before._vips.items()}
        was = {s.name: s for s in before}
        catalog, changes = merger.apply(registry, upserts, removals)
        model.apply(registry, upserts, removals)
        check(catalog, model)
        now = {s.name: s for s in catalog}
        # Changes tell exactly the differences: by value, or by who has an address.
        assert len({c.name for c in changes}) == len(changes)
        for name, old, new in changes:
            assert was.get(name) == old
            assert now.get(name) == new
        told = {c.name for c in changes}
        assert told >= {n for n in was.keys() | now.keys() if was.get(n) != now.get(n)}
        for key, value in catalog._vips.items():
            if held.get(key, value[0].name) != value[0].name:
                assert value[0].name in told
        assert {s.name: s for s in before} == was  # an old snapshot never changes


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("[2001:DB8::1]:65535", ("2001:db8::1", 65535)),
        ("[::ffff:1.2.3.4]:1", ("1.2.3.4", 1)),
    ],
)
def test_host_and_port_are_split(text: str, result: tuple[str, int]) -> None:
    assert split_host_port(text) == result


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1", "10.0.0.1:", ":80", "2001:db8::1:80", "[10.0.0.1]:80", "web:80", "10.0.0.1:0",
     "10.0.0.1:65536", "10.0.0.01:80", "10.0.0.1:" + "9" * 5000, "[fe80::1%eth0]:80", "10.0.0.1:٣"],
)  # fmt: skip
def test_what_is_no_address_and_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        split_host_port(text)


@given(st.ip_addresses())
def test_canonical_is_what_ipaddress_says(address: IPv4Address | IPv6Address) -> None:
    mapped = getattr(address, "ipv4_mapped", None)
    assert canonical(address.exploded) == str(mapped or address)
    assert canonical(canonical(str(address))) == canonical(str(address))


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "169.254.1.1", "fe80::1", "224.0.0.1", "ff02::1", "0.0.0.0", "::"],
)  # fmt: skip
def test_node_local_addresses_are_not_proxyable(address: str) -> None:
    assert not is_proxyable(address)


def test_ordinary_addresses_are_proxyable() -> None:
    assert is_proxyable("10.0.0.1")
    assert is_proxyable("fd00::1")


def test_a_clean_service_is_not_copied() -> None:
    web = service(endpoints=[("10.0.0.1", 80)])
    assert normalised(web) == (web, [])
    assert normalised(web)[0] is web
