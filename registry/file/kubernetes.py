"""Kubernetes objects as ``kubectl get service,endpointslice -o yaml`` prints them.

Read are v1 Service and discovery.k8s.io/v1 EndpointSlice, alone or in a List; other kinds are
passed over. Fields that are not known are fine: the API grows. What kube-proxy leaves out is left
out here: ExternalName, other proxies' services (``service.kubernetes.io/service-proxy-name``), UDP
and SCTP ports, FQDN slices, and endpoints that must not be proxied to.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from registry.address import canonical, is_proxyable
from registry.base import Problem
from registry.file.collect import Collector
from registry.file.fragment import ANY_PORT
from registry.model import Endpoint, Locality, Port, Protocol, Service
from registry.strict import Document, Path, convert

__all__ = ["protocol_of", "read"]

SERVICE_NAME: Final = "kubernetes.io/service-name"
PROXY_NAME: Final = "service.kubernetes.io/service-proxy-name"
OUR_PROXY_NAME: Final = "nodeproxy"

Number = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Metadata(msgspec.Struct, frozen=True):
    name: str
    namespace: str | None = None
    labels: dict[str, str] | None = None


class ServicePort(msgspec.Struct, frozen=True, rename="camel"):
    port: Number
    name: str | None = None
    protocol: str | None = None
    app_protocol: str | None = None


class ServiceSpec(
    msgspec.Struct, frozen=True, rename={"cluster_ip": "clusterIP", "cluster_ips": "clusterIPs"}
):
    type: str | None = None
    cluster_ip: str | None = None
    cluster_ips: list[str] | None = None
    ports: list[ServicePort] | None = None


class ServiceObject(msgspec.Struct, frozen=True):
    metadata: Metadata
    spec: ServiceSpec


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


def read(document: Document, collector: Collector) -> None:
    _object(document, (), collector, None, None)


def _object(
    document: Document,
    path: Path,
    collector: Collector,
    list_version: str | None,
    list_kind: str | None,
) -> None:
    """``list_version`` and ``list_kind``: what an item of a ServiceList is by default."""
    value = document.at(path)
    if not isinstance(value, dict):
        collector.bad(None, [document.problem("expected a Kubernetes object", path)])
        return
    version, kind = value.get("apiVersion", list_version), value.get("kind", list_kind)
    if isinstance(kind, str) and kind.endswith("List"):
        items = value.get("items") or []
        if not isinstance(items, list):
            collector.bad(None, [document.problem("expected a list", (*path, "items"))])
            return
        for i in range(len(items)):
            _object(document, (*path, "items", i), collector, version, kind[:-4] or None)
    elif (version, kind) == ("v1", "Service"):
        _service(document, path, collector)
    elif (version, kind) == ("discovery.k8s.io/v1", "EndpointSlice"):
        _slice(document, path, collector)
    elif kind in ("Service", "EndpointSlice", "Endpoints"):
        message = (
            f"{version} {kind} is not read: v1 Service and discovery.k8s.io/v1 EndpointSlice are"
        )
        collector.problems.append(document.problem(message, path))


def _full_name(namespace: str | None, name: str) -> str:
    return f"{namespace or 'default'}/{name}"


def _name_of(value: Any, kind: str) -> str | None:
    """The service that a wrong object is about, if that much can be read."""
    meta = value.get("metadata")
    if not isinstance(meta, dict):
        return None
    name, namespace = meta.get("name"), meta.get("namespace")
    if kind == "EndpointSlice":
        labels = meta.get("labels")
        name = labels.get(SERVICE_NAME) if isinstance(labels, dict) else None
    if not isinstance(name, str) or not isinstance(namespace, str | None):
        return None
    return _full_name(namespace, name)


def _service(document: Document, path: Path, collector: Collector) -> None:
    found, problems = convert(document, ServiceObject, path)
    if found is None:
        collector.bad(_name_of(document.at(path), "Service"), problems)
        return
    meta, spec = found.metadata, found.spec
    labels = meta.labels or {}
    if spec.type == "ExternalName" or labels.get(PROXY_NAME, OUR_PROXY_NAME) != OUR_PROXY_NAME:
        return
    addresses = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    vips: list[str] = []
    for address in addresses:
        if address in ("", "None"):
            continue
        try:
            vips.append(canonical(address))
        except ValueError:
            message = f"the cluster IP {address!r} is not an IP address"
            problems.append(document.problem(message, (*path, "spec")))
    name = _full_name(meta.namespace, meta.name)
    if problems:
        collector.bad(name, problems)
        return
    ports = {
        port.port: Port(port.port, port.name or "", protocol_of(port.app_protocol, port.name))
        for port in spec.ports or ()
        if port.protocol in (None, "TCP")
    }
    collector.declare(
        Service(
            name,
            tuple(dict.fromkeys(vips)),
            tuple(ports.values()),
            labels=tuple(sorted(labels.items())),
            origin=collector.source,
        ),
        document,
        path,
    )


def _slice(document: Document, path: Path, collector: Collector) -> None:
    found, problems = convert(document, SliceObject, path)
    if found is None:
        collector.bad(_name_of(document.at(path), "EndpointSlice"), problems)
        return
    labels = found.metadata.labels or {}
    if labels.get(PROXY_NAME, OUR_PROXY_NAME) != OUR_PROXY_NAME:
        return
    if SERVICE_NAME not in labels:
        where = (*path, "metadata", "labels")
        message = f"the label {SERVICE_NAME} is missing: whose endpoints are these?"
        collector.problems.append(document.problem(message, where))
        return
    if found.address_type not in ("IPv4", "IPv6"):
        return
    name = _full_name(found.metadata.namespace, labels[SERVICE_NAME])
    ports = [p for p in found.ports or () if p.protocol in (None, "TCP")]
    endpoints: list[Endpoint] = []
    for i, entry in enumerate(found.endpoints or ()):
        address, problem = _address(entry.addresses[0], document, (*path, "endpoints", i))
        if problem:
            collector.problems.append(problem)
            continue
        ready, serving, terminating = _conditions(entry.conditions or Conditions())
        endpoints.extend(
            Endpoint(
                address,
                port.port or ANY_PORT,
                port.name or "",
                locality=Locality("", entry.zone or "", entry.node_name or ""),
                ready=ready,
                serving=serving,
                terminating=terminating,
            )
            for port in ports
        )
    collector.endpoints(name, endpoints)


def _address(text: str, document: Document, path: Path) -> tuple[str, Problem | None]:
    try:
        address = canonical(text)
    except ValueError:
        return "", document.problem(f"{text!r} is not an IP address", path)
    if not is_proxyable(address):
        return "", document.problem(f"{address} is an address of the node itself: left out", path)
    return address, None


def _conditions(given: Conditions) -> tuple[bool, bool, bool]:
    """Ready, serving, terminating with the API's defaults for those that are not given."""
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
