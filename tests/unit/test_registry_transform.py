"""What the keys of a registry's entry make of its services, against a naive model."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.model import Endpoint, Locality, Port, Service
from registry.strict import Document, convert
from registry.transform import Composition, Rename, Transform, Zone, defaults


def options(**keys: Any) -> Composition:
    made, problems = convert(Document("np.yaml", keys, lines=7), Composition)
    assert made is not None, problems
    return made


def service(name: str, *endpoints: Endpoint, **labels: str) -> Service:
    return Service(name, (), (Port(80),), endpoints, tuple(sorted(labels.items())))


def labelled(address: str, **labels: str) -> Endpoint:
    return Endpoint(address, 80, labels=tuple(sorted(labels.items())))


def only(service_: Service, *conditions: dict[str, Any]) -> list[str] | None:
    made, _ = Transform(options(only=list(conditions))).apply([service_], [])
    return [e.address for e in made[0].endpoints] if made else None


@pytest.mark.parametrize(
    ("condition", "left"),
    [
        ({"label": "env", "value": "prod"}, ["10.0.0.1"]),
        ({"label": "env", "values": ["prod", "test"]}, ["10.0.0.1", "10.0.0.2"]),
        ({"label": "env"}, ["10.0.0.1", "10.0.0.2"]),
        ({"label": "env", "not": True}, ["10.0.0.3"]),
        ({"label": "env", "value": "prod", "not": True}, ["10.0.0.2", "10.0.0.3"]),
        # The service's label stands in where an endpoint has none of this name.
        ({"label": "team", "value": "shop"}, ["10.0.0.1", "10.0.0.2"]),
        ({"label": "team", "value": "shop", "on": "service"}, ["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
        ({"label": "team", "value": "other", "on": "service"}, None),
        ({"label": "team", "not": True, "on": "service"}, None),
    ],
)
def test_labels_decide_who_passes(condition: dict[str, Any], left: list[str] | None) -> None:
    web = service(
        "shop/web",
        labelled("10.0.0.1", env="prod"),
        labelled("10.0.0.2", env="test"),
        labelled("10.0.0.3", team="other"),
        team="shop",
    )
    assert only(web, condition) == left


def test_all_conditions_have_to_be_met() -> None:
    web = service(
        "shop/web", labelled("10.0.0.1", a="1", b="1"), labelled("10.0.0.2", a="1"), c="1"
    )
    assert only(web, {"label": "a"}, {"label": "b", "not": True}) == ["10.0.0.2"]
    # A service that keeps none of its endpoints is still there: another registry may have some.
    assert only(web, {"label": "z"}) == []


@pytest.mark.parametrize(
    ("known", "given", "result"),
    [
        (Locality(), Zone("r", "z"), Locality("r", "z")),
        (Locality(node="n"), Zone("r", "z"), Locality("r", "z", "n")),
        (Locality("r"), Zone("r", "z"), Locality("r", "z")),
        (Locality("other"), Zone("r", "z"), Locality("other")),
        (Locality(zone="here"), Zone("r", "z"), Locality("r", "here")),
        (Locality("other", "here"), Zone("r", "z"), Locality("other", "here")),
        (Locality("other"), Zone(zone="z"), Locality("other", "z")),
    ],
)
def test_endpoints_without_a_place_get_one(known: Locality, given: Zone, result: Locality) -> None:
    web = service("shop/web", Endpoint("10.0.0.1", 80, locality=known))
    made, _ = Transform(Composition(locality=given)).apply([web], [])
    assert made[0].endpoints[0].locality == result


def test_the_port_of_all_endpoints_can_be_given() -> None:
    made, _ = Transform(options(port_override=9000)).apply(
        [service("shop/web", Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 9000))], []
    )
    assert [e.port for e in made[0].endpoints] == [9000, 9000]


def test_what_nothing_changes_is_not_copied() -> None:
    web = service("shop/web", labelled("10.0.0.1", a="1"))
    for keys in ({}, {"only": [{"label": "a"}]}, {"port_override": 80}, {"rename": []}):
        made, _ = Transform(options(**keys)).apply([web], [])
        assert made[0] is web


@pytest.mark.parametrize(
    ("rule", "name", "result"),
    [
        ({"match": "*/web", "to": "shop/{name}"}, "a/web", "shop/web"),
        ({"match": "*/web", "to": "shop/{name}"}, "a/web2", "a/web2"),
        ({"match": "prod/*-v?", "to": "{1}/{2}"}, "prod/web-v3", "web/3"),
        ({"match": "a.c/*", "to": "x/{1}"}, "abc/web", "abc/web"),
        ({"regex": "(?P<team>[a-z]+)-prod/(.*)", "to": "{team}/{2}"}, "shop-prod/web", "shop/web"),
        ({"regex": "a/(x)?(.*)", "to": "b/{1}{2}"}, "a/web", "b/web"),
        ({"regex": "a/.*", "to": "{namespace}-{name}/{name}"}, "a/web", "a-web/web"),
        ({"match": "default/*", "to": "far/{{{1}}}"}, "default/web", "far/{web}"),
    ],
)
def test_names_follow_rules(rule: dict[str, Any], name: str, result: str) -> None:
    made, _ = Transform(options(rename=[rule])).apply([service(name)], [])
    assert [s.name for s in made] == [result]


def test_the_first_rule_that_matches_counts() -> None:
    rules = [{"match": "a/*", "to": "b/{1}"}, {"match": "*/*", "to": "c/{2}"}]
    transform = Transform(options(rename=rules))
    assert [transform.renamed(n) for n in ("a/x", "b/x")] == ["b/x", "c/x"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"to": "a/b"}, "either match or regex"),
        ({"to": "a/b", "match": "x", "regex": "x"}, "either match or regex"),
        ({"to": "a/{2}", "match": "*"}, "{2} is not a part of the name, nor a group"),
        ({"to": "a/{0}", "match": "*"}, "{0} is not a part"),
        ({"to": "a/{name.x}", "match": "*"}, "{name.x} is not a part"),
        ({"to": "a/{name!r}", "match": "*"}, "is not a part"),
        ({"to": "abc", "match": "*"}, "does not make namespace/name"),
        ({"to": "a/b/{1}", "match": "*"}, "does not make namespace/name"),
        ({"to": "a/{", "match": "*"}, ""),
        ({"to": "a/b", "regex": "("}, "regex: "),
    ],
)
def test_rules_that_cannot_work_are_refused(rule: dict[str, Any], message: str) -> None:
    made, problems = convert(Document("np.yaml", rule, lines=3), Rename)
    assert made is None
    (problem,) = problems
    assert message in problem.message
    assert problem.line == 3


def test_two_services_of_one_name_are_a_conflict_that_ends() -> None:
    transform = Transform(options(rename=[{"regex": "(.)/.*", "to": "all/{1}"}]))
    one, two = service("a/one"), service("a/two")
    made, _ = transform.apply([two], [])
    assert [s.name for s in made] == ["all/a"]
    assert not list(transform.problems())
    made, gone = transform.apply([one, service("b/x")], [])
    assert [(s.name) for s in made] == ["all/a", "all/b"]
    assert not gone
    (problem,) = transform.problems()
    assert str(problem) == (
        "a/two: by the rules of rename it would be all/a, which a/one is already"
    )
    made, gone = transform.apply([], ["a/one"])
    assert ([s.name for s in made], gone) == (["all/a"], [])
    assert not list(transform.problems())
    assert transform.apply([], ["a/two"]) == ([], ["all/a"])


def test_a_name_that_no_rule_makes_usable_is_told_and_forgotten() -> None:
    transform = Transform(options(rename=[{"regex": "a/(.*)", "to": "b/{1}"}]))
    made, gone = transform.apply([service("a/"), service("a/x/y")], [])
    assert (made, gone) == ([], [])
    assert len(list(transform.problems())) == 2
    transform.apply([], ["a/", "a/x/y"])
    assert not list(transform.problems())


def test_default_endpoints_are_services() -> None:
    one = options(default_endpoints={"web": ["10.0.0.9:80", "[::1]:0443"], "shop/x": ["1.1.1.1:1"]})
    two = options(default_endpoints={"default/web": ["10.0.0.9:80", "10.0.0.10:80"]})
    made = {s.name: s for s in defaults([one, two])}
    assert made.keys() == {"default/web", "shop/x"}
    web = made["default/web"]
    assert [e.address for e in web.endpoints] == ["10.0.0.9", "::1", "10.0.0.10"]
    assert [p.port for p in web.ports] == [80, 443]
    for wrong in ("10.0.0.9", 80, "web:80", "10.0.0.9:0"):
        _, problems = convert(
            Document("np.yaml", {"default_endpoints": {"web": [wrong]}}, lines=1), Composition
        )
        assert problems


# -- any history, against a model that starts from nothing each time -------------------------

NAMES = ["a/x", "a/y", "b/x", "b/y"]
RULES = [[], [{"match": "*/x", "to": "b/x"}], [{"match": "*/*", "to": "all/{2}"}]]
ONLY = [[], [{"label": "v", "value": "1"}], [{"label": "s", "not": True, "on": "service"}]]


@st.composite
def services(draw: st.DrawFn) -> Service:
    endpoints = tuple(
        labelled(f"10.0.0.{i}", **({"v": v} if v else {}))
        for i, v in enumerate(draw(st.lists(st.sampled_from(["", "1", "2"]), max_size=2)))
    )
    return service(
        draw(st.sampled_from(NAMES)), *endpoints, **draw(st.sampled_from([{}, {"s": "1"}]))
    )


def naive(raw: dict[str, Service], composition: Composition) -> dict[str, Service]:
    found: dict[str, Service] = {}
    for name in sorted(raw):
        one = Transform(composition)  # one service alone meets no other
        made, _ = one.apply([raw[name]], [])
        for service_ in made:
            found.setdefault(service_.name, service_)
    return found


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(RULES),
    st.sampled_from(ONLY),
    st.lists(
        st.tuples(
            st.lists(services(), max_size=3, unique_by=lambda s: s.name),
            st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
        ),
        max_size=8,
    ),
)
def test_any_history_ends_in_the_models_state(
    rules: list[Any], conditions: list[Any], history: list[tuple[list[Service], list[str]]]
) -> None:
    composition = options(rename=rules, only=conditions)
    transform = Transform(composition)
    raw: dict[str, Service] = {}
    merged: dict[str, Service] = {}
    for upserts, removals in history:
        for name in removals:
            raw.pop(name, None)
        raw |= {s.name: s for s in upserts}
        made, gone = transform.apply(upserts, removals)
        for name in gone:
            merged.pop(name, None)
        merged |= {s.name: s for s in made}
        assert merged == naive(raw, composition)
        assert transform.raw == raw
        lost = len([s for s in raw.values() if naive({s.name: s}, composition)]) - len(merged)
        assert len(list(transform.problems())) == transform.troubles == lost


def test_options_are_plain_values() -> None:
    assert msgspec.json.encode(options(priority=3)) is not None
    assert options(priority=3).priority == 3
