"""A Eureka server, as far as a client that fetches the registry can tell.

It writes the JSON of the real one: numbers with attributes, truth values as texts, a hash code of
all instances. What changed is in the delta as often as the real one keeps it there: for a time,
here until :meth:`forget`.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from registry.model import Service
from tests.dataplane.http_fake import HttpFake, Reply, Request


def instance(app: str, address: str, port: int, **more: Any) -> dict[str, Any]:
    """As Spring Cloud's server gives it."""
    return {
        "instanceId": f"{address}:{app.lower()}:{port}",
        "hostName": address,
        "app": app,
        "ipAddr": address,
        "status": "UP",
        "overriddenStatus": "UNKNOWN",
        "port": {"$": port, "@enabled": "true"},
        "securePort": {"$": 443, "@enabled": "false"},
        "countryId": 1,
        "dataCenterInfo": {
            "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
            "name": "MyOwn",
        },
        "leaseInfo": {"renewalIntervalInSecs": 30, "durationInSecs": 90},
        "metadata": {"@class": "java.util.Collections$EmptyMap"},
        "vipAddress": app.lower(),
        "actionType": "ADDED",
    } | more


class EurekaFake(HttpFake):
    """``instances`` are changed by :meth:`register` and :meth:`cancel`."""

    def __init__(self) -> None:
        super().__init__()
        self.instances: dict[str, Any] = {}
        self.recent: dict[str, Any] = {}
        """What the delta tells."""
        self.password = ""
        self.delta_status = 200
        self.hash: str | None = None
        """Instead of the true one."""
        self.single = False
        """Write lists of one as the object itself."""

    def register(self, found: dict[str, Any], action: str = "ADDED") -> None:
        found = found | {"actionType": action}
        self.instances[found["instanceId"]] = found
        self.recent[found["instanceId"]] = found
        self.tell()

    def cancel(self, key: str) -> None:
        gone = self.instances.pop(key)
        if isinstance(gone, dict):
            self.recent[key] = gone | {"actionType": "DELETED"}
        self.tell()

    def forget(self) -> None:
        """The delta is older than what it is kept for."""
        self.recent.clear()

    def put(self, services: Sequence[Service]) -> None:
        """Exactly these."""
        wanted = {}
        for service in services:
            app = service.name.removeprefix("default/").upper()
            for endpoint in service.endpoints:
                found = instance(app, endpoint.address, endpoint.port)
                wanted[found["instanceId"]] = found
        for key in [k for k in self.instances if k not in wanted]:
            self.cancel(key)
        for key, found in wanted.items():
            if key not in self.instances:
                self.register(found)

    async def handle(self, request: Request) -> Reply:
        if self.password:
            given = request.headers.get("authorization", "").removeprefix("Basic ")
            if base64.b64decode(given) != f"user:{self.password}".encode():
                return Reply(401, b"{}")
        if request.method != "GET" or request.params:
            return Reply(405)
        if request.headers.get("accept") != "application/json":
            return Reply(200, b"<applications/>")
        if request.path == "/eureka/apps":
            return self._answer(self.instances)
        if request.path == "/eureka/apps/delta":
            if self.delta_status != 200:
                return Reply(self.delta_status)
            return self._answer(self.recent)
        return Reply(404)

    def _answer(self, found: dict[str, Any]) -> Reply:
        apps: dict[str, list[Any]] = {}
        for one in found.values():
            name = one.get("app", "WEB") if isinstance(one, dict) else "WEB"
            apps.setdefault(name, []).append(one)
        counts = Counter(str(i.get("status")) for i in self.instances.values())
        code = "".join(f"{status}_{count}_" for status, count in sorted(counts.items()))
        listed = [{"name": n, "instance": self._few(i)} for n, i in sorted(apps.items())]
        body = {
            "applications": {
                "versions__delta": "1",
                "apps__hashcode": code if self.hash is None else self.hash,
                "application": self._few(listed),
            }
        }
        return Reply(200, json.dumps(body).encode(), (("Content-Type", "application/json"),))

    def _few(self, found: list[Any]) -> Any:
        return found[0] if self.single and len(found) == 1 else found
