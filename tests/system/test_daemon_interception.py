"""The whole node in network namespaces: what docs/operations.md promises of each failure.

Traffic is sent by pods and by host processes, to one service in both families, all the time
while something is broken. A back end's answer tells whether it came by the proxy (which names
itself in Via) or by the kernel path.
"""

from __future__ import annotations

import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from iptables import names
from iptables.settings import Settings
from nodeproxy.demo.lab import Lab

pytestmark = [pytest.mark.system, pytest.mark.netns]

VIP4, VIP6 = "10.96.0.10", "fd00:96::10"
VIPS = (VIP4, VIP6)
UNREACHED = (ConnectionRefusedError, TimeoutError)
CIDRS = ["10.96.0.0/16", "fd00:96::/112"]


class Mesh:
    """A node with a client pod, two back ends in pods, and the daemon."""

    def __init__(self, lab: Lab, daemon: Any, backends: Any, kit: Any) -> None:
        self.lab = lab
        self.daemon = daemon
        self.kit = kit
        self.one = self._pod(backends, 2)
        self.two = self._pod(backends, 3)
        self.pod = kit.dial_from(lab, "pod1-1")
        self.host = kit.dial_from(lab, "node1")
        daemon.configure(
            interception={"mode": "iptables", "vip_cidrs": CIDRS},
            telemetry={"metrics": "127.0.0.1:15020"},
        )
        self.serve(self.one, self.two)

    def _pod(self, backends: Any, number: int) -> list[Any]:
        """The back ends of a pod, one for each family."""
        pod = self.lab.pod(1, number)
        made = []
        for address in (pod.address4, pod.address6):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = self.lab.socket(pod.name, family)
            sock.bind((address, 8080))
            made.append(backends(pod.name, sock))
        return made

    def serve(self, *pods: list[Any]) -> None:
        every = [backend for pod in pods for backend in pod]
        self.daemon.serve(self.kit.service("shop/web", every, VIPS))

    def ask(self, address: str, connect: Any = None, **options: Any) -> Any:
        return self.kit.ask(
            address, options.pop("port", 80), connect=connect or self.pod, **options
        )

    def proxied(self, connect: Any = None) -> bool:
        """Whether both families come by the proxy now."""
        return all(self.ask(vip, connect, timeout=3).proxied for vip in VIPS)

    def direct(self, connect: Any = None) -> bool:
        """Whether both families come by the kernel path now."""
        return not any(self.ask(vip, connect, timeout=3).proxied for vip in VIPS)

    def run(self, command: str) -> str:
        return self.lab.run("node1", *command.split())

    def state(self) -> dict[str, list[str]]:
        """All that could be left behind on the node, without what changes by itself."""
        found = {}
        for command in (
            "iptables-nft-save",
            "ip6tables-nft-save",
            "iptables-legacy-save",
            "ip6tables-legacy-save",
            "ipset save",
            "nft list ruleset",
            "ip address show dev lo",
            "ip route show table all",
            "ip -6 route show table all",
            "ip rule",
        ):
            lines = self.run(command).splitlines()
            found[command] = [
                re.sub(r"counter packets \d+ bytes \d+", "", line)
                for line in lines
                if not line.startswith(("#", "*", "COMMIT"))
                and not (line.startswith(":") and "ACCEPT" in line)
            ]
        return found


class Load(threading.Thread):
    """New connections, one after the other, until it is stopped; how each one ended."""

    def __init__(self, mesh: Mesh, address: str, connect: Any) -> None:
        super().__init__(daemon=True)
        self.mesh, self.address, self.connect = mesh, address, connect
        self.ends: list[str] = []
        self._stop_it = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stop_it.is_set():
            try:
                answer = self.mesh.ask(self.address, self.connect)
            except Exception as error:
                self.ends.append(type(error).__name__)
            else:
                self.ends.append("proxy" if answer.proxied else "kernel")

    def stop(self) -> set[str]:
        self._stop_it.set()
        self.join(20)
        return set(self.ends)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(nodes=1, pods=3) as made:
        yield made


@pytest.fixture
def mesh(lab: Lab, make_daemon: Any, backends: Any, kit: Any) -> Mesh:
    """Everything but the daemon is started."""
    return Mesh(lab, make_daemon(lambda command: lab.command("node1", *command)), backends, kit)


