"""Objects as the API server completes and shows them."""

from __future__ import annotations

from typing import Any

from registry.model import Service
from tests.dataplane.kube_api import KubeApi
from tests.dataplane.kube_rules import Object


def service_object(
    *cluster_ips: str,
    ports: list[Object] | None = None,
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> Object:
    """A Service as the API server completes it."""
    ips = list(cluster_ips) or ["10.96.0.10"]
    return {
        "metadata": {"labels": labels or {}},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ips[0],
            "clusterIPs": ips,
            "ports": ports or [{"name": "http", "port": 80, "protocol": "TCP"}],
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
        }
        | spec,
        "status": {"loadBalancer": {}},
    }


def endpoint_object(address: str, **more: Any) -> Object:
    return {
        "addresses": [address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": "node-1",
        "zone": "zone-a",
    } | more


def slice_object(
    service: str,
    *addresses: str | Object,
    ports: list[Object] | None = None,
    family: str = "IPv4",
    labels: dict[str, str] | None = None,
) -> Object:
    """An EndpointSlice of ``service`` (the name without its namespace)."""
    return {
        "metadata": {"labels": {"kubernetes.io/service-name": service} | (labels or {})},
        "addressType": family,
        "endpoints": [a if isinstance(a, dict) else endpoint_object(a) for a in addresses],
        "ports": ports or [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def put_model(api: KubeApi, services: list[Service]) -> None:
    """Exactly these services; what is as it was is written again, as controllers do."""
    wanted = {s.name: s for s in services}
    for resource in ("services", "endpointslices"):
        for key in list(api.objects[resource]):
            if key.removesuffix("-x") not in wanted:
                api.write(resource, key, None)
    for i, (key, service) in enumerate(sorted(wanted.items())):
        name = key.partition("/")[2]
        ports = [{"name": "p", "port": port.port, "protocol": "TCP"} for port in service.ports]
        known = api.objects["services"].get(key)
        ip = known["spec"]["clusterIP"] if known else f"10.96.1.{i + 1}"
        api.write("services", key, service_object(ip, ports=ports))
        numbers = {e.port for e in service.endpoints} or {1}
        assert len(numbers) == 1
        slice_ports = [{"name": "p", "port": numbers.pop(), "protocol": "TCP"}]
        found = slice_object(name, *(e.address for e in service.endpoints), ports=slice_ports)
        api.write("endpointslices", f"{key}-x", found)
