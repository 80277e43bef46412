"""The Kubernetes objects that nodeproxy reads, and what they mean for the model.

Shared by the back end ``kubernetes``, which gets them from the API server, and the back end
``file``, which reads what ``kubectl get -o yaml`` prints. Fields that are not known are fine: the
API grows. Trouble is returned as (path inside of the object, message), so that each caller can say
where it was. Semantics: kube-proxy's, as of discovery.k8s.io/v1.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from registry.address import canonical, is_proxyable
from registry.file.fragment import ANY_PORT
from registry.model import NOWHERE, Endpoint, Locality, Port, Protocol, Service
from registry.yamltext import Path

__all__ = [
    "OUR_PROXY_NAME",
    "PROXY_NAME",
    "SERVICE_NAME",
    "ZONE",
    "Metadata",
    "NodeObject",
    "ServiceObject",
    "SliceObject",
    "declared",
    "endpoints_of",
    "is_ours",
    "protocol_of",
    "service_of_slice",
]

SERVICE_NAME: Final = "kubernetes.io/service-name"
PROXY_NAME: Final = "service.kubernetes.io/service-proxy-name"
OUR_PROXY_NAME: Final = "nodeproxy"
ZONE: Final = "topology.kubernetes.io/zone"

Number = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Trouble = tuple[Path, str]
"""Where inside of an object, and what."""


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str | None = None
    labels: dict[str, str] | None = None
    resource_version: str | None = None


class ServicePort(msgspec.Struct, frozen=True, rename="camel"):
    port: Number
    name: str | None = None
    protocol: str | None = None
    app_protocol: str | None = None


class ServiceSpec(
    msgspec.Struct,
    frozen=True,
    rename={
        "cluster_ip": "clusterIP",
        "cluster_ips": "clusterIPs",
        "external_ips": "externalIPs",
        "internal_traffic_policy": "internalTrafficPolicy",
        "source_ranges": "loadBalancerSourceRanges",
    },
):
    type: str | None = None
    cluster_ip: str | None = None
    cluster_ips: list[str] | None = None
    external_ips: list[str] | None = None
    ports: list[ServicePort] | None = None
    internal_traffic_policy: str | None = None
    source_ranges: list[str] | None = None


class Ingress(msgspec.Struct, frozen=True, rename="camel"):
    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancerStatus(msgspec.Struct, frozen=True):
    ingress: list[Ingress] | None = None


class ServiceStatus(msgspec.Struct, frozen=True, rename="camel"):
    load_balancer: LoadBalancerStatus | None = None


class ServiceObject(msgspec.Struct, frozen=True):
    metadata: Metadata
    spec: ServiceSpec
    status: ServiceStatus | None = None


class Conditions(msgspec.Struct, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class SliceEndpoint(msgspec.Struct, frozen=True, rename="camel"):
    addresses: Annotated[list[str], msgspec.Meta(min_length=1)]
    conditions: Conditions | None = None
    node_name: str | None = None
    zone: str | None = None


class SlicePort(msgspec.Struct, frozen=True, rename="camel"):
    name: str | None = None
    port: Number | None = None
    protocol: str | None = None


class SliceObject(msgspec.Struct, frozen=True, rename="camel"):
    metadata: Metadata
    address_type: str
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None


class NodeObject(msgspec.Struct, frozen=True):
    metadata: Metadata


def is_ours(labels: dict[str, str] | None) -> bool:
    """Whether no other proxy has been given this service."""
    return not labels or labels.get(PROXY_NAME, OUR_PROXY_NAME) == OUR_PROXY_NAME


def declared(
    found: ServiceObject,
    origin: str,
    *,
    external_ips: bool = False,
    load_balancer_ips: bool = False,
) -> tuple[Service | None, list[Trouble]]:
    """The service without endpoints; None with trouble if it cannot be used, None without if it
    is none of ours: ExternalName, or another proxy's. A headless service has no ``vips``.

    A load balancer's address is left out where it is not to be short-circuited (ipMode Proxy) or
    has a firewall that only kube-proxy applies (loadBalancerSourceRanges).
    """
    meta, spec = found.metadata, found.spec
    if spec.type == "ExternalName" or not is_ours(meta.labels):
        return None, []
    trouble: list[Trouble] = []
    vips: dict[str, None] = {}

    def add(what: str, address: str) -> None:
        try:
            vips[canonical(address)] = None
        except ValueError:
            trouble.append((("spec",), f"the {what} {address!r} is not an IP address"))

    for address in spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else []):
        if address not in ("", "None"):
            add("cluster IP", address)
    if vips and external_ips:
        for address in spec.external_ips or ():
            add("external IP", address)
    if vips and load_balancer_ips and not spec.source_ranges and found.status is not None:
        balancer = found.status.load_balancer
        for ingress in (balancer.ingress if balancer else None) or ():
            if ingress.ip and ingress.ip_mode != "Proxy":
                add("load balancer's address", ingress.ip)
    if trouble:
        return None, trouble
    ports = {
        port.port: Port(port.port, port.name or "", protocol_of(port.app_protocol, port.name))
        for port in spec.ports or ()
        if port.protocol in (None, "TCP")
    }
    service = Service(
        f"{meta.namespace or 'default'}/{meta.name}",
        tuple(vips),
        tuple(ports.values()),
        labels=tuple(sorted((meta.labels or {}).items())),
        origin=origin,
    )
    return service, trouble


def service_of_slice(meta: Metadata) -> str | None:
    """``namespace/name`` of the service whose endpoints a slice holds; None if it names none."""
    name = (meta.labels or {}).get(SERVICE_NAME)
    return f"{meta.namespace or 'default'}/{name}" if name else None


def endpoints_of(found: SliceObject) -> tuple[list[Endpoint], list[Trouble]]:
    """One endpoint for each address and TCP port, and those that cannot be used. A port without a
    number becomes ANY_PORT. Of several addresses the first counts, as for kube-proxy."""
    endpoints: list[Endpoint] = []
    trouble: list[Trouble] = []
    if found.address_type not in ("IPv4", "IPv6"):
        return endpoints, trouble
    ports = [
        (p.port or ANY_PORT, p.name or "")
        for p in found.ports or ()
        if p.protocol is None or p.protocol == "TCP"
    ]
    for i, entry in enumerate(found.endpoints or ()):
        text = entry.addresses[0]
        try:
            address = canonical(text)
        except ValueError:
            trouble.append((("endpoints", i), f"{text!r} is not an IP address"))
            continue
        if not is_proxyable(address):
            message = f"{address} is an address of the node itself: left out"
            trouble.append((("endpoints", i), message))
            continue
        ready, serving, terminating = _conditions(entry.conditions)
        locality = NOWHERE
        if entry.zone or entry.node_name:
            locality = Locality("", entry.zone or "", entry.node_name or "")
        for number, name in ports:
            endpoints.append(
                Endpoint(address, number, name, 1, locality, (), ready, serving, terminating)
            )
    return endpoints, trouble


def _conditions(given: Conditions | None) -> tuple[bool, bool, bool]:
    """Ready, serving, terminating with the API's defaults for those that are not given."""
    if given is None:
        return True, True, False
    ready = given.ready is not False
    serving = ready if given.serving is None else given.serving
    return ready, serving, given.terminating is True


_APP: Final[dict[str, Protocol]] = {
    "grpc": "grpc",
    "grpc-web": "http",
    "h2c": "http2",
    "http": "http",
    "http2": "http2",
    "https": "tls",
    "kubernetes.io/grpc": "grpc",
    "kubernetes.io/h2c": "http2",
    "kubernetes.io/ws": "http",
    "kubernetes.io/wss": "tls",
    "mongo": "tcp",
    "mysql": "tcp",
    "postgresql": "tcp",
    "redis": "tcp",
    "tcp": "tcp",
    "tls": "tls",
    "ws": "http",
    "wss": "tls",
}


def protocol_of(app_protocol: str | None, port_name: str | None) -> Protocol:
    """What a port speaks: appProtocol, else the name up to its first hyphen (``grpc-api``), as
    Istio reads it. Unknown words mean nothing: the protocol is then detected."""
    if app_protocol:
        return _APP.get(app_protocol.lower(), "")
    name = (port_name or "").lower()
    if name.startswith("grpc-web"):
        return "http"
    return _APP.get(name.partition("-")[0], "")
