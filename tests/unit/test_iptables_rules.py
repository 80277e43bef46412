"""The text that goes to iptables-restore, ipset and nft."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptables import names
from iptables.names import Family
from iptables.rules import (
    fill_text,
    install_text,
    removal_text,
    rules,
    saved_text,
    sets_text,
)
from iptables.saved import Rule, Ruleset, parse_save, parse_sets
from iptables.settings import Settings

GOLDEN = Path(__file__).parent / "golden"
EMPTY = Ruleset()
SETTINGS = st.builds(
    Settings,
    fail=st.sampled_from(["open", "closed"]),
    inbound=st.booleans(),
    syn_guard=st.booleans(),
    vip_cidrs=st.sampled_from([(), ("10.96.0.0/12",), ("fd00:96::/112", "10.0.0.0/8")]),
    outbound_port=st.integers(1, 15000),
)
FAMILY = st.sampled_from(names.FAMILIES)


def test_everything_at_a_glance():
    """One file for eyes; tests/unit/golden/interception.txt is made by this very code."""
    settings = Settings(vip_cidrs=("10.96.0.0/16",), fail="closed", inbound=True)
    parts = [
        "# ipset -exist restore",
        sets_text(settings),
        "# iptables-restore -w 5 --noflush",
        install_text(rules(settings, 4), EMPTY),
        "# ip6tables-restore -w 5 --noflush",
        install_text(rules(settings, 6), EMPTY),
    ]
    assert "\n".join(parts) == (GOLDEN / "interception.txt").read_text()


def apply(text: str, seen: Ruleset) -> Ruleset:
    """What iptables-restore --noflush makes of a ruleset, for the lines that we write."""
    policies = {table: dict(chains) for table, chains in seen.policies.items()}
    bodies = {t: {c: list(r) for c, r in cs.items()} for t, cs in seen.bodies.items()}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
            policies.setdefault(table, {})
            bodies.setdefault(table, {})
        elif line.startswith(":"):
            chain = line[1:].split()[0]
            policies[table][chain] = "-"
            bodies[table][chain] = []
        elif line != "COMMIT":
            verb, chain, rest = [*line.split(" ", 2), ""][:3]
            body = bodies[table].setdefault(chain, [])
            match verb:
                case "-A":
                    body.append(Rule(chain, rest))
                case "-I":
                    body.insert(0, Rule(chain, rest.removeprefix("1 ")))
                case "-D":
                    [index] = [i for i, rule in enumerate(body) if rule.text == rest][:1]
                    del body[index]
                case "-X":
                    assert not bodies[table].pop(chain)
                    del policies[table][chain]
                case _:
                    raise AssertionError(line)
    return Ruleset(policies, bodies)


def picture(seen: Ruleset) -> dict[str, Any]:
    return {
        table: {chain: [r.text for r in seen.chain(table, chain)] for chain in chains}
        for table, chains in seen.policies.items()
    }


FOREIGN = """*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.1/32 -j ACCEPT
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -p tcp -m comment --comment "talks about -j NP-LOCAL" -j ACCEPT
COMMIT
"""


@given(old=SETTINGS, new=SETTINGS, family=FAMILY)
def test_installing_over_anything_of_ours_ends_the_same(
    old: Settings, new: Settings, family: Family
):
    """Over nothing, over itself, over other settings: one jump each, nothing stale, and removing
    gives back what was there.
    """
    before = parse_save(FOREIGN)
    wanted = picture(apply(install_text(rules(new, family), before), before))
    seen = apply(install_text(rules(old, family), before), before)
    for _ in range(2):
        seen = apply(install_text(rules(new, family), seen), seen)
        assert picture(seen) == wanted
    for table in rules(new, family):
        for jump in table.jumps:
            body = [rule.text for rule in seen.chain(table.name, jump.chain)]
            assert body.count(jump.rule) == 1
    gone = apply(removal_text(seen), seen)
    assert picture(gone) == picture(before)
    assert removal_text(gone) == ""


@given(settings=SETTINGS, family=FAMILY)
def test_saved_text_is_read_back_as_it_was(settings: Settings, family: Family):
    seen = parse_save(saved_text(rules(settings, family)))
    for table in rules(settings, family):
        for chain, body in table.chains.items():
            assert tuple(rule.text for rule in seen.chain(table.name, chain)) == body
        assert not seen.is_bare(table.name)


@given(settings=SETTINGS, family=FAMILY)
def test_the_number_of_rules_is_small_and_only_what_is_needed_is_there(
    settings: Settings, family: Family
):
    text = saved_text(rules(settings, family))
    assert text.count("\n-A ") < 30
    assert ("NP-ENF" in text) == (settings.fail == "closed")
    assert ("NP-IN-LIVE" in text) == settings.inbound
    assert ("NP-FWD" in text) == bool(settings.cidrs(family))
    assert ("-m socket" in text) == settings.syn_guard
    declared = {line.split()[1] for line in sets_text(settings).splitlines()}
    for word in text.split():
        if word.startswith("NP-") and word.endswith(("LIVE", "4", "6")):
            assert word in declared
    assert declared <= set(names.ALL_SETS)


def test_filling_a_set_swaps_it_in():
    text = fill_text("NP-VIP6", 6, [("fd00::1", 80)], 10)
    assert text.splitlines() == [
        "create NP-VIP6-NEW hash:ip,port family inet6 hashsize 1024 maxelem 10 counters",
        "flush NP-VIP6-NEW",
        "add NP-VIP6-NEW fd00::1,tcp:80",
        "swap NP-VIP6-NEW NP-VIP6",
        "destroy NP-VIP6-NEW",
    ]


def test_rules_of_others_are_read():
    rule = Rule("X", '-m comment --comment "say -j DROP" -j NP-PRE')
    assert rule.target == "NP-PRE"
    assert rule.words[3] == "say -j DROP"
    assert "NP-PRE" in repr(rule)
    assert Rule("X", "-p tcp").target is None
    assert Rule("X", "-g NP-PRE").target == "NP-PRE"
    assert Rule("X", "-j ACCEPT").target == "ACCEPT"
    assert (
        parse_save("# a comment\n*nat\n:A - [0:0]\n-A A\nCOMMIT\n").chain("nat", "A")[0].text == ""
    )


def test_sets_are_read():
    found = parse_sets(
        "create NP-VIP4 hash:ip,port family inet\n"
        "create NP-OUT-LIVE list:set size 8 timeout 2\n"
        "add NP-VIP4 10.96.0.10,tcp:80 packets 3 bytes 180\n"
        "add NP-OUT-LIVE NP-VIP4 timeout 1\n"
        "add UNKNOWN x\nnonsense\n"
    )
    assert found.holds("NP-OUT-LIVE", "10.96.0.10,tcp:80")
    assert not found.holds("NP-OUT-LIVE", "10.96.0.10,tcp:81")
    assert not found.holds("NP-NONE", "10.96.0.10,tcp:80")
    assert found.sets["NP-OUT-LIVE"].members == {"NP-VIP4": 1}
    assert "NP-VIP4" in found
    assert found.live


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"outbound_port": 0}, "outbound_port: 0 is not a port"),
        ({"inbound_port": 15001}, "must differ"),
        ({"address4": "fd00::1"}, "address4: fd00::1 can't be used"),
        ({"address6": "::1"}, "address6: ::1 can't be used"),
        ({"address4": "here"}, "address4: 'here' does not appear"),
        ({"mark": 0}, "mark, mask"),
        ({"mark": 1}, "mark: 0x1 has bits outside of mask 0xffff0000"),
        ({"vip_cidrs": ("10.96.0.1/16",)}, "vip_cidrs: 10.96.0.1/16 has host bits set"),
        ({"vip_cidrs": ("0.0.0.0/0",)}, "vip_cidrs: 0.0.0.0/0 would be every address"),
        ({"expiry": 0}, "expiry: 0 s"),
        ({"poll": 0}, "poll"),
    ],
)
def test_settings_name_the_wrong_field(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        Settings(**options)