@pytest.fixture
def node(mesh: Mesh) -> Mesh:
    """The daemon is started, too."""
    mesh.daemon.start()
    return mesh


@pytest.fixture
def loads(node: Mesh) -> Iterator[Callable[[Any], list[Load]]]:
    """``loads(connect)``: traffic to both families, running."""
    made: list[Load] = []

    def begin(connect: Any) -> list[Load]:
        begun = [Load(node, vip, connect) for vip in VIPS]
        made.extend(begun)
        node.kit.eventually(lambda: all("proxy" in load.ends for load in begun))
        return begun

    yield begin
    for load in made:
        load.stop()


def wait_until_all(kit: Any, loads: list[Load], end: str) -> None:
    """Until the next requests of every load end like this."""
    marks = [len(load.ends) for load in loads]
    kit.eventually(
        lambda: all(
            load.ends[mark:][-2:] == [end, end] for load, mark in zip(loads, marks, strict=True)
        )
    )


# -- at work ----------------------------------------------------------------------------------


def test_pods_and_host_processes_come_by_the_proxy(node: Mesh):
    for connect in (node.pod, node.host):
        assert node.proxied(connect)
    assert {node.ask(VIP4).body for _ in range(20)} == {"pod1-2", "pod1-3"}
    status = node.daemon.status()
    assert status.interception.live
    assert status.interception.families == ("ipv4", "ipv6")
    assert status.interception.kernel_path == "nodeproxy"
    assert status.interception.frontends == 2
    assert node.daemon.metric("nodeproxy_rules_ok") == 1
    assert node.daemon.metric("nodeproxy_failopen_active") == 0
    for vip in VIPS:
        url = f"http://[{vip}]/" if ":" in vip else f"http://{vip}/"
        pod = node.lab.pod(1, 1)
        source = pod.address6 if ":" in vip else pod.address4
        told = node.daemon.explain(url, vip, 80, source)
        assert (told.outcome, told.service) == ("proxied", "shop/web"), told
        assert any(step.stage == "interception" and step.matched for step in told.steps)
    assert node.daemon.cli("rules", "verify").returncode == 0
    shown = node.daemon.cli("rules", "show")
    assert "NP-" in shown.stdout


def test_a_port_that_no_service_has_is_none_of_ours(node: Mesh):
    for vip in VIPS:
        with pytest.raises(UNREACHED):
            node.ask(vip, port=81, timeout=1)
        with pytest.raises(UNREACHED):
            node.ask(vip, node.host, port=81, timeout=1)
    assert node.daemon.status().requests == 0


def test_nobody_reaches_the_proxys_own_listener(node: Mesh):
    settings = Settings()
    for address in (settings.address4, settings.address6):
        for connect in (node.pod, node.host):
            with pytest.raises(UNREACHED):
                node.ask(address, connect, port=settings.outbound_port, timeout=1)
    assert node.proxied()


@pytest.mark.parametrize("outbound", ["passthrough", "registry-only"])
def test_what_is_intercepted_and_in_no_registry(mesh: Mesh, outbound: str, kit: Any):
    mesh.daemon.configure(outbound=outbound)
    mesh.daemon.start()
    for backend in mesh.one:
        family = 6 if ":" in backend.host else 4
        mesh.run(f"ipset add {names.VIP[family]} {backend.host},tcp:8080")
        if outbound == "passthrough":
            answer = mesh.ask(backend.host, port=8080)
            assert (answer.body, answer.proxied) == ("pod1-2", False)
            # The bytes were relayed: the back end saw the node and not the pod.
            assert answer.headers["x-peer"] not in (
                mesh.lab.pod(1, 1).address4,
                mesh.lab.pod(1, 1).address6,
            )
        else:
            with pytest.raises(ConnectionResetError):
                mesh.ask(backend.host, port=8080)
    if outbound == "registry-only":
        kit.eventually(
            lambda: [e.get("response_flags") for e in mesh.daemon.log()].count("NR") == 2
        )


# -- dead, hung, stopped ------------------------------------------------------------------------


