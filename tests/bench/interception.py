"""What interception itself costs, and how long a node is without its proxy when that dies.

    python tests/bench/interception.py [--services 10000] [--endpoints 10]      (as root)

First the heartbeat, a full synchronization, the change of one service, a verification, the removal,
with the longest stall of the loop meanwhile. Then, for several expiries: a pod and a process of
the host connect every 10 ms; the proxy's listener is closed and its heartbeat ends, as after
kill -9; counted are the attempts that failed, and when the kernel path first answered.
"""

import argparse
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from iptables.host import Host
from iptables.manager import Interception
from iptables.settings import Backend, Frontend, Settings
from nodeproxy.demo.lab import Lab

VIP = "10.96.0.10"
CIDRS = ("10.96.0.0/12",)
IP_FREEBIND = 15


class LabHost(Host):
    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def command(self, command: Sequence[str]) -> list[str]:
        return self.lab.command("node1", *command)

    def socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        return self.lab.socket("node1", family, kind, protocol)


class Stalls:
    """The longest time that the loop stood still since the last look."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def run(self) -> None:
        while True:
            started = time.perf_counter()
            await trio.sleep(0.001)
            self.worst = max(self.worst, time.perf_counter() - started - 0.001)

    def take(self) -> float:
        worst, self.worst = self.worst, 0.0
        return worst * 1e3


async def costs(services: int, endpoints: int) -> None:
    with Lab(nodes=1, pods=1) as lab:
        interception = Interception(Settings(backend="nft"), host=LabHost(lab))
        stalls = Stalls()
        many = [
            Frontend(
                f"10.{96 + (i >> 16)}.{i >> 8 & 255}.{i & 255}",
                80,
                tuple(Backend(f"10.244.{k}.{i % 250 + 1}", 8080) for k in range(endpoints)),
            )
            for i in range(services)
        ]
        print(f"{services} services with {endpoints} endpoints each")
        print("| step | time | longest stall of the loop |")
        print("|---|---|---|")

        def show(what: str, started: float) -> None:
            spent = (time.perf_counter() - started) * 1e3
            print(f"| {what} | {spent:.0f} ms | {stalls.take():.1f} ms |", flush=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stalls.run)
            await trio.sleep(0.1)
            stalls.take()
            started = time.perf_counter()
            await interception.install()
            show("install", started)
            started = time.perf_counter()
            await interception.sync(many)
            show("full synchronization", started)
            for i in range(3):
                changed = Frontend(VIP, 80, (*many[0].backends[1:], Backend("10.244.1.1", 81 + i)))
                started = time.perf_counter()
                await interception.update([changed], [])
            show("change of one service (the last of 3)", started)
            started = time.perf_counter()
            assert not await interception.verify()
            show("verification", started)
            beats = []
            for _ in range(400):
                started = time.perf_counter()
                interception.beat()
                beats.append((time.perf_counter() - started) * 1e6)
            started = time.perf_counter()
            await interception.remove()
            show("removal", started)
            nursery.cancel_scope.cancel()
        beats.sort()
        print(f"heartbeat: median {statistics.median(beats):.0f} us, p99 {beats[395]:.0f} us\n")


async def failover(expiry: int) -> None:
    with Lab(nodes=1, pods=2) as lab:
        settings = Settings(backend="nft", vip_cidrs=CIDRS, expiry=expiry)
        interception = Interception(settings, host=LabHost(lab))
        await interception.install()
        pod = lab.pod(1, 2).address4
        await interception.sync([Frontend(VIP, 80, (Backend(pod, 8080),))])
        died = 0.0
        alive = trio.CancelScope()
        results: dict[str, list[tuple[float, str, float]]] = {"pod1-1": [], "node1": []}

        async def serve(ns: str, address: str, port: int, word: bytes) -> None:
            raw = lab.socket(ns)
            raw.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
            raw.bind((address, port))
            raw.listen(256)
            with trio.socket.from_stdlib_socket(raw) as listener:
                while True:
                    client, _ = await listener.accept()
                    with client:
                        await client.send(word)

        async def proxy() -> None:
            with alive:
                async with trio.open_nursery() as tasks:
                    tasks.start_soon(serve, "node1", settings.address4, 15001, b"proxy")
                    while True:
                        interception.beat()
                        await trio.sleep(expiry / 4)

        async def attempt(ns: str) -> None:
            started = trio.current_time()
            with trio.socket.from_stdlib_socket(lab.socket(ns)) as client:
                try:
                    await client.connect((VIP, 80))
                    word = (await client.recv(10)).decode() or "closed"
                except OSError as error:
                    word = type(error).__name__
            ended = trio.current_time()
            results[ns].append((started - died if died else -1, word, ended - started))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, "pod1-2", "0.0.0.0", 8080, b"kernel")
            nursery.start_soon(proxy)
            await trio.sleep(1)
            end = trio.current_time() + 1 + 2.5 * expiry
            while trio.current_time() < end:
                for ns in results:
                    nursery.start_soon(attempt, ns)
                if not died and trio.current_time() > end - 2.5 * expiry:
                    alive.cancel()
                    died = trio.current_time()
                await trio.sleep(0.01)
            await trio.sleep(2 * expiry + 1)
            nursery.cancel_scope.cancel()
        for ns, made in results.items():
            failed = [word for _, word, _ in made if word not in ("proxy", "kernel")]
            first = min(start + took for start, word, took in made if word == "kernel")
            slowest = max(took for _, word, took in made if word == "kernel")
            print(
                f"| {expiry} s | {ns} | {len(made)} | {len(failed)} {sorted(set(failed)) or ''}"
                f" | {first * 1e3:.0f} ms | {slowest * 1e3:.0f} ms |",
                flush=True,
            )
        await interception.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the cost of interception.")
    parser.add_argument("--services", type=int, default=10000)
    parser.add_argument("--endpoints", type=int, default=10)
    arguments = parser.parse_args()
    trio.run(costs, arguments.services, arguments.endpoints)
    print("| expiry | client | attempts | failed | first through the kernel after | slowest |")
    print("|---|---|---|---|---|---|")
    for expiry in (1, 2):
        trio.run(failover, expiry)


if __name__ == "__main__":
    main()
