"""A Consul agent that services can be registered with, as far as TTL checks go.

Rules of developer.hashicorp.com/consul/api-docs/agent/service and /agent/check: a TTL check that is
not passed in time turns critical, one that is unknown is answered with 404, and a time to
deregister of less than a minute is none.
"""

from __future__ import annotations

import json
from typing import Any

import trio

from tests.dataplane.consul_fake import ConsulFake, Refused, instance
from tests.dataplane.http_fake import Reply, Request

FIELDS = {"ID", "Name", "Address", "Port", "Tags", "Meta", "Weights", "Check"}
CHECK = {"CheckID", "Name", "TTL", "Status", "DeregisterCriticalServiceAfter"}


class ConsulAgent(ConsulFake):
    """``registered``: by ID."""

    def __init__(self) -> None:
        super().__init__()
        self.registered: dict[str, dict[str, Any]] = {}
        self.passed = 0

    async def _route(self, request: Request) -> Reply:
        if not request.path.startswith("/v1/agent/"):
            return await super()._route(request)
        if request.method != "PUT":
            raise Refused(405, "method GET not allowed")
        if self.token and request.headers.get("x-consul-token") != self.token:
            raise Refused(403, "Permission denied: token lacks permission 'service:write'")
        action, _, name = request.path.removeprefix("/v1/agent/").rpartition("/")
        if (action, name) == ("service", "register"):
            self._register(json.loads(request.body))
        elif action == "check/pass":
            self._pass(name)
        elif action == "service/deregister":
            if name not in self.registered:
                raise Refused(404, f'Unknown service ID "{name}"')
            self.forget(name)
        else:
            raise Refused(404, "Invalid URL path: not a recognized HTTP API endpoint")
        return Reply(200)

    def forget(self, identity: str) -> None:
        """It is deregistered; or the agent lost its state."""
        gone = self.registered.pop(identity)
        self._show(gone["Name"])

    def _register(self, body: dict[str, Any]) -> None:
        if set(body) - FIELDS or set(body["Check"]) - CHECK:
            raise Refused(400, "Request decode failed: unknown keys")
        if any(not isinstance(v, str) for v in body["Meta"].values()):
            raise Refused(400, "Invalid Meta")
        assert int(body["Check"]["DeregisterCriticalServiceAfter"].removesuffix("s")) >= 60
        body["Ttl"] = int(body["Check"]["TTL"].removesuffix("ms")) / 1000
        self.registered[body["ID"]] = body
        self._renew(body, body["Check"]["Status"])

    def _pass(self, check: str) -> None:
        for body in self.registered.values():
            if body["Check"]["CheckID"] == check:
                self.passed += 1
                self._renew(body, "passing")
                return
        raise Refused(404, f'Unknown check ID "{check}". Ensure that the check ID is passed')

    def _renew(self, body: dict[str, Any], status: str) -> None:
        body["Round"] = body.get("Round", 0) + 1
        if body.get("Status") != status:
            body["Status"] = status
            self._show(body["Name"])
        assert self._nursery is not None
        self._nursery.start_soon(self._lapse, body, body["Round"])

    async def _lapse(self, body: dict[str, Any], round_: int) -> None:
        await trio.sleep(body["Ttl"])
        if body["Round"] == round_ and self.registered.get(body["ID"]) is body:
            body["Status"] = "critical"
            self._show(body["Name"])

    def _show(self, name: str) -> None:
        entries = []
        for body in self.registered.values():
            if body["Name"] == name:
                shown = instance(
                    body.get("Address", ""),
                    body["Port"],
                    service=name,
                    status=body["Status"],
                    tags=body["Tags"],
                    meta=body["Meta"],
                    weights=body.get("Weights", {"Passing": 1, "Warning": 1}),
                )
                entries.append(shown)
        self.set(name, entries or None)
