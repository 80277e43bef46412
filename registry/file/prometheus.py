"""Prometheus file_sd: a list of ``{targets: [host:port], labels: {...}}``.

The service is named by the label ``service``, else ``job``, else by the file. It has no virtual
address; its ports are those of its targets, and every target serves each of them (targets of
one job may listen on different ports).
Format: https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config
"""

from __future__ import annotations

import msgspec

from registry.address import split_host_port
from registry.base import Problem
from registry.file.collect import Collector
from registry.model import Endpoint, Locality, Port, Service, qualified_name
from registry.strict import Document, convert

__all__ = ["read"]

_NAMING = ("service", "job", "namespace")


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    targets: list[str]
    labels: dict[str, str] = {}


def read(document: Document, collector: Collector, stem: str) -> None:
    endpoints: dict[str, list[Endpoint]] = {}
    for i in range(len(document.value)):
        group, problems = convert(document, Group, (i,))
        if group is None:
            collector.bad(None, problems)
            continue
        name = group.labels.get("service") or group.labels.get("job") or stem
        name = qualified_name(name, group.labels.get("namespace") or "default")
        labels = tuple(
            sorted(
                (key, value)
                for key, value in group.labels.items()
                if key not in _NAMING and not key.startswith("__")
            )
        )
        locality = Locality(group.labels.get("region", ""), group.labels.get("zone", ""))
        found = endpoints.setdefault(name, [])
        wrong: list[Problem] = []
        for j, target in enumerate(group.targets):
            try:
                address, port = split_host_port(target)
            except ValueError as error:
                wrong.append(document.problem(str(error), (i, "targets", j)))
            else:
                found.append(Endpoint(address, port, locality=locality, labels=labels))
        if wrong:
            collector.bad(name, wrong)
    for name, members in endpoints.items():
        ports = tuple(Port(number) for number in sorted({e.port for e in members}))
        service = Service(name, ports=ports, endpoints=tuple(members), origin=collector.source)
        collector.declare(service, document, ())
