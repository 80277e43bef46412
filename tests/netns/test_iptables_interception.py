"""Who answers, on a real kernel: pods behind a bridge, pods on routed veths, host processes."""

from typing import Any

import pytest
import trio

from iptables.settings import Backend, Frontend

VIP4, VIP6 = "10.96.0.10", "fd00:96::10"
NOBODY4, NOBODY6 = "10.96.0.11", "fd00:96::11"

LAYOUTS = [
    pytest.param({"layout": "bridge", "bridge_nf": True}, id="bridge"),
    pytest.param({"layout": "bridge", "bridge_nf": False}, id="bridge-without-netfilter"),
    pytest.param({"layout": "routed"}, id="routed"),
]
BACKENDS = ["nft", "legacy"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", BACKENDS)
async def test_interception_and_kernel_path(make_world: Any, layout: dict[str, Any], backend: str):
    async with make_world(nodes=2, pods=2, **layout) as world:
        await world.listen_all()
        clients = {
            "pod1-1": (world.lab.pod(1, 1).address4, world.lab.pod(1, 1).address6),
            "pod1-2": (world.lab.pod(1, 2).address4, world.lab.pod(1, 2).address6),
            "node1": None,
        }
        interception = world.interception(backend)
        await interception.install()
        nobody = [Frontend(NOBODY4, 80), Frontend(NOBODY6, 80)]
        await interception.sync([*world.frontends((1, 2), (2, 1)), *nobody])
        assert await interception.verify() == ()

        with world.beating(interception):
            for ns, addresses in clients.items():
                who, peer, wanted = await world.dial(ns, VIP4)
                assert (who, wanted) == ("proxy", f"{VIP4}:80")
                assert addresses is None or peer == addresses[0]
                who, peer, wanted = await world.dial(ns, VIP6)
                assert (who, wanted) == ("proxy", f"[{VIP6}]:80")
                assert addresses is None or peer == addresses[1]
                # An address without a service, or another port, is not ours.
                assert (await world.dial(ns, world.lab.pod(2, 1).address4, 8080))[0] == "pod2-1"
                # Services without endpoints are the proxy's, too: it says why.
                assert (await world.dial(ns, NOBODY4))[0] == "proxy"
            assert await world.dial("node1", VIP4, 81) == ["refused"]
            assert await world.dial("node1", VIP6, 81) == ["refused"]

        interception.release()
        for ns in clients:
            for vip in (VIP4, VIP6):
                answers = {(await world.dial(ns, vip))[0] for _ in range(40)}
                assert answers == {"pod1-2", "pod2-1"}, (ns, vip)
            assert await world.dial(ns, NOBODY4) == ["refused"], ns
            assert await world.dial(ns, NOBODY6) == ["refused"], ns

        await interception.update(world.frontends((2, 2)), [])
        for ns in clients:
            for vip in (VIP4, VIP6):
                assert (await world.dial(ns, vip))[0] == "pod2-2"


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_host_never_uses_our_address_as_its_source(make_world: Any, layout: dict[str, Any]):
    async with make_world(nodes=1, pods=1, **layout) as world:
        await world.listen_all()
        pod = world.lab.pod(1, 1)
        before = [(await world.dial("node1", a, 8080))[1] for a in (pod.address4, pod.address6)]
        interception = world.interception()
        await interception.install()
        after = [(await world.dial("node1", a, 8080))[1] for a in (pod.address4, pod.address6)]
        assert after == before


@pytest.mark.parametrize("backend", BACKENDS)
async def test_marked_sockets_are_left_alone(make_world: Any, backend: str):
    async with make_world(nodes=1, pods=2) as world:
        await world.listen_all()
        interception = world.interception(backend)
        await interception.install()
        await interception.sync(world.frontends((1, 2)))
        with world.beating(interception):
            assert (await world.dial("node1", VIP4))[0] == "proxy"
            raw = world.lab.socket("node1")
            raw.setsockopt(1, 36, 0x4E500000)  # SO_MARK
            with trio.socket.from_stdlib_socket(raw) as client:
                await client.connect((VIP4, 80))
                assert (await client.recv(100)).split()[0] == b"pod1-2"


@pytest.mark.parametrize("backend", BACKENDS)
async def test_weights(make_world: Any, backend: str):
    async with make_world(nodes=1, pods=3) as world:
        await world.listen_all()
        interception = world.interception(backend)
        await interception.install()
        one, two, three = (world.lab.pod(1, k).address4 for k in (1, 2, 3))
        backends = (Backend(one, 8080, 9), Backend(two, 8080, 1), Backend(three, 8080, 0))
        await interception.sync([Frontend(VIP4, 80, backends)])
        counts: dict[str, int] = {}
        for _ in range(200):
            who = (await world.dial("node1", VIP4))[0]
            counts[who] = counts.get(who, 0) + 1
        assert set(counts) == {"pod1-1", "pod1-2"}
        # 180 expected with a deviation of 4.2; the bounds are 9 deviations away.
        assert 142 < counts["pod1-1"] < 200


@pytest.mark.parametrize("backend", BACKENDS)
async def test_expiry_hands_over_without_a_refusal(make_world: Any, backend: str):
    """The proxy dies: pods lose no connection attempt, one waits for its SYN to be repeated."""
    async with make_world(nodes=1, pods=2) as world:
        proxy = await world.listen_all()
        interception = world.interception(backend, expiry=1)
        await interception.install()
        await interception.sync(world.frontends((1, 2)))
        answers: list[str] = []
        with world.beating(interception):
            assert (await world.dial("pod1-1", VIP4))[0] == "proxy"
        for scope in proxy:
            scope.cancel()
        with trio.fail_after(10):
            while "pod1-2" not in answers:
                answers.append((await world.dial("pod1-1", VIP4))[0])
        assert set(answers) <= {"proxy", "reset", "pod1-2"}
        assert answers[-1] == "pod1-2"
        assert answers.count("reset") <= 1
        assert (await world.dial("node1", VIP6))[0] == "pod1-2"
        # It comes back with the next beat.
        await world.listen("node1", "169.254.171.1", 15001, "proxy")
        with world.beating(interception):
            assert (await world.dial("pod1-1", VIP4))[0] == "proxy"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", BACKENDS)
async def test_fail_closed(make_world: Any, layout: dict[str, Any], backend: str):
    async with make_world(nodes=1, pods=2, **layout) as world:
        await world.listen_all()
        interception = world.interception(backend, fail="closed")
        await interception.install()
        open_one = Frontend(
            NOBODY4, 80, (Backend(world.lab.pod(1, 2).address4, 8080),), intercept=False
        )
        await interception.sync([*world.frontends((1, 2)), open_one])
        with world.beating(interception):
            for ns in ("pod1-1", "node1"):
                assert (await world.dial(ns, VIP4))[0] == "proxy"
                assert (await world.dial(ns, VIP6))[0] == "proxy"
        interception.release()
        for ns in ("pod1-1", "node1"):
            assert await world.dial(ns, VIP4) == ["refused"], ns
            assert await world.dial(ns, VIP6) == ["refused"], ns
            assert (await world.dial(ns, NOBODY4))[0] == "pod1-2", ns
        await interception.update([], [(VIP4, 80)])
        assert await interception.verify() == ()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_fail_closed_beats_kube_proxy(make_world: Any, backend: str):
    """Another agent's DNAT must not open what is to be closed."""
    async with make_world(nodes=1, pods=2) as world:
        await world.listen_all()
        pod = world.lab.pod(1, 2)
        for ours, command in ((VIP4, "iptables"), (VIP6, "ip6tables")):
            target = pod.address4 if ours is VIP4 else f"[{pod.address6}]"
            rules = (
                "*nat\n:KUBE-SERVICES - [0:0]\n"
                "-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n"
                f"-A KUBE-SERVICES -d {ours} -p tcp --dport 80 -j DNAT --to {target}:8080\nCOMMIT\n"
            )
            world.lab.run("node1", f"{command}-{backend}-restore", "--noflush", input=rules)
        before = world.state()
        interception = world.interception(fail="closed", backend="auto")
        await interception.install()
        await interception.sync(world.frontends((1, 2)))
        status = interception.status()
        assert status.backend == backend
        assert not status.kernel_path
        for ns in ("pod1-1", "node1"):
            assert await world.dial(ns, VIP4) == ["refused"]
            assert await world.dial(ns, VIP6) == ["refused"]
        await interception.remove()
        assert (await world.dial("pod1-1", VIP6))[0] == "pod1-2"
        assert world.state() == before


@pytest.mark.parametrize("backend", BACKENDS)
async def test_input_policy_drop_and_direct_connections(make_world: Any, backend: str):
    async with make_world(nodes=2, pods=1) as world:
        await world.listen_all()
        for command in ("iptables", "ip6tables"):
            tool = f"{command}-{backend}"
            world.lab.run("node1", tool, "-P", "INPUT", "DROP")
            world.lab.run(
                "node1",
                tool,
                "-A",
                "INPUT",
                "-p",
                "icmpv6" if "6" in command else "icmp",
                "-j",
                "ACCEPT",
            )
        interception = world.interception(backend)
        await interception.install()
        await interception.sync(world.frontends((2, 1)))
        with world.beating(interception):
            for vip in (VIP4, VIP6):
                assert (await world.dial("pod1-1", vip))[0] == "proxy"
            # Nobody may speak to the proxy's port but those who were intercepted.
            for address in ("169.254.171.1", "fd0d:4e50::1"):
                assert await world.dial("pod1-1", address, 15001, timeout=0.5) == ["timeout"]
