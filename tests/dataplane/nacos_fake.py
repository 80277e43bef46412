"""A Nacos server, as far as a client that lists services and instances can tell.

Both versions of the HTTP API; it refuses parameters that a client has no reason to send. With a
password, tokens are given by a login and expire by :meth:`forget`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

from registry.model import Service
from tests.dataplane.http_fake import HttpFake, Reply, Request

KNOWN = {
    "service": {"pageNo", "pageSize", "groupName", "namespaceId"},
    "instance": {"serviceName", "groupName", "namespaceId", "clusters", "clusterName"}
    | {"healthyOnly"},
}


def host(address: str, port: int, **more: Any) -> dict[str, Any]:
    """An instance, as Nacos 2.2 gives it."""
    return {
        "instanceId": f"{address}#{port}#DEFAULT#DEFAULT_GROUP@@web",
        "ip": address,
        "port": port,
        "weight": 1.0,
        "healthy": True,
        "enabled": True,
        "ephemeral": True,
        "clusterName": "DEFAULT",
        "serviceName": "DEFAULT_GROUP@@web",
        "metadata": {},
        "instanceHeartBeatInterval": 5000,
        "instanceIdGenerator": "simple",
    } | more


class NacosFake(HttpFake):
    """``services`` may be changed at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.services: dict[str, list[Any]] = {}
        self.where = ("DEFAULT_GROUP", "")
        """Group and namespace that the services are in."""
        self.cache = 10
        """cacheMillis"""
        self.reached = False
        self.password = ""
        self.tokens: set[str] = set()
        self.logins = 0
        self.failures: dict[str, Reply] = {}
        """For questions about a service."""

    def put(self, services: Sequence[Service]) -> None:
        self.services = {
            s.name.removeprefix("default/"): [host(e.address, e.port) for e in s.endpoints]
            for s in services
        }

    def forget(self) -> None:
        """All tokens expire."""
        self.tokens.clear()

    async def handle(self, request: Request) -> Reply:
        if request.path == "/nacos/v1/auth/login":
            return self._login(request)
        if self.password:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if given not in self.tokens:
                return Reply(403, b'{"message":"token invalid!"}')
        _, root, version, *rest = request.path.split("/")
        if request.method != "GET" or root != "nacos" or len(rest) != 3:
            return Reply(404)
        names = [name for name, _ in request.params]
        if set(names) - KNOWN[rest[1]] or len(set(names)) < len(names):
            return Reply(400, f"caused: {names}".encode())
        where = (request.param("groupName"), request.param("namespaceId"))
        found = self.services if where == self.where else {}
        if rest == ["ns", "service", "list"]:
            return _json(version, self._list(version, found, request))
        if rest == ["ns", "instance", "list"]:
            name = request.param("serviceName")
            if name in self.failures:
                return self.failures[name]
            return _json(version, self._hosts(where[0], name, found.get(name, []), request))
        return Reply(404)

    def _login(self, request: Request) -> Reply:
        form = dict(parse_qsl(request.body.decode()))
        if request.method != "POST" or request.params:
            return Reply(405)
        if form != {"username": "user", "password": self.password}:
            return Reply(403, f"unknown user! {form}".encode())
        self.logins += 1
        token = f"token-{self.logins}"
        self.tokens.add(token)
        body = {"accessToken": token, "tokenTtl": 18000, "globalAdmin": True}
        return Reply(200, json.dumps(body).encode())

    def _list(self, version: str, found: dict[str, list[Any]], request: Request) -> Any:
        number, size = int(request.param("pageNo")), int(request.param("pageSize"))
        names = sorted(found)[(number - 1) * size : number * size]
        return {"count": len(found), "doms" if version == "v1" else "services": names}

    def _hosts(self, group: str, name: str, hosts: list[Any], request: Request) -> Any:
        clusters = request.param("clusters") or request.param("clusterName")
        wanted = set(clusters.split(",")) if clusters else set()
        return {
            "name": f"{group}@@{name}",
            "groupName": group,
            "clusters": clusters,
            "cacheMillis": self.cache,
            "hosts": [
                h
                for h in hosts
                if not wanted or (isinstance(h, dict) and h.get("clusterName") in wanted)
            ],
            "lastRefTime": 1,
            "checksum": "",
            "allIPs": False,
            "reachProtectionThreshold": self.reached,
            "valid": True,
        }


def _json(version: str, data: Any) -> Reply:
    if version == "v2":
        data = {"code": 0, "message": "success", "data": data}
    return Reply(200, json.dumps(data).encode(), (("Content-Type", "application/json"),))
