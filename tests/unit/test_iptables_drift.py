"""What is found wrong, how often it is repaired, who is asked which iptables it is."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptables import netlink, watch
from iptables.detect import Name, choose
from iptables.drift import Drift, RepairLimit, compare
from iptables.errors import (
    CommandError,
    InterceptionError,
    KernelModuleMissingError,
    LockHeldError,
    MixedBackendsError,
    NotPermittedError,
    ProgramMissingError,
    command_error,
)
from iptables.rules import rules, saved_text
from iptables.saved import parse_save
from iptables.settings import Settings

SETTINGS = Settings(vip_cidrs=("10.96.0.0/16",))
INFINITY = float("inf")
GOOD = saved_text(rules(SETTINGS, 4))
JUMP = "-A PREROUTING -m comment --comment nodeproxy -j NP-PRE\n"


def look(text: str) -> list[str]:
    return [str(drift) for drift in compare(rules(SETTINGS, 4), parse_save(text), "iptables")]


def test_what_is_expected_is_no_drift():
    assert look(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (JUMP, "", "iptables -t nat PREROUTING: no jump to NP-PRE"),
        (JUMP, JUMP * 2, "iptables -t nat PREROUTING: 2 jumps to NP-PRE"),
        (
            JUMP,
            "-A PREROUTING -j KUBE\n:KUBE - [0:0]\n-A KUBE -j DEEP\n:DEEP - [0:0]\n"
            f"-A DEEP -j DNAT --to 1.2.3.4\n{JUMP}",
            "iptables -t nat PREROUTING: KUBE stands before NP-PRE: -j KUBE",
        ),
        (JUMP, f"-A PREROUTING -j ACCEPT\n{JUMP}", "ACCEPT stands before NP-PRE: -j ACCEPT"),
        (":NP-PRE - [0:0]\n", "", "iptables -t nat: chain NP-PRE is missing"),
        ("-A NP-IN -p tcp -j DROP\n", "", "chain NP-IN lacks: -p tcp -j DROP"),
        (
            "-A NP-IN -i lo -j RETURN\n",
            "-A NP-IN -i lo -j RETURN\n-A NP-IN -j ACCEPT\n",
            "chain NP-IN has a foreign rule: -j ACCEPT",
        ),
        (
            "-A NP-IN -i lo -j RETURN\n",
            "-A NP-IN -i lo -j RETURN\n-A NP-IN -i lo -j RETURN\n",
            "the rules of chain NP-IN are in another order or repeated",
        ),
        (":NP-PRE - [0:0]\n", ":NP-PRE - [0:0]\n:NP-FWD - [0:0]\n", "chain NP-FWD is left over"),
    ],
)
def test_drift_is_named(old: str, new: str, words: str):
    assert old in GOOD
    found = look(GOOD.replace(old, new, 1))
    assert any(words in drift for drift in found), found


def test_those_who_only_look_may_stand_before_us():
    calico = ":cali - [0:0]\n:cali-fip - [0:0]\n-A cali -j cali-fip\n-A PREROUTING -j cali\n"
    log = "-A PREROUTING -j LOG\n-A PREROUTING\n-A PREROUTING -j UNHEARD-OF\n"
    assert look(GOOD.replace(JUMP, f"{calico}{log}{JUMP}")) == []
    # A firewall may decide before we open the proxy's port: that is what it is there for.
    jump = "-A INPUT -d 169.254.171.1/32 -p tcp -m comment --comment nodeproxy -j NP-LOCAL\n"
    assert jump in GOOD
    assert look(GOOD.replace(jump, f"-A INPUT -s 192.0.2.0/24 -j DROP\n{jump}")) == []


def test_repairs_get_rarer_against_a_stubborn_opponent():
    limit = RepairLimit(first=5, most=30, calm=600)
    now, waits = 0.0, []
    for _ in range(6):
        waits.append(limit.wait(now))
        now += limit.wait(now)
        limit.repaired(now)
    assert waits == [0, 5, 10, 20, 30, 30]
    assert limit.wait(now + 10) == 20
    assert limit.wait(now + 600) == 0
    limit.repaired(now + 600)
    assert limit.wait(now + 600) == 5


@given(gaps=st.lists(st.floats(0, 1000), max_size=50))
def test_never_more_than_the_limit(gaps: list[float]):
    limit, now, last = RepairLimit(), 0.0, -INFINITY
    for gap in gaps:
        now += gap
        if limit.wait(now) == 0:
            assert now - last >= 5 or last == -INFINITY
            limit.repaired(now)
            last = now


@pytest.mark.parametrize(
    ("wanted", "foreign", "default", "name"),
    [
        ("auto", {"nft": (), "legacy": ()}, "nft", "nft"),
        ("auto", {"nft": (), "legacy": ()}, "legacy", "legacy"),
        ("auto", {"nft": (), "legacy": ("DOCKER",)}, "nft", "legacy"),
        ("auto", {"nft": ("KUBE-SERVICES",), "legacy": ()}, "legacy", "nft"),
        ("auto", {"nft": ()}, "legacy", "nft"),
        ("auto", {}, "legacy", "legacy"),
        ("legacy", {"nft": (), "legacy": ()}, "nft", "legacy"),
        ("nft", {"nft": ("KUBE-A",), "legacy": ("DOCKER",)}, "nft", "nft"),
    ],
)
def test_we_go_where_the_others_are(
    wanted: str, foreign: dict[Name, tuple[str, ...]], default: Name, name: str
):
    assert choose(wanted, foreign, default)[0] == name


@pytest.mark.parametrize(
    ("wanted", "foreign", "words"),
    [
        ("auto", {"nft": ("KUBE-A",), "legacy": ("DOCKER",)}, "KUBE-A in iptables-nft, DOCKER"),
        ("nft", {"nft": (), "legacy": ("DOCKER",)}, "DOCKER lives in iptables-legacy"),
    ],
)
def test_a_mix_is_refused(wanted: str, foreign: dict[Name, tuple[str, ...]], words: str):
    with pytest.raises(MixedBackendsError, match=words):
        choose(wanted, foreign, "nft")


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [
        (4, "Fatal: can't open lock file: Permission denied", NotPermittedError),
        (1, "ipset v7.17: Kernel error received: Operation not permitted", NotPermittedError),
        (4, "Another app is currently holding the xtables lock.", LockHeldError),
        (
            2,
            "Extension set revision 0 not supported, missing kernel module?",
            KernelModuleMissingError,
        ),
        (3, "iptables v1.8.9: can't initialize iptables table `nat'", KernelModuleMissingError),
        (1, "iptables-restore: line 3 failed", CommandError),
        (None, "", CommandError),
    ],
)
def test_what_programs_say_becomes_an_error_with_a_hint(
    code: int | None, words: str, kind: type[InterceptionError]
):
    error = command_error(("iptables-restore", "-w"), code, words)
    assert type(error) is kind
    assert words in str(error)
    assert "iptables-restore" in str(error)
    assert error.hint in str(error)


def test_errors_by_themselves():
    assert "dnf install nftables" in str(ProgramMissingError("nft"))
    assert str(InterceptionError("a", "")) == "a"
    assert str(Drift("jump", "here", "there")) == "here: there"


def test_messages_and_their_answers():
    message = netlink.numbered(netlink.flush_message("NP-OUT-LIVE"), 0x01020304)
    length, kind, _, sequence, _ = struct.unpack_from("=IHHII", message)
    assert (length, kind >> 8, sequence) == (len(message), 6, 0x01020304)
    assert b"NP-OUT-LIVE\0" in message

    def answer(number: int, error: int) -> bytes:
        return struct.pack("=IHHIIi", 36, 2, 0, number, 0, -error) + bytes(16)

    data = answer(7, 0) + answer(8, errno.ENOENT)
    assert netlink.acknowledged(data) == {7: 0, 8: errno.ENOENT}
    assert netlink.acknowledged(b"") == {}


def event(kind: int, *attributes: tuple[int, str], subsystem: int = 10) -> bytes:
    body = b""
    for number, text in attributes:
        raw = text.encode() + b"\0"
        padding = -len(raw) % 4
        body += struct.pack("=HH", 4 + len(raw), number) + raw + bytes(padding)
    return struct.pack("=IHHIIBBH", 20 + len(body), subsystem << 8 | kind, 0, 0, 0, 2, 0, 0) + body


@pytest.mark.parametrize(
    ("data", "ours"),
    [
        (event(8, (1, "nat"), (2, "PREROUTING")), True),
        (event(6, (1, "nat"), (2, "NP-PRE")), True),
        (event(6, (1, "nat"), (2, "KUBE-SVC-XYZ")), False),
        (event(8, (1, "raw"), (2, "PREROUTING")), False),
        (event(6, (1, "nodeproxy"), (2, "m3")), False),
        (event(8, (1, "nodeproxy"), (2, "m3")), True),
        (event(2, (1, "mangle")), True),
        (event(2, (1, "other")), False),
        (event(5, (1, "filter"), (3, "NP-LOCAL")), True),
        (event(12, (1, "nodeproxy"), (2, "services")), False),
        (event(8, (1, "nat"), (2, "OUTPUT"), subsystem=1), False),
        (event(16) + event(8, (1, "nat"), (2, "OUTPUT")), True),
        (b"\1\0\0\0" + bytes(30), False),
        (b"", False),
    ],
)
def test_only_events_that_concern_us_count(data: bytes, ours: bool):
    assert watch.concerns_us(data) is ours


@given(data=st.binary(max_size=200))
def test_any_bytes_can_be_looked_at(data: bytes):
    watch.concerns_us(data)
