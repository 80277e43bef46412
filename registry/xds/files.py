"""xDS in files: the DiscoveryResponse that Envoy reads by ``path_config_source``.

Assignments (EDS), and clusters (CDS) that have an assignment of their own. A file does not age:
``endpoint_stale_after`` means nothing here.
"""

from __future__ import annotations

import msgspec

from registry.base import Problem
from registry.file.collect import Collector
from registry.file.fragment import Content
from registry.file.wire import Reading, as_reading
from registry.model import Port, Protocol, Service
from registry.naming import dressed
from registry.strict import Document, DocumentError, near, parse
from registry.xds.resources import Bad, Cluster, decode, service_name

__all__ = ["read", "reading", "with_protocol"]

_KEYS = ("version_info", "versionInfo", "resources", "type_url", "typeUrl", "nonce", "canary")


def reading(text: str, source: str) -> Reading:
    """The reader for :mod:`registry.file.loader`."""
    return as_reading(read(text, source))


def read(text: str, source: str) -> Content:
    """Every resource on its own: a wrong one harms no other. Raises DocumentError."""
    collector = Collector(source)
    documents = parse(text, source)
    for document in documents:
        _document(document, collector)
    if not documents:
        collector.problems.append(
            Problem("the file is empty: write `resources: []` if there are none", source)
        )
    return collector.content()


def with_protocol(service: Service, protocol: Protocol) -> Service:
    """``service`` with its undeclared ports declared to speak ``protocol``."""
    if not protocol:
        return service
    ports = tuple(
        port if port.protocol else Port(port.port, port.name, protocol) for port in service.ports
    )
    return msgspec.structs.replace(service, ports=ports)


def _document(document: Document, collector: Collector) -> None:
    value = document.value
    if not isinstance(value, dict) or "resources" not in value:
        wrong = [k for k in value if k not in _KEYS] if isinstance(value, dict) else []
        raise DocumentError(
            [document.problem(f"unknown key {k!r}{near(k, _KEYS)}", (k,)) for k in wrong]
            or [document.problem("expected a DiscoveryResponse: `resources:` and a list")]
        )
    resources = value["resources"]
    if not isinstance(resources, list):
        raise DocumentError([document.problem("expected a list of resources", ("resources",))])
    for i, resource in enumerate(resources):
        path = ("resources", i)
        try:
            found = decode(resource)
            assignment = found.assignment if isinstance(found, Cluster) else found
            if assignment is None:
                continue
            name = service_name(found.name, "default")
        except Bad as error:
            collector.bad(_named(error.name), [document.problem(str(error), path)])
            continue
        service = dressed(name, assignment.endpoints, origin=collector.source)
        if isinstance(found, Cluster):
            service = with_protocol(service, found.protocol)
        collector.declare(service, document, path)
        # The endpoints that can be read are used; those that cannot are told.
        collector.problems.extend(document.problem(text, path) for text in assignment.problems)


def _named(name: str) -> str | None:
    try:
        return service_name(name, "default")
    except Bad:
        return None
