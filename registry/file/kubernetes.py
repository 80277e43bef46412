"""Kubernetes objects as ``kubectl get service,endpointslice -o yaml`` prints them.

Read are v1 Service and discovery.k8s.io/v1 EndpointSlice, alone or in a List; other kinds are
passed over. Fields that are not known are fine: the API grows. What kube-proxy leaves out is left
out here: ExternalName, other proxies' services (``service.kubernetes.io/service-proxy-name``), UDP
and SCTP ports, FQDN slices, and endpoints that must not be proxied to.
"""

from __future__ import annotations

from typing import Any

from registry.file.collect import Collector
from registry.kubernetes.objects import (
    SERVICE_NAME,
    ServiceObject,
    SliceObject,
    declared,
    endpoints_of,
    is_ours,
    protocol_of,
    service_of_slice,
)
from registry.strict import Document, Path, convert

__all__ = ["protocol_of", "read"]


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
    service, trouble = declared(found, collector.source)
    if trouble:
        name = _full_name(found.metadata.namespace, found.metadata.name)
        collector.bad(name, [document.problem(text, (*path, *where)) for where, text in trouble])
    elif service is not None:
        collector.declare(service, document, path)


def _slice(document: Document, path: Path, collector: Collector) -> None:
    found, problems = convert(document, SliceObject, path)
    if found is None:
        collector.bad(_name_of(document.at(path), "EndpointSlice"), problems)
        return
    if not is_ours(found.metadata.labels):
        return
    name = service_of_slice(found.metadata)
    if name is None:
        where = (*path, "metadata", "labels")
        message = f"the label {SERVICE_NAME} is missing: whose endpoints are these?"
        collector.problems.append(document.problem(message, where))
        return
    endpoints, trouble = endpoints_of(found)
    collector.problems += [document.problem(text, (*path, *where)) for where, text in trouble]
    collector.endpoints(name, endpoints)
