"""Install, drift, repair, removal: what is on the machine before, meanwhile and after."""

import fcntl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from iptables import detect, manager
from iptables.drift import RepairLimit
from iptables.errors import (
    InterceptionError,
    LockHeldError,
    MixedBackendsError,
    NotPermittedError,
    ProgramMissingError,
)
from iptables.manager import Interception
from iptables.matches import Packet
from iptables.settings import Settings

VIP4, VIP6 = "10.96.0.10", "fd00:96::10"
BACKENDS = ["nft", "legacy"]
MODES: list[dict[str, Any]] = [
    {},
    {"fail": "closed"},
    {"inbound": True},
    {"kernel_path": "off", "ipv6": "off"},
    {"syn_guard": False, "vip_cidrs": ()},
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES, ids=str)
async def test_removal_leaves_nothing(make_world: Any, backend: str, mode: dict[str, Any]):
    async with make_world(nodes=1, pods=1) as world:
        before = world.state()
        interception = world.interception(backend, **mode)
        await interception.install()
        await interception.sync(world.frontends((1, 1)))
        interception.beat()
        assert interception.status().live
        assert await interception.verify() == ()
        await interception.install()  # over itself
        assert await interception.verify() == ()
        assert world.state() != before
        assert await interception.remove()
        assert world.state() == before
        assert await interception.remove() == ()
        assert world.state() == before


async def test_another_process_removes_what_a_crashed_one_left(make_world: Any):
    """Other settings, another backend, no memory: names are enough."""
    async with make_world(nodes=1, pods=1) as world:
        before = world.state()
        crashed = world.interception("legacy", address4="169.254.7.7", fail="closed", inbound=True)
        await crashed.install()
        await crashed.sync(world.frontends((1, 1)))
        crashed.close()
        cleaner = world.interception("auto")
        kinds = {drift.kind for drift in await cleaner.verify()}
        assert {"jump", "chain", "address"} <= kinds
        cleaner.release()
        await cleaner.remove()
        assert world.state() == before


async def test_install_takes_over_from_an_older_run(make_world: Any):
    async with make_world(nodes=1, pods=1) as world:
        old = world.interception("legacy", address4="169.254.7.7", inbound=True, fail="closed")
        await old.install()
        await old.sync(world.frontends((1, 1)))
        old.close()
        new = world.interception("nft")
        await new.install()
        await new.sync(world.frontends((1, 1)))
        assert await new.verify() == ()
        assert "NP-" not in world.lab.run("node1", "iptables-legacy-save")
        assert "169.254.7.7" not in world.lab.run("node1", "ip", "address")


@pytest.mark.parametrize("backend", BACKENDS)
async def test_no_connection_escapes_a_new_installation(make_world: Any, backend: str):
    async with make_world(nodes=1, pods=2) as world:
        await world.listen_all()
        interception = world.interception(backend)
        await interception.install()
        await interception.sync(world.frontends((1, 2)))
        answers: list[str] = []
        with world.beating(interception):
            async with trio.open_nursery() as nursery:

                async def connect() -> None:
                    while True:
                        answers.append((await world.dial("pod1-1", VIP4))[0])

                nursery.start_soon(connect)
                for _ in range(10):
                    await interception.install()
                nursery.cancel_scope.cancel()
        assert len(answers) > 20
        assert set(answers) == {"proxy"}


