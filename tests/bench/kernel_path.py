"""What the kernel path costs, in three ways to build it; the decision for the third stands on it.

    python tests/bench/kernel_path.py [--sizes 100,1000,10000]        (as root; about a minute)

- statistic: iptables (nf_tables and legacy), one jump and one chain a service, one
  `-m statistic` rule an endpoint, as kube-proxy's iptables mode builds it;
- chains: an nft verdict map, and a chain with an anonymous map for every service;
- maps: two nft maps and no chain of a service's own (iptables/kernel_path.py).

Each service has three endpoints. Measured: putting all services in place, the change of one
endpoint (median of 5, with the start of the program), and a connect from a pod to the last
service (median and p99 of 300).
"""

import argparse
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from iptables.kernel_path import KernelPath
from iptables.settings import Backend, Frontend, Settings
from nodeproxy.demo.lab import Lab

ENDPOINT = ("10.244.1.12", 8080)


def vip(number: int) -> str:
    return f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def frontends(size: int) -> list[Frontend]:
    backends = tuple(Backend(ENDPOINT[0], ENDPOINT[1] + i) for i in range(3))
    return [Frontend(vip(i), 80, backends) for i in range(size)]


def statistic(size: int, kind: str) -> Iterator[tuple[list[str], str]]:
    tool = [f"iptables-{kind}-restore", "-w", "5", "--noflush"]

    def chain(number: int, ports: range) -> list[str]:
        left = len(ports)
        lines = []
        for i, port in enumerate(ports):
            probability = f"-m statistic --mode random --probability {1 / (left - i):.10f} "
            match = probability if left - i > 1 else ""
            target = f"-j DNAT --to-destination {ENDPOINT[0]}:{port}"
            lines.append(f"-A S{number} -p tcp {match}{target}")
        return lines

    declared = [f":S{i} - [0:0]" for i in range(size)]
    jumps = [f"-A SERVICES -d {vip(i)}/32 -p tcp -m tcp --dport 80 -j S{i}" for i in range(size)]
    bodies = [line for i in range(size) for line in chain(i, range(8080, 8083))]
    lines = ["*nat", ":SERVICES - [0:0]", *declared, "-A PREROUTING -j SERVICES", *jumps, *bodies]
    yield tool, "\n".join([*lines, "COMMIT\n"])
    for count in (2, 3, 2, 3, 2):
        number = size // 2
        body = chain(number, range(8080, 8080 + count))
        yield tool, "\n".join(["*nat", f":S{number} - [0:0]", *body, "COMMIT\n"])


def chains(size: int) -> Iterator[tuple[list[str], str]]:
    def rule(count: int) -> str:
        targets = ", ".join(f"{i} : {ENDPOINT[0]} . {8080 + i}" for i in range(count))
        return f"meta l4proto tcp dnat to numgen random mod {count} map {{ {targets} }}"

    elements = ", ".join(f"{vip(i)} . 80 : goto s{i}" for i in range(size))
    yield (
        ["nft", "-f", "-"],
        "\n".join(
            [
                "table ip bench {",
                "map services { type ipv4_addr . inet_service : verdict; }",
                *(f"chain s{i} {{ {rule(3)}; }}" for i in range(size)),
                "chain pre { type nat hook prerouting priority -90; policy accept;",
                "ip daddr . tcp dport vmap @services; }",
                "}",
                f"add element ip bench services {{ {elements} }}\n",
            ]
        ),
    )
    for count in (2, 3, 2, 3, 2):
        name = f"ip bench s{size // 2}"
        yield ["nft", "-f", "-"], f"flush chain {name}\nadd rule {name} {rule(count)}\n"


def maps(size: int) -> Iterator[tuple[list[str], str]]:
    path = KernelPath(Settings(), 4)
    services = frontends(size)
    yield ["nft", "-f", "-"], path.replace(services)
    one = services[size // 2]
    for count in (2, 3, 2, 3, 2):
        changed = Frontend(one.address, one.port, one.backends[:count])
        yield ["nft", "-f", "-"], path.change([changed], [])


VARIANTS: dict[str, Callable[[int], Iterator[tuple[list[str], str]]]] = {
    "statistic, nf_tables": lambda size: statistic(size, "nft"),
    "statistic, legacy": lambda size: statistic(size, "legacy"),
    "nft, a chain a service": chains,
    "nft, two maps": maps,
}


def measure(variant: str, size: int) -> str:
    with Lab(nodes=1, pods=2) as lab:
        for port in range(8080, 8083):
            listener = lab.socket("pod1-2")
            listener.bind(("0.0.0.0", port))
            listener.listen(512)
            threading.Thread(target=accept, args=(listener,), daemon=True).start()
        times = []
        for command, text in VARIANTS[variant](size):
            started = time.perf_counter()
            lab.run("node1", *command, input=text, timeout=300)
            times.append((time.perf_counter() - started) * 1e3)
        latencies = []
        for _ in range(300):
            with lab.socket("pod1-1") as client:
                started = time.perf_counter()
                client.connect((vip(size - 1), 80))
                latencies.append((time.perf_counter() - started) * 1e6)
        latencies.sort()
        full, *changes = times
        return (
            f"| {variant} | {size} | {full:.0f} ms | {statistics.median(changes):.1f} ms"
            f" | {latencies[150]:.0f} us | {latencies[297]:.0f} us |"
        )


def accept(listener: socket.socket) -> None:
    while True:
        client, _ = listener.accept()
        client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure ways to build the kernel path.")
    parser.add_argument("--sizes", default="100,1000,10000")
    sizes = [int(size) for size in parser.parse_args().sizes.split(",")]
    print("| built as | services | all | one endpoint | connect p50 | p99 |")
    print("|---|---|---|---|---|---|")
    for variant in VARIANTS:
        for size in sizes:
            print(measure(variant, size), flush=True)


if __name__ == "__main__":
    main()