def test_kill_9_refuses_no_pod(node: Mesh, loads: Any, kit: Any):
    pods, hosts = loads(node.pod), loads(node.host)
    node.daemon.signal(signal.SIGKILL)
    node.daemon.wait()
    wait_until_all(kit, pods + hosts, "kernel")
    for load in pods:
        # What it carried is reset or ends without an answer; nothing is refused.
        assert load.stop() <= {
            "proxy", "kernel", "ConnectionResetError", "RemoteDisconnected",
        }, load.ends  # fmt: skip
    for load in hosts:
        load.stop()
    node.daemon.start()
    assert node.proxied()
    assert node.daemon.cli("rules", "verify").returncode == 0


def test_a_hung_daemon_loses_its_traffic_and_gets_it_back(node: Mesh, loads: Any, kit: Any):
    pods = loads(node.pod)
    node.daemon.signal(signal.SIGSTOP)
    kit.eventually(node.direct)
    kit.eventually(lambda: node.direct(node.host))
    node.daemon.signal(signal.SIGCONT)
    wait_until_all(kit, pods, "proxy")
    for load in pods:
        # Whoever was handed over to the hung process waited and was served after it.
        assert load.stop() <= {"proxy", "kernel"}, load.ends
    assert node.daemon.status().ready


def test_sigterm_gives_the_traffic_to_the_kernel_at_once(node: Mesh, loads: Any, kit: Any):
    pods, hosts = loads(node.pod), loads(node.host)
    before = node.ask(VIP4)
    assert before.proxied
    assert node.daemon.stop() == 0
    assert node.direct()  # at the first try
    assert node.direct(node.host)
    for load in pods + hosts:
        assert load.stop() <= {"proxy", "kernel"}, load.ends


def test_requests_in_flight_survive_sigterm(node: Mesh, kit: Any):
    node.serve(node.one)
    kit.eventually(lambda: node.daemon.status().endpoints == 2)
    caller = kit.Caller(VIP4, 80, node.pod)
    caller.send("/held")
    kit.eventually(lambda: any(backend.held.is_set() for backend in node.one))
    node.daemon.signal(signal.SIGTERM)
    kit.eventually(node.direct)  # the new ones pass by
    for backend in node.one:
        backend.released.set()
    assert caller.answer().proxied
    assert node.daemon.wait() == 0


def test_fail_closed_refuses_while_the_daemon_is_dead(mesh: Mesh, kit: Any):
    closed = {"mode": "iptables", "vip_cidrs": CIDRS, "fail": "closed"}
    mesh.daemon.configure(interception=closed)
    mesh.daemon.start()
    assert mesh.proxied()
    mesh.daemon.signal(signal.SIGKILL)
    mesh.daemon.wait()

    def refused(vip: str, connect: Any) -> bool:
        try:
            mesh.ask(vip, connect, timeout=3)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        raise RuntimeError("answered although nobody carries it")

    for vip in VIPS:
        for connect in (mesh.pod, mesh.host):
            kit.eventually(lambda vip=vip, connect=connect: refused(vip, connect))
    mesh.daemon.start()
    assert mesh.proxied()


def test_rules_remove_leaves_nothing(mesh: Mesh, kit: Any):
    before = mesh.state()
    mesh.daemon.start()
    assert mesh.proxied()
    config = str(mesh.daemon.folder / "nodeproxy.yaml")
    refused = mesh.daemon.cli("rules", "remove", wrap=True)
    assert refused.returncode == 1
    assert "the daemon is running" in refused.stderr
    assert mesh.daemon.stop() == 0
    assert mesh.state() != before
    removed = mesh.daemon.cli("rules", "remove", "--config", config, wrap=True)
    assert removed.returncode == 0, removed.stderr
    assert mesh.state() == before
    again = mesh.daemon.cli("rules", "remove", "--config", config, wrap=True)
    assert (again.returncode, again.stdout) == (0, "there was nothing to remove\n")


def test_out_of_the_path_and_back_while_it_runs(mesh: Mesh, kit: Any):
    before = mesh.state()
    mesh.daemon.start()
    removed = mesh.daemon.cli("rules", "remove", "--stop-intercepting")
    assert removed.returncode == 0, removed.stderr
    assert mesh.state() == before
    status = mesh.daemon.status()
    assert not status.ready
    assert "rules repair" in status.reasons[0]
    assert "rules repair" in mesh.daemon.cli("rules", "verify").stdout
    # What changes meanwhile counts when it is back.
    mesh.serve(mesh.two)
    kit.eventually(lambda: mesh.daemon.status().endpoints == 2)
    repaired = mesh.daemon.cli("rules", "repair")
    assert repaired.returncode == 0, repaired.stderr
    assert mesh.proxied()
    assert mesh.daemon.status().ready
    assert {mesh.ask(VIP4).body for _ in range(5)} == {"pod1-3"}


