"""A discovery service that keeps the rules of REST-JSON polling, and refuses what breaks them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from registry.model import Service
from registry.xds.resources import CLUSTER, ENDPOINTS
from tests.dataplane.http_fake import HttpFake, Reply, Request

TYPES = {"/v3/discovery:clusters": CLUSTER, "/v3/discovery:endpoints": ENDPOINTS}
NAMES = {CLUSTER: "name", ENDPOINTS: "cluster_name"}


class XdsFake(HttpFake):
    def __init__(self) -> None:
        super().__init__()
        self.version = 1
        self.resources: dict[str, list[Any]] = {CLUSTER: [], ENDPOINTS: []}
        self.unchanged = 0
        """Answers 304."""
        self.token = ""

    def put(self, services: Sequence[Service], **policy: Any) -> None:
        """Exactly these, of which each endpoint is healthy."""
        self.write(
            [cluster(service.name) for service in services],
            [assignment(service, **policy) for service in services],
        )

    def write(self, clusters: list[Any], assignments: list[Any]) -> None:
        self.version += 1
        self.resources = {CLUSTER: clusters, ENDPOINTS: assignments}

    async def handle(self, request: Request) -> Reply:
        kind = TYPES.get(request.path)
        if kind is None:
            return Reply(404, b"no such resource type")
        if request.method != "POST" or request.params:
            return Reply(405, b"POST, without parameters")
        if request.headers.get("content-type") != "application/json":
            return Reply(415, b"application/json")
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return Reply(403, b"who are you?")
        asked = json.loads(request.body)
        if set(asked) - {"version_info", "node", "resource_names", "type_url"}:
            return Reply(400, b"an unknown field")
        if asked.get("type_url") != kind or not asked.get("node", {}).get("id"):
            return Reply(400, b"type_url and node.id are needed")
        if kind == ENDPOINTS and not asked.get("resource_names"):
            return Reply(400, b"EDS needs resource_names")
        if asked.get("version_info") == str(self.version):
            self.unchanged += 1
            return Reply(304)
        names = set(asked.get("resource_names", ()))
        found = [
            resource
            for resource in self.resources[kind]
            if not names or not isinstance(resource, dict) or resource.get(NAMES[kind]) in names
        ]
        body = {"version_info": str(self.version), "resources": found, "type_url": kind}
        return Reply(200, json.dumps(body).encode())


def cluster(name: str, **more: Any) -> dict[str, Any]:
    return {
        "@type": CLUSTER,
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"resource_api_version": "V3"}},
        **more,
    }


def assignment(service: Service, **policy: Any) -> dict[str, Any]:
    return {
        "@type": ENDPOINTS,
        "cluster_name": service.name,
        "endpoints": [
            {
                "lb_endpoints": [
                    {
                        "endpoint": {
                            "address": {
                                "socket_address": {"address": e.address, "port_value": e.port}
                            }
                        }
                    }
                    for e in service.endpoints
                ]
            }
        ],
        "policy": policy,
    }
