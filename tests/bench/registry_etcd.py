"""How the etcd registry behaves at scale: ``python tests/bench/registry_etcd.py``.

Starts an etcd on loopback, writes 10,000 services with 10 endpoints each (SkyDNS's layout),
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

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.registry_stores import measure
from tests.system.etcd_server import EtcdServer, b64

BATCH = 120
"""Puts in one transaction; etcd's limit is 128."""


def record(address: str) -> str:
    return json.dumps({"host": address, "port": 8080, "priority": 10, "ttl": 60})


def fill(server: EtcdServer, services: int, endpoints: int) -> None:
    todo = []
    for i in range(services):
        for j in range(endpoints):
            n = i * endpoints + j
            address = f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
            key = f"/skydns/local/service-{i}/{j}"
            todo.append({"request_put": {"key": b64(key), "value": b64(record(address))}})
    for at in range(0, len(todo), BATCH):
        server.call("/v3/kv/txn", success=todo[at : at + BATCH])


async def main(services: int, endpoints: int, changes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = EtcdServer(Path(folder))
        try:
            server.start()
            fill(server, services, endpoints)
            options = {"endpoints": [server.url], "layout": "skydns", "prefix": "/skydns/local"}

            def change(i: int) -> Callable[[], object]:
                key = f"/skydns/local/service-{i * 7 % services}/0"
                return lambda: server.put(key, record(f"10.250.{i >> 8}.{i & 255}"))

            await measure("etcd", options, services * endpoints, change, changes)
        finally:
            server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10, help="of each service")
    parser.add_argument("--changes", type=int, default=200)
    given = parser.parse_args()
    trio.run(main, given.services, given.endpoints, given.changes)