# -- others at the rules ------------------------------------------------------------------------

TABLES = ("raw", "mangle", "nat", "filter")


@pytest.mark.parametrize(
    "damage",
    [
        ["iptables -t nat -F", "ip6tables -t nat -F"],
        [f"{tool} -t {table} -{what}" for tool in ("iptables", "ip6tables")
         for table in TABLES for what in "FX"] + ["ipset destroy"],
        ["nft flush ruleset"],
        ["ip address flush dev lo scope link", "ip -6 address del fd0d:4e50::1/128 dev lo"],
    ],
    ids=["nat-flushed", "all-flushed-and-sets-destroyed", "ruleset-flushed", "addresses-gone"],
)  # fmt: skip
def test_damage_is_noticed_repaired_and_counted(node: Mesh, kit: Any, damage: list[str]):
    assert node.proxied()
    for command in damage:
        node.lab.popen("node1", *command.split(), stderr=-3).wait(10)

    def repaired() -> bool:
        interception = node.daemon.status().interception
        return interception.repairs > 0 and not interception.drift and interception.live

    kit.eventually(repaired, 40)
    kit.eventually(node.proxied)
    assert node.proxied(node.host)
    verified = node.daemon.cli("rules", "verify")
    assert verified.returncode == 0, verified.stdout
    assert node.daemon.metric("nodeproxy_rules_repairs_total") >= 1
    assert node.daemon.metric("nodeproxy_rules_ok") == 1
    assert node.daemon.log("interception was changed by someone else")
    # The kernel path is whole again, too.
    node.daemon.signal(signal.SIGKILL)
    node.daemon.wait()
    kit.eventually(node.direct)


# -- the kernel path follows the registry ---------------------------------------------------------


def test_the_kernel_path_has_the_endpoints_of_the_file(node: Mesh, kit: Any):
    node.serve(node.two)
    kit.eventually(lambda: node.daemon.status().endpoints == 2)
    assert {node.ask(vip).body for vip in VIPS * 3} == {"pod1-3"}
    node.serve(node.one)
    kit.eventually(lambda: node.ask(VIP4).body == "pod1-2")
    assert node.daemon.stop() == 0
    assert node.direct()
    assert {node.ask(vip, c).body for vip in VIPS * 3 for c in (node.pod, node.host)} == {"pod1-2"}


def test_a_service_that_goes_is_no_longer_intercepted(node: Mesh, kit: Any):
    other = kit.service("shop/other", node.one, ["10.96.0.11", "fd00:96::11"])
    node.daemon.serve(kit.service("shop/web", node.one + node.two, VIPS), other)
    kit.eventually(lambda: node.daemon.status().interception.frontends == 4)
    kit.eventually(lambda: node.ask("10.96.0.11").proxied)
    kit.eventually(lambda: node.ask("fd00:96::11").proxied)
    node.serve(node.one)
    kit.eventually(lambda: node.daemon.status().interception.frontends == 2)

    def unreached(vip: str) -> bool:
        try:
            node.ask(vip, timeout=1)
        except UNREACHED:
            return True
        return False

    for vip in ("10.96.0.11", "fd00:96::11"):
        kit.eventually(lambda vip=vip: unreached(vip))
    assert node.proxied()


# -- what keeps it from starting ------------------------------------------------------------------


def test_the_port_of_interception_is_taken(mesh: Mesh):
    """It ends and says so; what it had put in place hands over nothing."""
    port = Settings().outbound_port
    with mesh.lab.socket("node1") as other:
        other.bind(("0.0.0.0", port))
        other.listen()
        code, said = mesh.daemon.refusal()
        assert code == 1
        assert f"interception: cannot listen on 169.254.171.1:{port}: another process" in said
        assert "Traceback" not in said
    mesh.daemon.start()
    assert mesh.proxied()
