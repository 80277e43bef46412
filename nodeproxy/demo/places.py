"""The two places where the demo plays: a lab of network namespaces with real interception (root),
and loopback with an explicit listener (anybody).
"""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Sequence
from typing import Final

from nodeproxy.core.destination import host_port
from nodeproxy.demo import lab, processes
from nodeproxy.demo.stage import PORT, SERVICE, Address, BackEnd, Stage

__all__ = ["EXPIRY", "RootStage", "UserStage", "lack"]

BACKEND_PORT: Final = 8080
EXPIRY: Final = 2
"""Seconds after the last heartbeat until the kernel's own path carries the traffic."""
PROGRAMS: Final = ("iptables", "ip6tables", "ipset", "nft")


def lack() -> str | None:
    """Why there can be no RootStage here, in words for the user; None if there can."""
    if reason := lab.obstacle():
        return reason
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"missing programs: {', '.join(missing)} (apt-get install iptables ipset nftables)"
    return None


class RootStage(Stage):
    """Two nodes with two pods each; the proxy intercepts on node1."""

    kind = "root"
    host_client = "host process"
    vips = ("10.96.0.10", "fd00:96::10")

    def __init__(self) -> None:
        super().__init__()
        self.lab = lab.Lab(nodes=2, pods=2)
        self._namespaces: set[int] = set()
        self._inhabitants: set[tuple[int, str]] = set()
        self.pod_client = "pod1-1"
        self.clients = (self.pod_client, self.host_client)
        self.source = self.lab.pod(1, 1).address4

    def build(self) -> None:
        lab.remove_leftovers()  # of a demo that was killed
        self.lab.__enter__()
        names = [node.name for node in self.lab.nodes]
        names += [pod.name for node in self.lab.nodes for pod in node.pods]
        self._namespaces = {self.lab.path(name).stat().st_ino for name in names}

    def command(self, place: str, command: Sequence[str]) -> list[str]:
        return self.lab.command(place, *command)

    def describe_backends(self) -> tuple[BackEnd, ...]:
        pods = (self.lab.pod(1, 2), self.lab.pod(2, 1), self.lab.pod(2, 2))
        return tuple(
            BackEnd(p.name, p.name, ((p.address4, BACKEND_PORT), (p.address6, BACKEND_PORT)))
            for p in pods
        )

    def settings(self) -> str:
        return (
            "node: {name: node1}\n"
            "interception:\n"
            "  mode: iptables\n"
            "  vip_cidrs: [10.96.0.0/16, 'fd00:96::/112']\n"
            f"  expiry: {EXPIRY}s\n"
            "telemetry: {access_log: {mode: all, path: access.log}}\n"
        )

    def targets(self) -> tuple[Address, ...]:
        return tuple((vip, PORT) for vip in self.vips)

    def place_of(self, who: str) -> str:
        return self.pod_client if who == self.pod_client else "node1"

    def dismantle(self) -> None:
        # Looked up while the namespaces live: their numbers are given away again at once.
        self._inhabitants |= processes.in_namespaces(self._namespaces)
        self.lab.close()

    def leftovers_of_place(self) -> list[str]:
        found = [f"namespace {path.name}" for path in lab.NETNS.glob(f"{self.lab.prefix}*")]
        for pid, birth in self._inhabitants:
            with contextlib.suppress(OSError):
                if processes.birth(pid) == birth:
                    found.append(f"process {pid} of a namespace")
        return found


class UserStage(Stage):
    """Back ends and the proxy's explicit listener on free ports of loopback."""

    kind = "user"
    clients = ("client",)

    def __init__(self) -> None:
        super().__init__()
        self._listener = ("127.0.0.1", 0)

    def build(self) -> None:
        # Nobody else is given this port in the next minute, as ports are handed out in turn.
        with socket.socket() as probe:
            probe.bind(self._listener)
            self._listener = probe.getsockname()

    def command(self, place: str, command: Sequence[str]) -> list[str]:
        return list(command)

    def describe_backends(self) -> tuple[BackEnd, ...]:
        names = ("backend-a", "backend-b", "backend-c")
        return tuple(BackEnd(name, "", (("127.0.0.1", 0),)) for name in names)

    def settings(self) -> str:
        return (
            "interception: {mode: none}\n"
            "listeners:\n"
            f"  - {{bind: '{host_port(self._listener)}', service: {SERVICE}, port: {PORT}}}\n"
            "telemetry: {metrics: 'off', access_log: {mode: all, path: access.log}}\n"
        )

    def targets(self) -> tuple[Address, ...]:
        return (self._listener,)

    def place_of(self, who: str) -> str:
        return ""

    def dismantle(self) -> None:
        pass

    def leftovers_of_place(self) -> list[str]:
        return []
