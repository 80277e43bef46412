"""The short form: ``services:`` and under it a list, as in docs/registries.md."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from registry.address import canonical, split_host_port
from registry.base import Problem
from registry.file.collect import Collector
from registry.model import Endpoint, Locality, Port, Protocol, Service, qualified_name
from registry.strict import Document, Path, convert, near

__all__ = ["read"]

PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_NAME = re.compile(r"(?:{0}/)?{0}".format("[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?"))


class PortEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    port: PortNumber
    name: str = ""
    protocol: Protocol = ""


class EndpointEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: str
    port: PortNumber
    port_name: str = ""
    weight: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 1
    region: str = ""
    zone: str = ""
    node: str = ""
    labels: dict[str, str] = {}
    ready: bool = True
    serving: bool | None = None
    terminating: bool = False


class ServiceEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    vips: list[str] = []
    ports: list[PortEntry] = []
    endpoints: list[EndpointEntry | str] = []
    labels: dict[str, str] = {}


def read(document: Document, collector: Collector) -> None:
    """Every entry on its own: a wrong one harms no other."""
    for key in document.value:
        if key != "services":
            collector.bad(
                None, [document.problem(f"unknown key {key!r}{near(key, ['services'])}", (key,))]
            )
    entries = document.value["services"]
    for path, line, first in document.duplicates:
        if len(path) == 1:
            message = f"the key stands twice (first on line {first})"
            collector.bad(None, [document.problem(message, path, line=line)])
    if not isinstance(entries, list):
        collector.bad(None, [document.problem("expected a list of services", ("services",))])
        return
    for i in range(len(entries)):
        path = ("services", i)
        entry, problems = convert(document, ServiceEntry, path)
        if entry is None:
            collector.bad(_name_of(entries[i]), problems)
            continue
        service, problems = _service(entry, document, path, collector.source)
        if problems:
            collector.bad(service.name, problems)
        else:
            collector.declare(service, document, path)


def _name_of(entry: Any) -> str | None:
    name = entry.get("name") if isinstance(entry, dict) else None
    return qualified_name(name) if isinstance(name, str) else None


def _service(
    entry: ServiceEntry, document: Document, path: Path, origin: str
) -> tuple[Service, list[Problem]]:
    problems: list[Problem] = []

    def say(message: str, *where: str | int) -> None:
        problems.append(document.problem(message, (*path, *where)))

    if not _NAME.fullmatch(entry.name):
        say(f"{entry.name!r} is not a service name: write name or namespace/name", "name")
    vips: list[str] = []
    for i, vip in enumerate(entry.vips):
        try:
            vips.append(canonical(vip))
        except ValueError:
            say(f"{vip!r} is not an IP address", "vips", i)
    ports: dict[int, Port] = {}
    names = {port.name for port in entry.ports}
    for i, port in enumerate(entry.ports):
        if port.port in ports:
            say(f"the port {port.port} stands twice", "ports", i)
        ports[port.port] = Port(port.port, port.name, port.protocol)
    if len(names) < len(entry.ports) and len(entry.ports) == len(ports):
        say("ports need different names where there is more than one", "ports")
    endpoints: list[Endpoint] = []
    for i, item in enumerate(entry.endpoints):
        try:
            endpoint = _endpoint(item)
        except ValueError as error:
            say(str(error), "endpoints", i)
            continue
        if endpoint.port_name and endpoint.port_name not in names:
            where = ("endpoints", i, "port_name")
            say(
                f"no port is called {endpoint.port_name!r}{near(endpoint.port_name, names - {''})}",
                *where,
            )
        endpoints.append(endpoint)
    service = Service(
        qualified_name(entry.name),
        tuple(dict.fromkeys(vips)),
        tuple(ports.values()),
        tuple(endpoints),
        tuple(sorted(entry.labels.items())),
        origin,
    )
    return service, problems


def _endpoint(item: EndpointEntry | str) -> Endpoint:
    """Raises ValueError."""
    if isinstance(item, str):
        address, port = split_host_port(item)
        return Endpoint(address, port)
    try:
        address = canonical(item.address)
    except ValueError:
        raise ValueError(f"{item.address!r} is not an IP address") from None
    return Endpoint(
        address,
        item.port,
        item.port_name,
        item.weight,
        Locality(item.region, item.zone, item.node),
        tuple(sorted(item.labels.items())),
        item.ready,
        item.ready if item.serving is None else item.serving,
        item.terminating,
    )
