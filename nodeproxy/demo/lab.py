"""A cluster in a box: nodes and pods as network namespaces of this machine.

::

      node1                                             node2
    +-------------------------------------------+     +--------------
    |  bridge layout       br0 10.244.1.1/24    |     |
    |                          fd00:244:1::1/64 |     |
    |                     /         \\           |     |
    |                   v1           v2    eth0 |-----| eth0
    |  routed layout:    |            |  192.168.100.1   192.168.100.2
    |  v1, v2 have no IPv4 address    |  fd00:100::1     fd00:100::2
    +--------------------|------------|---------+
                 pod1-1 eth0      pod1-2 eth0
               10.244.1.11        10.244.1.12
               fd00:244:1::11     fd00:244:1::12

`layout="bridge"` is what kubenet, flannel and Docker build. `layout="routed"` is what Calico and
the AWS VPC CNI build: host ends of the veth pairs without an IPv4 address, a gateway that exists
nowhere (169.254.1.1, answered by a fixed neighbour entry; fe80::1 for IPv6), one host route a pod.
A single node keeps its 192.168.100.1 on `lo`. No service address is assigned anywhere, and no
node has a route to one.

Everything has a name that begins with `np<pid of this process>`, so several labs live side by side
and `remove_leftovers` recognizes what a killed process left behind. The machine's own network
is never touched. Example::

    with Lab(nodes=2, pods=2) as lab:
        lab.popen("pod2-1", "python3", "-m", "http.server", "8080")
        print(lab.run("pod1-1", "curl", "-s", f"http://{lab.pod(2, 1).address4}:8080/"))
        listener = lab.socket("node1", socket.AF_INET6)  # lives in node1, used from here
        table = lab.inside("node1", lambda: Path("/proc/thread-self/net/tcp").read_text())
"""

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

T = TypeVar("T")
Layout = Literal["bridge", "routed"]

NETNS = Path("/run/netns")
PROGRAMS = ("ip", "nsenter")
# Whatever a host may have set, a lab behaves the same. Duplicate address detection would keep
# IPv6 addresses unusable for the first seconds.
SYSCTLS = {
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv6/conf/all/forwarding": "1",
    "ipv6/conf/default/forwarding": "1",
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/all/accept_ra": "0",
    "ipv6/conf/default/accept_ra": "0",
}
_CLONE_NEWNET = 0x40000000
_GATEWAY_MAC = "ee:ee:ee:ee:ee:ee"
_labs = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """The lab can't be built, or a command in it failed; the text has the command's own words."""


@dataclass(frozen=True)
class Pod:
    name: str
    address4: str
    address6: str


@dataclass(frozen=True)
class Node:
    name: str
    address4: str
    address6: str
    cidr4: str
    cidr6: str
    pods: tuple[Pod, ...]


