"""How the ZooKeeper registry behaves at scale: ``python tests/bench/registry_zookeeper.py``.

Starts a ZooKeeper on loopback, makes 10,000 services with 10 instances each (nerve's layout),
runs the registry under its supervisor and prints: time to load, the longest stall of the loop
meanwhile, memory of this process, and the time from the start of a write to the catalog that
has it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import trio
from kazoo.client import KazooClient

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.registry_stores import measure
from tests.system.zookeeper_server import ZookeeperServer


def record(address: str) -> bytes:
    return json.dumps({"host": address, "port": 8080, "name": "i-1"}).encode()


def fill(hands: KazooClient, services: int, endpoints: int) -> None:
    hands.ensure_path("/nerve")
    for i in range(services):
        transaction = hands.transaction()
        transaction.create(f"/nerve/service-{i}")
        for j in range(endpoints):
            n = i * endpoints + j
            address = f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
            transaction.create(f"/nerve/service-{i}/i-{j}_0000000001", record(address))
        transaction.commit()


async def main(services: int, endpoints: int, changes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = ZookeeperServer(Path(folder), heap="512m")
        try:
            server.start()
            with server.hands() as hands:
                fill(hands, services, endpoints)
                options = {"servers": [server.address], "layout": "nerve", "path": "/nerve"}

                def change(i: int) -> Callable[[], object]:
                    path = f"/nerve/service-{i * 7 % services}/i-0_0000000001"
                    return lambda: hands.set(path, record(f"10.250.{i >> 8}.{i & 255}"))

                await measure("zookeeper", options, services * endpoints, change, changes)
        finally:
            server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10, help="of each service")
    parser.add_argument("--changes", type=int, default=200)
    given = parser.parse_args()
    trio.run(main, given.services, given.endpoints, given.changes)
