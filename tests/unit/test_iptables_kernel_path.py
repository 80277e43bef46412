"""The kernel path's transactions: a change ends where a new start would."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iptables.kernel_path import MOST_SLOTS, KernelPath, slots
from iptables.names import Family
from iptables.programmed import normal
from iptables.settings import Backend, Frontend, Settings

BACKENDS = st.lists(
    st.builds(
        Backend,
        st.sampled_from([f"10.244.0.{i}" for i in range(6)]),
        st.sampled_from([80, 81]),
        st.integers(0, 12),
    ),
    max_size=6,
)
FRONTENDS = st.builds(
    Frontend,
    st.sampled_from([f"10.96.0.{i}" for i in range(4)]),
    st.sampled_from([80, 443]),
    BACKENDS.map(tuple),
)


@given(backends=BACKENDS, old=BACKENDS)
def test_slots_are_as_the_weights(backends: list[Backend], old: list[Backend]):
    weights: dict[str, int] = {}
    for backend in backends:
        key = f"{backend.address} . {backend.port}"
        weights[key] = max(weights.get(key, 0), backend.weight)
    weights = {key: weight for key, weight in weights.items() if weight}
    found = Counter(slots(backends, slots(old)))
    divisor = math.gcd(*weights.values()) or 1
    assert found == {key: weight // divisor for key, weight in weights.items()}


@given(weights=st.lists(st.integers(1, 10**6), min_size=1, max_size=300))
def test_large_weights_are_rounded(weights: list[int]):
    found = slots([Backend(f"10.0.{i // 250}.{i % 250}", 1, w) for i, w in enumerate(weights)])
    assert 0 < len(found) <= MOST_SLOTS
    total = sum(weights)
    for target, count in Counter(found).items():
        octets = target.split(" ")[0].split(".")
        weight = weights[int(octets[2]) * 250 + int(octets[3])]
        assert abs(count / len(found) - weight / total) < 1 / MOST_SLOTS + 1e-9


@given(backends=BACKENDS, extra=BACKENDS)
def test_a_slot_stays_if_it_can(backends: list[Backend], extra: list[Backend]):
    old = slots(backends)
    new = slots([*backends, *extra], old)
    left = Counter(new)
    for was, now in zip(old, new, strict=False):
        if was != now:
            assert left[was] <= new[: len(old)].count(was)
    assert slots(backends, old) == old


class Nft:
    """The maps of one table, as a strict reader of our transactions understands them."""

    def __init__(self) -> None:
        self.chains: set[str] = set()
        self.maps: dict[str, dict[str, str]] = {}

    def apply(self, text: str) -> None:
        for line in text.splitlines():
            words = line.split()
            match words[:2]:
                case ["delete", "table"]:
                    self.chains, self.maps = set(), {}
                case ["add", "chain"]:
                    assert words[4] not in self.chains
                    self.chains.add(words[4])
                case ["add" | "delete" as verb, "element"]:
                    elements = self.maps.setdefault(words[4], {})
                    for item in re.fullmatch(r".*\{ (.*) \}", line)[1].split(", "):  # type: ignore[index]
                        key, _, value = item.partition(" : ")
                        if verb == "delete":
                            del elements[key]
                        else:
                            assert key not in elements
                            elements[key] = value

    def check(self) -> None:
        for value in self.maps.get("services", {}).values():
            assert value.removeprefix("goto ") in {*self.chains, "refuse"}


@settings(max_examples=200)
@given(
    start=st.lists(FRONTENDS, max_size=4),
    steps=st.lists(st.tuples(st.lists(FRONTENDS, max_size=3), st.lists(FRONTENDS, max_size=3))),
)
def test_changes_end_where_a_new_start_would(
    start: list[Frontend], steps: Sequence[tuple[list[Frontend], list[Frontend]]]
):
    path, nft = KernelPath(Settings(), 4), Nft()
    nft.apply(path.replace(start))
    current = {frontend.key: frontend for frontend in start}
    for upserts, removals in steps:
        gone = [frontend.key for frontend in removals]
        text = path.change(upserts, gone)
        nft.apply(text)
        nft.check()
        for key in gone:
            current.pop(key, None)
        current.update((frontend.key, frontend) for frontend in upserts)
    assert path.services.keys() == current.keys()
    for key, frontend in current.items():
        assert Counter(path.services[key]) == Counter(slots(frontend.backends))
    fresh = Nft()
    fresh.apply(KernelPath(Settings(), 4).replace(current.values()))
    for name in ("services", "addresses"):
        assert nft.maps.get(name, {}) == fresh.maps.get(name, {})
    shape = dict.fromkeys(fresh.maps.get("endpoints", {}))
    assert dict.fromkeys(nft.maps.get("endpoints", {})) == shape


def test_one_endpoint_is_a_few_elements():
    many = [Backend(f"10.244.{i // 250}.{i % 250}", 80) for i in range(500)]
    path = KernelPath(Settings(), 4)
    path.replace([Frontend("10.96.0.1", 80, tuple(many))])
    text = path.change([Frontend("10.96.0.1", 80, (*many[:7], *many[8:]))], [])
    assert text.count(" : ") == 2  # the slot that was the last one's, and the service
    assert path.change([Frontend("10.96.0.1", 80, (*many[:7], *many[8:]))], []) == ""


@pytest.mark.parametrize("family", [4, 6])
def test_the_table(family: Family):
    path = KernelPath(Settings(), family)
    text = path.replace([])
    ip = "ip" if family == 4 else "ip6"
    assert text.startswith(f"table {ip} nodeproxy\ndelete table {ip} nodeproxy\n")
    assert f"{ip} daddr . tcp dport vmap @services" in text
    assert path.remove() == f"table {ip} nodeproxy\ndelete table {ip} nodeproxy\n"


def test_closed_services_have_no_kernel_path():
    path = KernelPath(Settings(fail="closed"), 4)
    shut = Frontend("10.96.0.1", 80, (Backend("10.244.0.1", 80),))
    opened = Frontend("10.96.0.1", 81, (Backend("10.244.0.1", 80),), intercept=False)
    path.replace([shut, opened])
    assert list(path.services) == [opened.key]
    path.change([Frontend("10.96.0.1", 81)], [])
    assert list(path.services) == []


def test_addresses_are_normalized_and_families_not_mixed():
    found = normal(
        Frontend("FD00:0::1", 80, (Backend("fd00::0:2", 80, 3), Backend("10.0.0.1", 80)))
    )
    assert found.address == "fd00::1"
    assert found.backends == (Backend("fd00::2", 80, 3),)