def obstacle(programs: Iterable[str] = PROGRAMS) -> str | None:
    """Why no lab can be built here, in words for the user; None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root (CAP_NET_ADMIN and CAP_SYS_ADMIN): use sudo"
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = "iproute2 iptables ipset nftables util-linux"
        return f"missing programs: {', '.join(missing)} (apt-get install {packages})"
    tried = subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True, text=True)
    if tried.returncode:
        return f"this machine lets nobody make network namespaces: {tried.stderr.strip()}"
    return None


def remove_leftovers() -> tuple[str, ...]:
    """Remove the namespaces (and end what runs in them) of labs whose process is gone."""
    removed = []
    for path in sorted(NETNS.glob("np*")) if NETNS.is_dir() else ():
        match = re.fullmatch(r"np(\d+)-\d+-[a-z0-9-]+", path.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            _delete(path.name)
            removed.append(path.name)
    return tuple(removed)


class Lab:
    """One or two nodes with pods; a context manager that removes everything it made.

    `bridge_nf` sets net.bridge.bridge-nf-call-iptables (and -ip6tables) of the nodes: whether
    packets between two pods of one bridge pass iptables. Clusters with kube-proxy have it on.
    """

    def __init__(
        self,
        nodes: Literal[1, 2] = 1,
        pods: int = 2,
        layout: Layout = "bridge",
        *,
        bridge_nf: bool = True,
    ) -> None:
        self.layout = layout
        self.bridge_nf = bridge_nf
        self.nodes = tuple(_describe(number, pods) for number in range(1, nodes + 1))
        self.prefix = f"np{os.getpid()}-{next(_labs)}-"
        self._made: list[str] = []
        self._children: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Self:
        reason = obstacle()
        if reason:
            raise LabError(reason)
        try:
            for node in self.nodes:
                self._build(node)
            if len(self.nodes) == 2:
                self._connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the children, then whatever else runs in the namespaces, and remove these.

        A Ctrl-C in the middle is remembered and raised again at the end: nothing stays behind.
        """
        interrupt: BaseException | None = None
        while self._children or self._made:
            try:
                for child in self._children:
                    child.terminate()
                while self._children:
                    _end(self._children[-1])
                    self._children.pop()
                while self._made:
                    _delete(self._made[-1])
                    self._made.pop()
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def node(self, number: int) -> Node:
        return self.nodes[number - 1]

    def pod(self, node: int, number: int) -> Pod:
        return self.nodes[node - 1].pods[number - 1]

    def path(self, ns: str) -> Path:
        """The file of a namespace, by its short name: "node1", "pod1-2"."""
        return NETNS / f"{self.prefix}{ns}"

    def command(self, ns: str, *command: str) -> list[str]:
        """The argument list that runs `command` in a namespace, for one's own way to start it."""
        return ["nsenter", f"--net={self.path(ns)}", "--", *command]

    def run(self, ns: str, *command: str, input: str | None = None, timeout: float = 30) -> str:
        """Run a command to its end and return what it printed; LabError if it fails."""
        try:
            done = subprocess.run(
                self.command(ns, *command),
                check=False,
                input=input,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{ns}: {' '.join(command)}: no end after {timeout:g} s") from error
        if done.returncode:
            words = (done.stderr or done.stdout).strip()
            raise LabError(f"{ns}: {' '.join(command)}: exit {done.returncode}: {words}")
        return done.stdout

    def popen(self, ns: str, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a child in a namespace (options as of subprocess.Popen); it ends with the lab."""
        options.setdefault("stdin", subprocess.DEVNULL)
        child = subprocess.Popen(self.command(ns, *command), **options)
        self._children.append(child)
        return child

    def inside(self, ns: str, function: Callable[[], T]) -> T:
        """Call a function in a thread of its own that stands in the namespace.

        What it opens (sockets, files of /proc/net and /proc/sys/net) stays there and can be used
        from anywhere. It must be short: the caller waits.
        """
        result: list[T] = []
        failure: list[BaseException] = []

        def enter() -> None:
            try:
                with self.path(ns).open() as file:
                    if _libc.setns(file.fileno(), _CLONE_NEWNET):
                        number = ctypes.get_errno()
                        raise OSError(number, f"setns {ns}: {os.strerror(number)}")
                result.append(function())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=enter, name=f"lab-{ns}", daemon=True)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def socket(
        self,
        ns: str,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> socket.socket:
        """A socket that lives in a namespace."""
        return self.inside(ns, lambda: socket.socket(family, type, proto))

    def sysctl(self, ns: str, values: Mapping[str, str]) -> None:
        """Set kernel settings below /proc/sys/net of a namespace: {"ipv4/ip_forward": "1"}."""

        def write() -> None:
            for name, value in values.items():
                Path("/proc/sys/net", name).write_text(value)

        self.inside(ns, write)

    def _build(self, node: Node) -> None:
        self._add(node.name)
        if self.layout == "bridge":
            self._ip(
                node.name,
                "link add br0 type bridge",
                f"addr add {node.cidr4.replace('.0/', '.1/')} dev br0",
                f"addr add {node.cidr6.replace('::/', '::1/')} dev br0 nodad",
                "link set br0 up",
            )
            switch = "1" if self.bridge_nf else "0"
            with contextlib.suppress(FileNotFoundError):  # without br_netfilter there is no switch
                names = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
                self.sysctl(node.name, {f"bridge/{name}": switch for name in names})
        if len(self.nodes) == 1:
            self._ip(
                node.name,
                f"addr add {node.address4}/32 dev lo",
                f"addr add {node.address6}/128 dev lo nodad",
            )
        for number, pod in enumerate(node.pods, 1):
            self._add(pod.name)
            veth = f"v{number}"
            peer = f"{self.prefix}{pod.name}"
            self._ip(node.name, f"link add {veth} type veth peer name eth0 netns {peer}")
            if self.layout == "bridge":
                self._bridge(node, pod, veth)
            else:
                self._route(node, pod, veth)

    def _bridge(self, node: Node, pod: Pod, veth: str) -> None:
        # Hairpin mode as kubelet and the bridge plugin set it: with bridge-nf on, a pod that
        # reaches itself by a service address comes back through the port that it left by.
        self._ip(
            node.name,
            f"link set {veth} master br0 up",
            f"link set {veth} type bridge_slave hairpin on",
        )
        self._ip(
            pod.name,
            f"addr add {pod.address4}/24 dev eth0",
            f"addr add {pod.address6}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {node.cidr4.replace('.0/24', '.1')}",
            f"route add default via {node.cidr6.replace('::/64', '::1')}",
        )

    def _route(self, node: Node, pod: Pod, veth: str) -> None:
        self._ip(
            node.name,
            f"link set {veth} address {_GATEWAY_MAC} up",
            f"addr add fe80::1/64 dev {veth} nodad",
            f"route add {pod.address4}/32 dev {veth}",
            f"route add {pod.address6}/128 dev {veth}",
        )
        self.sysctl(node.name, {f"ipv4/conf/{veth}/proxy_arp": "1"})
        self._ip(
            pod.name,
            f"addr add {pod.address4}/32 dev eth0",
            f"addr add {pod.address6}/128 dev eth0 nodad",
            "link set eth0 up",
            "route add 169.254.1.1 dev eth0 scope link",
            f"neigh add 169.254.1.1 dev eth0 lladdr {_GATEWAY_MAC} nud permanent",
            "route add default via 169.254.1.1",
            "route add default via fe80::1 dev eth0",
        )

    def _connect(self) -> None:
        one, two = self.nodes
        peer = f"{self.prefix}{two.name}"
        self._ip(one.name, f"link add eth0 type veth peer name eth0 netns {peer}")
        # Fixed neighbours: the first IPv6 solicitation on a fresh link is lost, which costs 1 s.
        for number, node in enumerate(self.nodes, 1):
            self._ip(
                node.name,
                f"addr add {node.address4}/24 dev eth0",
                f"addr add {node.address6}/64 dev eth0 nodad",
                f"link set eth0 address 02:00:00:00:00:0{number} up",
                f"neigh add {self.nodes[2 - number].address6} dev eth0"
                f" lladdr 02:00:00:00:00:0{3 - number} nud permanent",
            )
        for here, there in ((one, two), (two, one)):
            self._ip(
                here.name,
                f"route add {there.cidr4} via {there.address4}",
                f"route add {there.cidr6} via {there.address6}",
            )

    def _add(self, name: str) -> None:
        full = f"{self.prefix}{name}"
        self._made.append(full)
        _call("ip", "netns", "add", full)
        self.sysctl(name, SYSCTLS)
        self._ip(name, "link set lo up")

    def _ip(self, ns: str, *lines: str) -> None:
        _call("ip", "-n", f"{self.prefix}{ns}", "-batch", "-", input="\n".join(lines) + "\n")


def _describe(number: int, pods: int) -> Node:
    return Node(
        name=f"node{number}",
        address4=f"192.168.100.{number}",
        address6=f"fd00:100::{number}",
        cidr4=f"10.244.{number}.0/24",
        cidr6=f"fd00:244:{number}::/64",
        pods=tuple(
            Pod(f"pod{number}-{k}", f"10.244.{number}.{10 + k}", f"fd00:244:{number}::{10 + k}")
            for k in range(1, pods + 1)
        ),
    )


def _call(*command: str, input: str | None = None) -> str:
    done = subprocess.run(
        command, check=False, input=input, capture_output=True, text=True, timeout=30
    )
    if done.returncode:
        context = f"\n{input}" if input else ""
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}{context}")
    return done.stdout


def _end(child: subprocess.Popen[Any]) -> None:
    """The child was asked to end; force it if it doesn't (a stopped one hears only that)."""
    try:
        child.wait(2)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _delete(name: str) -> None:
    """Remove a namespace. A process in it would keep it alive: end those, children's children."""
    if not (NETNS / name).exists():
        return
    for pid in _call("ip", "netns", "pids", name).split():
        if int(pid) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
    _call("ip", "netns", "del", name)
