"""Where packets end, told by the tracer: most of what the rules promise is checked here."""

from collections.abc import Mapping
from typing import Any

import pytest

from iptables.names import Family
from iptables.rules import rules, saved_text
from iptables.saved import IpSet, Sets, parse_save
from iptables.settings import Settings
from iptables.tracer import Packet, Trace, trace

VIP: Mapping[Family, str] = {4: "10.96.0.10", 6: "fd00:96::10"}
POD: Mapping[Family, str] = {4: "10.244.1.11", 6: "fd00:244:1::11"}
PROXY: Mapping[Family, str] = {4: "169.254.171.1", 6: "fd0d:4e50::1"}
FAMILIES: tuple[Family, ...] = (4, 6)
CIDRS = ("10.96.0.0/16", "fd00:96::/112")


def sets(live: bool, enforced: bool = False) -> Sets:
    members = {"NP-VIP4": 1, "NP-VIP6": 1}
    found = {
        "NP-OUT-LIVE": IpSet("list:set", members if live else {}),
        "NP-VIP4": IpSet("hash:ip,port", {f"{VIP[4]},tcp:80": None}),
        "NP-VIP6": IpSet("hash:ip,port", {f"{VIP[6]},tcp:80": None}),
    }
    if enforced:
        found["NP-ENF4"], found["NP-ENF6"] = found["NP-VIP4"], found["NP-VIP6"]
    return Sets(found)