DAMAGES = {
    "flush nat": ["{t} -t nat -F"],
    "remove all": ["{t} -t nat -F", "{t} -t nat -X", "{t} -t mangle -F", "{t} -t mangle -X"],
    "jump before ours": [
        "{t} -t nat -N KUBE-SERVICES",
        "{t} -t nat -A KUBE-SERVICES -d 10.96.0.10 -p tcp -j DNAT --to 10.244.1.12:8080",
        "{t} -t nat -I PREROUTING 1 -j KUBE-SERVICES",
    ],
    "foreign rule": ["{t} -t nat -I NP-PRE 1 -j RETURN"],
    "guard gone": ["{t} -t mangle -D INPUT 1"],
    "address gone": ["ip address delete 169.254.171.1/32 dev lo"],
    "route gone": ["ip route delete 10.96.0.0/16"],
    "set emptied": ["ipset flush NP-VIP4"],
    "kernel path gone": ["nft delete table ip nodeproxy"],
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_is_seen_and_repaired(make_world: Any, backend: str, damage: str):
    async with make_world(nodes=1, pods=2) as world:
        await world.listen_all()
        interception = world.interception(backend, kernel_path="on")
        await interception.install()
        await interception.sync(world.frontends((1, 2)))
        for command in DAMAGES[damage]:
            world.lab.run("node1", *command.format(t=f"iptables-{backend}").split())
        found = await interception.verify()
        assert found
        assert interception.status().drift == found
        assert await interception.repair() == found
        assert await interception.verify() == ()
        assert interception.status().repairs == 1
        with world.beating(interception):
            assert (await world.dial("pod1-1", VIP4))[0] == "proxy"
        interception.release()
        assert (await world.dial("pod1-1", VIP4))[0] == "pod1-2"
        assert (await world.dial("node1", VIP6))[0] == "pod1-2"


@pytest.mark.parametrize("backend", BACKENDS)
async def test_watch_repairs_by_itself_and_not_too_often(make_world: Any, backend: str):
    """nf_tables tells by an event, legacy is found by polling."""
    async with make_world(nodes=1, pods=2) as world:
        poll = 600.0 if backend == "nft" else 0.1
        interception = world.interception(backend, poll=poll)
        await interception.install()
        await interception.sync(world.frontends((1, 2)))
        world.nursery.start_soon(interception.watch, RepairLimit(first=0.3, most=0.5))
        await trio.testing.wait_all_tasks_blocked()
        for count in (1, 2, 3):
            world.lab.run("node1", f"iptables-{backend}", "-t", "nat", "-F")
            await world.settle(lambda count=count: interception.status().repairs == count)
            assert await interception.verify() == ()


async def test_a_beat_that_fails_wakes_the_watch(make_world: Any):
    async with make_world(nodes=1, pods=1) as world:
        interception = world.interception("legacy", poll=600.0)
        await interception.install()
        await interception.sync(world.frontends((1, 1)))
        for tool in ("iptables-legacy", "ip6tables-legacy"):
            for table in ("nat", "mangle", "filter"):
                world.lab.run("node1", tool, "-t", table, "-F")
        world.lab.run("node1", "ipset", "destroy")
        world.nursery.start_soon(interception.watch)
        await trio.testing.wait_all_tasks_blocked()
        interception.beat()
        assert interception.status().beat_error == 2  # ENOENT
        await world.settle(lambda: interception.status().repairs == 1)
        interception.beat()
        assert interception.status().beat_error == 0
        assert interception.status().live


@pytest.mark.parametrize("backend", BACKENDS)
async def test_live_trace_says_what_happens(make_world: Any, backend: str):
    async with make_world(nodes=1, pods=3) as world:
        interception = world.interception(backend)
        await interception.install()
        await interception.sync(world.frontends((1, 2), (1, 3)))
        interception.beat()
        for vip, source in ((VIP4, "10.244.1.11"), (VIP6, "fd00:244:1::11")):
            for interface in ("br0", "lo"):
                found = await interception.trace(Packet(source, vip, 80, interface=interface))
                assert found.verdict == "proxy"
        interception.release()
        found = await interception.trace(Packet("10.244.1.11", VIP4, 80, interface="br0"))
        assert str(found) == (
            "SYN from 10.244.1.11 to 10.96.0.10:80 -> switch expired -> falls through"
            " -> kernel path -> one of 2 endpoints"
        )
        found = await interception.trace(Packet("10.244.1.11", VIP4, 81, interface="br0"))
        assert (found.verdict, found.uncertain) == ("reject", False)
        generated = await interception.trace(Packet("10.244.1.11", VIP4, 80), generated=True)
        assert generated.verdict == "endpoint"


async def test_one_change_among_many(make_world: Any):
    async with make_world(nodes=1, pods=1) as world:
        await world.listen_all()
        interception = world.interception()
        await interception.install()
        one = world.frontends((1, 1))[0]
        many = [
            type(one)(f"10.96.{i // 250 + 1}.{i % 250 + 1}", 80, one.backends) for i in range(1500)
        ]
        await interception.sync(many)
        await interception.update([one], [many[7].key, ("10.96.200.200", 1)])
        assert await interception.verify() == ()
        assert interception.status().frontends == 1500
        assert (await world.dial("node1", VIP4))[0] == "pod1-1"
        assert await world.dial("node1", many[7].address) == ["refused"]
        # More than a little at once is a new start; the result is the same.
        await interception.update([], [frontend.key for frontend in many])
        assert await interception.verify() == ()
        assert interception.status().frontends == 1
        # Someone has been in the maps: the update that finds out starts over.
        world.lab.run("node1", "nft", "delete", "table", "ip", "nodeproxy")
        await interception.update([], [one.key])
        assert await interception.verify() == ()


async def test_foreign_rules_decide_the_backend_and_a_mix_is_refused(make_world: Any):
    async with make_world(nodes=1, pods=1) as world:
        run = world.lab.run
        run("node1", "iptables-legacy", "-t", "nat", "-N", "DOCKER")
        interception = world.interception("auto")
        await interception.install()
        assert interception.status().backend == "legacy"
        await interception.remove()
        with pytest.raises(MixedBackendsError, match="DOCKER lives in iptables-legacy"):
            await world.interception("nft").install()
        run("node1", "iptables-nft", "-t", "nat", "-N", "KUBE-SERVICES")
        with pytest.raises(MixedBackendsError, match="both variants of iptables are in use"):
            await world.interception("auto").install()
        chosen = world.interception("nft")
        await chosen.install()
        assert not chosen.status().kernel_path
        await chosen.remove()


async def test_we_follow_kube_proxy_when_it_comes_later(make_world: Any):
    """At boot the agent may be first; where kube-proxy then goes, it must be found."""
    async with make_world(nodes=1, pods=2) as world:
        await world.listen_all()
        interception = world.interception("auto")
        await interception.install()
        await interception.sync(world.frontends((1, 2)))
        assert interception.status().kernel_path
        came = "legacy" if interception.status().backend == "nft" else "nft"
        world.lab.run("node1", f"iptables-{came}", "-t", "nat", "-N", "KUBE-SERVICES")
        assert {drift.kind for drift in await interception.verify()} == {"backend", "kernel-path"}
        await interception.repair()
        assert await interception.verify() == ()
        status = interception.status()
        assert (status.backend, status.kernel_path) == (came, False)
        assert "nodeproxy" not in world.lab.run("node1", "nft", "list", "tables")
        with world.beating(interception):
            assert (await world.dial("pod1-1", VIP4))[0] == "proxy"
        world.lab.run("node1", f"iptables-{came}", "-t", "nat", "-X", "KUBE-SERVICES")
        await interception.repair()
        assert interception.status().kernel_path
        interception.release()
        assert (await world.dial("pod1-1", VIP4))[0] == "pod1-2"


async def test_kube_proxy_in_its_nftables_mode(make_world: Any):
    async with make_world(nodes=1, pods=1) as world:
        world.lab.run("node1", "nft", "add", "table", "ip", "kube-proxy")
        interception = world.interception("nft")
        await interception.install()
        assert "nft table kube-proxy" in interception.status().kernel_path_reason


async def test_errors_name_what_to_do(make_world: Any):
    async with make_world(nodes=1, pods=1) as world:
        world.host.without = {"ipset"}
        with pytest.raises(ProgramMissingError, match="apt-get install ipset"):
            await world.interception().install()
        world.host.without = {"nft"}
        with pytest.raises(ProgramMissingError, match="apt-get install nftables"):
            await world.interception(kernel_path="on").install()
        interception = world.interception()
        await interception.install()
        assert "nft is missing" in interception.status().kernel_path_reason
        await interception.remove()
        world.host.without = {f"iptables{kind}-save" for kind in ("", "-nft", "-legacy")}
        with pytest.raises(ProgramMissingError, match="apt-get install iptables"):
            await world.interception().remove()


async def test_missing_rights(make_world: Any):
    async with make_world(nodes=1, pods=1) as world:
        enter = world.host.command

        def unprivileged(command: Sequence[str]) -> list[str]:
            drop = ("setpriv", "--reuid", "65534", "--clear-groups", "--bounding-set", "-all")
            return list(enter([*drop, "--", *command]))

        world.host.command = unprivileged
        with pytest.raises(NotPermittedError, match="CAP_NET_ADMIN"):
            await world.interception("nft").install()
        with pytest.raises(NotPermittedError, match="CAP_NET_ADMIN"):
            await world.interception("legacy").remove()


async def test_a_held_lock_is_waited_for_and_named(
    make_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with make_world(nodes=1, pods=1) as world:
        enter, lock = world.host.command, tmp_path / "xtables.lock"

        def with_own_lock(command: Sequence[str]) -> list[str]:
            return list(enter(["env", f"XTABLES_LOCKFILE={lock}", *command]))

        world.host.command = with_own_lock
        monkeypatch.setattr(detect, "LOCK_SECONDS", "1")
        monkeypatch.setattr(manager, "_TRIES", 2)
        interception = world.interception("legacy")
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(LockHeldError, match=r"fuser -v /run/xtables\.lock"):
                await interception.install()
        await interception.install()
        assert await interception.verify() == ()


async def test_rules_that_the_kernel_refuses_change_nothing(make_world: Any):
    async with make_world(nodes=1, pods=1) as world:
        before = world.state()
        for text in ("*nat\n-A PREROUTING -m nonsense -j ACCEPT\nCOMMIT\n", "*filter\nX\nCOMMIT\n"):
            with pytest.raises(InterceptionError) as caught:
                await world.host.run("iptables-legacy-restore", "--noflush", text=text)
            assert "iptables-legacy-restore" in str(caught.value)
            assert caught.value.hint
        assert world.state() == before


async def test_a_tool_without_a_daemon(make_world: Any):
    """`nodeproxy rules verify|release|remove` and systemd's ExecStopPost."""
    async with make_world(nodes=1, pods=2) as world:
        await world.listen_all()
        daemon = world.interception()
        await daemon.install()
        await daemon.sync(world.frontends((1, 2)))
        daemon.beat()
        daemon.close()  # gone, but the switch holds for another two seconds
        with Interception(
            Settings(vip_cidrs=("10.96.0.0/16", "fd00:96::/112")), host=world.host
        ) as tool:
            assert await tool.verify() == ()
            tool.release()
            assert (await world.dial("pod1-1", VIP4))[0] == "pod1-2"
            assert await tool.repair() == ()
            await tool.remove()
            assert {drift.kind for drift in await tool.verify()} >= {"set", "jump", "address"}


async def test_without_ipv6(make_world: Any):
    async with make_world(nodes=1, pods=2) as world:
        await world.listen_all()
        world.lab.sysctl("node1", {"ipv6/conf/all/disable_ipv6": "1"})
        before = world.state()
        with pytest.raises(InterceptionError, match="IPv6 is unusable"):
            await world.interception(ipv6="on").install()
        interception = world.interception()
        await interception.install()
        assert interception.status().families == (4,)
        await interception.sync(world.frontends((1, 2)))  # with an IPv6 address among them
        assert await interception.verify() == ()
        with world.beating(interception):
            assert (await world.dial("pod1-1", VIP4))[0] == "proxy"
        await interception.remove()
        assert world.state() == before


async def test_removal_names_what_had_to_stay(make_world: Any):
    async with make_world(nodes=1, pods=1) as world:
        before = world.state()
        interception = world.interception("nft")
        await interception.install()
        rule = ["FORWARD", "-m", "set", "--match-set", "NP-VIP4", "dst,dst", "-j", "ACCEPT"]
        world.lab.run("node1", "iptables-nft", "-A", *rule)
        with pytest.raises(InterceptionError, match=r"not everything.*ipset destroy NP-VIP4"):
            await interception.remove()
        assert "NP-PRE" not in world.lab.run("node1", "iptables-nft-save")
        world.lab.run("node1", "iptables-nft", "-D", *rule)
        assert "ipset NP-VIP4" in await interception.remove()
        # The table that this rule was in is the other program's to keep.
        world.lab.run("node1", "nft", "delete", "table", "ip", "filter")
        assert world.state() == before


async def test_a_system_with_one_iptables_only(make_world: Any):
    async with make_world(nodes=1, pods=1) as world:
        before = world.state()
        world.host.without = {"iptables-nft-save", "iptables-legacy-save"}
        interception = world.interception("auto")
        await interception.install()
        assert interception.status().backend == "nft"
        assert await interception.verify() == ()
        with pytest.raises(ProgramMissingError):
            await world.interception("legacy").install()
        await interception.remove()
        assert world.state() == before


async def test_an_address_or_a_route_that_was_there_is_not_ours(make_world: Any):
    async with make_world(nodes=2, pods=1) as world:
        world.lab.run("node1", "ip", "route", "add", "default", "via", "192.168.100.2")
        before = world.state()
        interception = world.interception()
        await interception.install()
        routes = world.lab.run("node1", "ip", "route", "show", "proto", "78")
        assert routes == ""  # any route serves
        await interception.remove()
        assert world.state() == before


def test_release_needs_no_loop(lab_with_host: Any):
    lab, host = lab_with_host
    sets = "create NP-VIP4 hash:ip,port\ncreate NP-OUT-LIVE list:set timeout 2\n"
    lab.run("node1", "ipset", "restore", input=f"{sets}add NP-OUT-LIVE NP-VIP4 timeout 60\n")
    with Interception(Settings(), host=host) as tool:
        tool.release()
        tool.release()
    assert "add" not in lab.run("node1", "ipset", "save")
