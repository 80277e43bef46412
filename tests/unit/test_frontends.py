"""What changes of the catalog make of the kernel's frontends, against computing them anew."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iptables.settings import Backend, Frontend
from nodeproxy.frontends import changed, frontends
from registry.catalog import Catalog, Change, Merger
from registry.model import Endpoint, Port, Service

VIPS = ("10.96.0.1", "10.96.0.2", "fd00:96::1")
ADDRESSES = ("10.244.0.1", "10.244.0.2", "fd00:244::1", "fd00:244::2")

endpoints = st.builds(
    Endpoint,
    address=st.sampled_from(ADDRESSES),
    port=st.sampled_from([8080, 8081]),
    port_name=st.sampled_from(["", "http", "admin"]),
    weight=st.integers(0, 3),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
)
ports = st.lists(
    st.sampled_from([Port(80, "http", "http"), Port(443, "tls", "tls"), Port(81, "admin")]),
    unique=True,
    max_size=3,
).map(tuple)
services = st.builds(
    Service,
    name=st.sampled_from(["a/a", "a/b", "b/a"]),
    vips=st.lists(st.sampled_from(VIPS), unique=True, max_size=3).map(tuple),
    ports=ports,
    endpoints=st.lists(endpoints, max_size=4, unique_by=lambda e: e.key).map(tuple),
)
steps = st.tuples(
    st.sampled_from(["first", "second"]),
    st.lists(services, max_size=3, unique_by=lambda s: s.name),
    st.lists(st.sampled_from(["a/a", "a/b", "b/a"]), max_size=2, unique=True),
)


def table(catalog: Catalog) -> dict[tuple[str, int], Frontend]:
    return {f.key: f for f in frontends(catalog)}


@given(st.lists(st.lists(steps, min_size=1, max_size=4), max_size=4))
def test_changes_lead_where_computing_anew_does(batches: list[list[tuple[str, list, list]]]):
    """Several registries that claim the same addresses, several changes at a time."""
    merger = Merger(["first", "second"])
    kernel: dict[tuple[str, int], Frontend] = {}
    for batch in batches:
        changes: list[Change] = []
        for registry, upserts, removals in batch:
            gone = [name for name in removals if name not in {s.name for s in upserts}]
            changes += merger.apply(registry, upserts, gone)[1]
        upserted, removed = changed(changes, merger.catalog)
        assert not removed & upserted.keys()
        for key in removed:
            kernel.pop(key, None)
        kernel |= upserted
        assert kernel == table(merger.catalog)


def one(*known: Service) -> Catalog:
    return Merger(["file"]).apply("file", known, ())[0]


def test_only_backends_that_take_traffic_and_are_of_the_same_family():
    catalog = one(
        Service(
            "shop/web",
            ("10.96.0.1", "fd00:96::1"),
            (Port(80, "http"), Port(81, "admin")),
            (
                Endpoint("10.244.0.1", 8080, weight=5),
                Endpoint("10.244.0.2", 8080, ready=False),
                Endpoint("10.244.0.3", 8080, weight=0),
                Endpoint("fd00:244::1", 8080, "http"),
            ),
        )
    )
    assert table(catalog) == {
        ("10.96.0.1", 80): Frontend("10.96.0.1", 80, (Backend("10.244.0.1", 8080, 5),), "shop/web"),
        ("10.96.0.1", 81): Frontend("10.96.0.1", 81, (Backend("10.244.0.1", 8080, 5),), "shop/web"),
        ("fd00:96::1", 80): Frontend("fd00:96::1", 80, (Backend("fd00:244::1", 8080),), "shop/web"),
        ("fd00:96::1", 81): Frontend("fd00:96::1", 81, (), "shop/web"),
    }


def test_endpoints_that_terminate_serve_where_none_is_ready():
    leaving = Endpoint("10.244.0.1", 8080, ready=False, serving=True, terminating=True)
    catalog = one(Service("shop/web", ("10.96.0.1",), (Port(80),), (leaving,)))
    (found,) = frontends(catalog)
    assert found.backends == (Backend("10.244.0.1", 8080),)


def test_an_address_that_is_given_up_goes_to_who_claims_it_too():
    merger = Merger(["file"])
    winner = Service("a/a", ("10.96.0.1",), (Port(80),))
    loser = Service("a/b", ("10.96.0.1",), (Port(80),), (Endpoint("10.244.0.1", 80),))
    merger.apply("file", [winner, loser], ())
    catalog, changes = merger.apply("file", [], ["a/a"])
    upserts, removals = changed(changes, catalog)
    assert {key: f.service for key, f in upserts.items()} == {("10.96.0.1", 80): "a/b"}
    assert removals == set()