def follow(
    family: Family,
    *,
    live: bool = True,
    port: int = 80,
    to: str | None = None,
    kernel: Mapping[tuple[str, int], tuple[tuple[str, int], ...]] | None = None,
    text: str | None = None,
    settings: Settings | None = None,
    **packet: Any,
) -> Trace:
    settings = settings or Settings(vip_cidrs=CIDRS)
    saved = text if text is not None else saved_text(rules(settings, family))
    return trace(
        parse_save(saved),
        sets(live, settings.fail == "closed"),
        Packet(POD[family], to or VIP[family], port, **packet),
        kernel_path=kernel,
        routes=dict.fromkeys(CIDRS, "lo"),
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("interface", ["cni0", "lo"])
def test_a_service_address_leads_to_the_proxy(family: Family, interface: str):
    found = follow(family, interface=interface)
    assert found.verdict == "proxy"
    assert not found.uncertain
    host = PROXY[family] if family == 4 else f"[{PROXY[family]}]"
    assert found.destination == f"{host}:15001"
    assert str(found).endswith(f":80 -> proxy {host}:15001")


def test_the_sentence():
    assert str(follow(4)) == "SYN from 10.244.1.11 to 10.96.0.10:80 -> proxy 169.254.171.1:15001"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("interface", ["cni0", "lo"])
def test_expired_switch_leads_to_the_kernel_path(family: Family, interface: str):
    endpoints = tuple((POD[family], 8080 + i) for i in range(3))
    found = follow(family, live=False, interface=interface, kernel={(VIP[family], 80): endpoints})
    assert found.verdict == "endpoint"
    assert str(found).endswith(
        ":80 -> switch expired -> falls through -> kernel path -> one of 3 endpoints"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_weighted_slots_of_one_endpoint_are_one(family: Family):
    endpoints = ((POD[family], 8080),) * 3
    found = follow(family, live=False, kernel={(VIP[family], 80): endpoints})
    host = POD[family] if family == 4 else f"[{POD[family]}]"
    assert str(found).endswith(f"kernel path -> endpoint {host}:8080")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("interface", ["cni0", "lo"])
def test_no_endpoint_is_refused_not_dropped(family: Family, interface: str):
    found = follow(family, live=False, interface=interface, kernel={(VIP[family], 80): ()})
    assert found.verdict == "reject"
    assert str(found).endswith("kernel path -> refused (no endpoint)")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("interface", ["cni0", "lo"])
@pytest.mark.parametrize("live", [True, False])
def test_fail_closed_never_falls_through(family: Family, interface: str, live: bool):
    found = follow(
        family,
        live=live,
        interface=interface,
        settings=Settings(fail="closed"),
        kernel={(VIP[family], 80): ((POD[family], 8080),)},
    )
    assert found.verdict == ("proxy" if live else "reject")
    if not live:
        assert str(found).endswith("switch expired -> refused (the refusal port is closed)")


def test_the_mark_leaves_the_proxys_own_sockets_alone():
    for mark in (0x4E500000, 0x4E500001, 0x4E50FFFF):
        found = follow(4, interface="lo", mark=mark, to="10.9.9.9")
        assert found.verdict == "accept"
        assert found.sentence.endswith("-> passes untouched")
    endpoints = {(VIP[4], 80): ((POD[4], 8080),)}
    assert follow(4, interface="lo", mark=0x4E500000, kernel=endpoints).verdict == "endpoint"
    assert follow(4, interface="lo", mark=0x4E510000).verdict == "proxy"
    # A pod's packet can't carry the mark that means us; and if it does, it is still a pod's.
    assert follow(4, interface="cni0", mark=0x4E500000).verdict == "proxy"


@pytest.mark.parametrize("family", FAMILIES)
def test_other_ports_and_addresses(family: Family):
    other = "192.0.2.1" if family == 4 else "2001:db8::1"
    assert follow(family, to=other).verdict == "accept"
    assert follow(family, port=81).sentence.endswith("refused (filter FORWARD)")
    assert follow(family, port=81, interface="lo").sentence.endswith("refused (filter OUTPUT)")
    plain = Settings()  # no networks of ours: what is not ours goes where it went before
    assert follow(family, port=81, settings=plain).verdict == "accept"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_guard_swallows_syns_while_nobody_listens(family: Family):
    assert follow(family, listening=False).sentence.endswith("dropped in mangle INPUT")
    # A flow of this host is confirmed already: it is refused until the switch has expired.
    assert follow(family, listening=False, interface="lo").verdict == "reject"
    without = Settings(syn_guard=False)
    assert follow(family, listening=False, settings=without).verdict == "reject"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("interface", ["eth0", "lo"])
def test_nobody_speaks_to_the_proxys_port_directly(family: Family, interface: str):
    found = follow(family, to=PROXY[family], port=15001, interface=interface)
    assert found.verdict == "drop"
    assert found.steps[-1].rule == "-m conntrack ! --ctstate DNAT -j DROP"
    assert found.steps[-1].why == "conntrack state is NEW"


def test_a_firewall_that_drops_input_is_opened_for_intercepted_flows_only():
    text = saved_text(rules(Settings(), 4)).replace(
        "*filter\n:INPUT ACCEPT", "*filter\n:INPUT DROP"
    )
    assert follow(4, text=text).verdict == "proxy"
    assert follow(4, text=text, to=PROXY[4], port=22).verdict == "drop"


def test_every_step_says_why():
    steps = follow(4, live=False).steps
    assert any(
        step.chain == "NP-PRE"
        and step.matched is False
        and step.why == "NP-OUT-LIVE has expired: it lists no set"
        for step in steps
    )
    for step in steps:
        assert step.why
        assert str(step)[0] in "+-?"


KUBE = """*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SEP-1 - [0:0]
:KUBE-SEP-2 - [0:0]
:NP-PRE - [0:0]
-A PREROUTING -m comment --comment nodeproxy -j NP-PRE
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-B
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "a b" -m tcp --dport 80 -g KUBE-SVC-A
-A KUBE-SVC-A -m statistic --mode random --probability 0.5 -j KUBE-SEP-1
-A KUBE-SVC-A -j KUBE-SEP-2
-A KUBE-SEP-1 -p tcp -m tcp -j DNAT --to-destination 10.244.1.1:1
-A KUBE-SEP-2 -p tcp -m tcp -j DNAT --to-destination 10.244.1.2:2
-A NP-PRE -p tcp -m set --match-set NP-OUT-LIVE dst,dst -j DNAT --to-destination 169.254.171.1:15001
COMMIT
"""


def test_foreign_rules_are_followed_as_far_as_they_are_understood():
    assert follow(4, text=KUBE).verdict == "proxy"
    found = follow(4, text=KUBE, live=False)
    assert (found.verdict, found.destination, found.uncertain) == ("endpoint", "10.244.1.2:2", True)
    assert "by KUBE-SEP-2 (as far as foreign rules are understood)" in found.sentence
    unknown = [step for step in found.steps if step.matched is None]
    assert [step.why for step in unknown] == ["not understood: --mode random"]


@pytest.mark.parametrize(
    ("rule", "verdict", "uncertain"),
    [
        ("-j ACCEPT", "accept", False),
        ("-j DROP", "drop", False),
        ("-j REJECT --reject-with icmp-port-unreachable", "reject", False),
        ("! -s 10.244.0.0/16 -j DROP", "accept", False),
        ("-s 10.244.0.0/16 -i br-+ -j DROP", "accept", False),
        ("-i po+ -j DROP", "drop", False),
        ("-p udp -j DROP", "accept", False),
        ("-p tcp -m multiport --dports 22,80:90 -j DROP", "drop", False),
        ("-p tcp -m multiport --dports 22,:79 -j DROP", "accept", False),
        ("-m mark --mark 0x1 -j DROP", "accept", False),
        ("-m set ! --match-set NP-VIP4 dst,dst -j DROP", "accept", False),
        ("-m set --match-set OTHER dst,dst -j DROP", "accept", True),
        ("-m set --match-set NP-VIP4 src -j DROP", "accept", True),
        ("-m owner --uid-owner 0 -j DROP", "accept", True),
        ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "accept", False),
        ("-m conntrack --ctstate STRANGE -j DROP", "accept", True),
        ("-m addrtype --dst-type MULTICAST -j DROP", "accept", True),
        ("-j SOMETHING", "accept", True),
        ('-j LOG --log-prefix "a -j DROP"', "accept", False),
        ("-g LOOP", "accept", False),
        ("-j MARK --set-xmark 0x1/0xff", "accept", False),
        ("", "accept", False),
    ],
)
def test_matches_and_targets(rule: str, verdict: str, uncertain: bool):
    text = f"*mangle\n:PREROUTING ACCEPT [0:0]\n:LOOP - [0:0]\n-A PREROUTING {rule}\n"
    found = follow(4, text=text + "-A LOOP -j LOOP\nCOMMIT\n")
    assert (found.verdict, found.uncertain) == (verdict, uncertain)


def test_redirect_and_marks():
    text = (
        "*mangle\n:PREROUTING ACCEPT [0:0]\n"
        "-A PREROUTING -p tcp -j MARK --set-xmark 0x5/0xf\nCOMMIT\n"
        "*nat\n:PREROUTING ACCEPT [0:0]\n:PRE - [0:0]\n-A PREROUTING -j PRE\n"
        "-A PRE -m mark ! --mark 0x5/0xff -j RETURN\n"
        "-A PRE -p tcp -j REDIRECT --to-ports 99\nCOMMIT\n"
    )
    found = follow(4, text=text)
    assert (found.verdict, found.destination) == ("endpoint", "169.254.171.1:99")
    assert follow(4, text=text, listening=False).verdict == "reject"
    assert follow(4, text=text, mark=0x10).verdict == "accept"
