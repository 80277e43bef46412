"""A Consul agent, as far as a client of its catalog, health and KV can tell.

It keeps the rules of developer.hashicorp.com/consul/api-docs/features/blocking and refuses what a
client has no reason to send: unknown parameters, an index that is none, a wait above ten minutes.
Each service has an index of its own, as in Consul since 1.0; the list of services and the KV
store have theirs. ``restore`` brings the index back to a small number.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import trio

from registry.model import Service
from tests.dataplane.http_fake import HttpFake, Reply, Request

COMMON = {"dc", "ns", "partition", "index", "wait", "stale", "consistent", "cached"}
HEALTH = {"passing", "tag", "filter", "near"}


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.reply = Reply(status, message.encode())


def instance(address: str, port: int, **more: Any) -> dict[str, Any]:
    """An entry of /v1/health/service, as Consul 1.17 gives it."""
    service = more.pop("service", "web")
    status = more.pop("status", "passing")
    key = f"{service}-{address}-{port}"
    entry = {
        "Node": {
            "ID": "f0d0",
            "Node": more.pop("node", "node-1"),
            "Address": more.pop("node_address", "10.1.1.1"),
            "Datacenter": "dc1",
            "TaggedAddresses": {"lan": "10.1.1.1"},
            "Meta": more.pop("node_meta", {}),
            "CreateIndex": 5,
            "ModifyIndex": 5,
        },
        "Service": {
            "ID": key,
            "Service": service,
            "Tags": more.pop("tags", []),
            "Address": address,
            "TaggedAddresses": {},
            "Meta": more.pop("meta", None),
            "Port": port,
            "Weights": more.pop("weights", {"Passing": 1, "Warning": 1}),
            "EnableTagOverride": False,
            "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}},
            "Connect": {},
            "PeerName": "",
            "CreateIndex": 7,
            "ModifyIndex": 7,
        },
        "Checks": [
            {"Node": "node-1", "CheckID": "serfHealth", "Status": "passing", "ServiceID": ""},
            {"Node": "node-1", "CheckID": f"service:{key}", "Status": status, "ServiceID": key},
        ],
    }
    assert not more, more
    return entry


class ConsulFake(HttpFake):
    """``services`` and ``keys`` are changed by :meth:`put`, :meth:`set` and :meth:`write`."""

    def __init__(self) -> None:
        super().__init__()
        self.index = 10
        self.services: dict[str, list[Any]] = {"consul": [instance("10.1.1.1", 8300)]}
        self.service_index: dict[str, int] = {"consul": 10}
        self.list_index = 10
        self.keys: dict[str, str] = {}
        self.kv_index = 10
        self.token = ""
        self.leader = True
        self.early = 0
        """So many waits end at once, with nothing new."""
        self.most_waiting = 0
        self.waiting = 0
        self.strict_connections = 200

    # --- state ---

    def put(self, services: Sequence[Service]) -> None:
        """The catalog has exactly these, and consul itself."""
        wanted = {
            s.name.removeprefix("default/"): [
                instance(e.address, e.port, service=s.name.removeprefix("default/"))
                for e in s.endpoints
            ]
            for s in services
        }
        for name in [n for n in self.services if n not in wanted and n != "consul"]:
            self.set(name, None)
        for name, entries in wanted.items():
            if self.services.get(name) != entries:
                self.set(name, entries)

    def set(self, name: str, entries: list[Any] | None) -> None:
        """These are the instances of a service; None: it is deregistered."""
        self.index += 1
        if entries is None:
            self.services.pop(name, None)
        else:
            self.services[name] = entries
        self.service_index[name] = self.index
        self.list_index = self.index
        self.tell()

    def write(self, key: str, value: str | None) -> None:
        self.index += 1
        self.kv_index = self.index
        if value is None:
            self.keys.pop(key, None)
        else:
            self.keys[key] = base64.b64encode(value.encode()).decode()
        self.tell()

    def restore(self, index: int = 1) -> None:
        """As after a snapshot was restored: the same data at a lower index. Waits end."""
        self.index = self.list_index = self.kv_index = index
        self.service_index = dict.fromkeys(self.service_index, index)
        self.tell()

    # --- answers ---

    async def handle(self, request: Request) -> Reply:
        try:
            return await self._route(request)
        except Refused as refused:
            return refused.reply

    async def _route(self, request: Request) -> Reply:
        if self.connections > self.strict_connections:
            raise Refused(429, "Your IP is issuing too many concurrent connections")
        if self.token and request.headers.get("x-consul-token") != self.token:
            raise Refused(403, "ACL not found")
        self._led(request)
        names = [name for name, _ in request.params]
        if len({n for n in names if n != "tag"}) != len([n for n in names if n != "tag"]):
            raise Refused(400, "a parameter stands twice")
        if request.path == "/v1/catalog/services":
            self._allow(names, COMMON)
            return await self._blocking(request, lambda: self.list_index, self._list)
        if request.path.startswith("/v1/health/service/"):
            self._allow(names, COMMON | HEALTH)
            name = request.path.removeprefix("/v1/health/service/")
            return await self._blocking(
                request,
                lambda: self.service_index.get(name, self.list_index),
                lambda: self._health(name, request),
            )
        if request.path.startswith("/v1/kv/"):
            self._allow(names, COMMON | {"recurse"})
            prefix = request.path.removeprefix("/v1/kv/")
            return await self._blocking(
                request, lambda: self.kv_index, lambda: self._keys(prefix, request)
            )
        raise Refused(404, "Invalid URL path: not a recognized HTTP API endpoint")

    def _led(self, request: Request) -> None:
        if not self.leader and request.param("stale", "no") == "no":
            raise Refused(500, "No cluster leader")

    @staticmethod
    def _allow(names: list[str], known: set[str]) -> None:
        if unknown := set(names) - known:
            raise Refused(400, f"unknown parameters {sorted(unknown)}")

    async def _blocking(self, request: Request, index: Any, answer: Any) -> Reply:
        text, wait = request.param("index", "0"), request.param("wait", "5m")
        if not text.isdecimal():
            raise Refused(400, "Invalid index")
        seconds = float(wait.removesuffix("ms")) / 1000 if wait.endswith("ms") else 300.0
        if seconds > 600:
            raise Refused(400, "Invalid wait")
        wanted = int(text)
        if wanted:
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
            try:
                with trio.move_on_after(seconds):
                    # A restored server has a smaller index: what waits for a larger one ends.
                    while index() == wanted and not self.early:
                        await self.changed()
                    self.early = max(0, self.early - 1) if index() == wanted else self.early
            finally:
                self.waiting -= 1
        self._led(request)
        status, body = answer()
        return Reply(
            status,
            body,
            (
                ("Content-Type", "application/json"),
                ("X-Consul-Index", str(index())),
                ("X-Consul-Knownleader", "true" if self.leader else "false"),
                ("X-Consul-Lastcontact", "0"),
            ),
        )

    def _list(self) -> tuple[int, bytes]:
        found = {
            name: sorted({t for e in entries if isinstance(e, dict) for t in _tags(e)})
            for name, entries in self.services.items()
        }
        return 200, json.dumps(found).encode()

    def _health(self, name: str, request: Request) -> tuple[int, bytes]:
        wanted = {value for key, value in request.params if key == "tag"}
        passing = request.param("passing", "no") not in ("no", "false", "0")
        found = []
        for entry in self.services.get(name, []):
            if isinstance(entry, dict) and "Checks" in entry:
                if passing and any(c["Status"] != "passing" for c in entry["Checks"]):
                    continue
                if not wanted <= set(_tags(entry)):
                    continue
            found.append(entry)
        return 200, json.dumps(found).encode()

    def _keys(self, prefix: str, request: Request) -> tuple[int, bytes]:
        assert "recurse" in dict(request.params)
        found = [
            {"LockIndex": 0, "Key": k, "Flags": 0, "Value": v, "CreateIndex": 9, "ModifyIndex": 9}
            for k, v in sorted(self.keys.items())
            if k.startswith(prefix)
        ]
        return (200, json.dumps(found).encode()) if found else (404, b"")


def _tags(entry: dict[str, Any]) -> list[str]:
    return list((entry.get("Service") or {}).get("Tags") or [])
