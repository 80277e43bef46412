"""What one service looks like in a registry: the other direction of :mod:`registry.layouts`. Pure.

Whatever is written here, the read side has to read as the same endpoint of the same service;
:func:`encode` asks the read side's own decoder, and refuses what would be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from registry.layouts.entry import Entry, Layout, Unusable

__all__ = ["Instance", "Written", "consul_service", "encode"]


class Instance(msgspec.Struct, frozen=True):
    """One service of this node."""

    service: str
    """``namespace/name``"""
    address: str
    port: int
    node: str
    """The node's name."""
    weight: int | None = None
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def plain(self) -> str:
        """The name without its namespace."""
        return self.service.partition("/")[2]

    @property
    def namespace(self) -> str:
        return self.service.partition("/")[0]

    @property
    def dialled(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"

    @property
    def identity(self) -> str:
        """The same after a restart of this node, and nobody else's."""
        return f"{self.node}:{self.address}:{self.port}"


class Written(NamedTuple):
    """A key and its value."""

    parts: tuple[str, ...]
    """The path below the prefix; in ZooKeeper what the pattern's stars stand for, and the node."""
    value: bytes
    sequential: bool = False
    """ZooKeeper adds a number to the node's name."""


_JSON: Final = msgspec.json.Encoder()


def encode(kind: str, layout: Layout, instance: Instance, namespace: str, stars: int) -> Written:
    """``kind``: of the registry. ``namespace``: that of its services whose key names none.
    ``stars``: of the path in ZooKeeper. Raises ValueError for what would not be read as it is
    meant."""
    make = _LAYOUTS.get((kind, layout.kind))
    if make is None:
        known = ", ".join(name for owner, name in _LAYOUTS if owner == kind)
        raise ValueError(f"the layout {layout.kind} cannot be written; {known} can")
    inside = instance.namespace == namespace
    flat = stars == 1 if kind == "zookeeper" else layout.kind != "grpc"
    if flat and not inside:
        raise ValueError(
            f"in this layout every service is in the namespace of the registry, {namespace}:"
            f" {instance.service} cannot be"
        )
    if kind == "zookeeper" and stars > 1:
        # The namespace fills the first stars: one each, or all of it the only one.
        names = instance.namespace.split(".") if stars > 2 else [instance.namespace]
        if len(names) != stars - 1:
            raise ValueError(f"the namespace of {instance.service} does not fit {stars} stars")
        folder = (*names, instance.plain)
    else:
        folder = (instance.plain,) if inside else (instance.namespace, instance.plain)
    written = make(folder, instance)
    if any("/" in part for part in written.parts):
        raise ValueError(f"{'/'.join(written.parts)!r} has a slash within a part")
    _hold(layout, written, instance, namespace)
    return written


def _hold(layout: Layout, written: Written, instance: Instance, namespace: str) -> None:
    """Raises ValueError if the read side would find something else."""
    # As ZooKeeper will call it.
    parts = (*written.parts[:-1], written.parts[-1] + "0000000001" * written.sequential)
    try:
        name = layout.service(parts) or ""
        entry = layout.decode(parts, written.value) or Entry()
    except Unusable as error:
        raise ValueError(f"{instance.service} cannot be written: {error}") from None
    name = name if "/" in name else f"{namespace}/{name}"
    if name != instance.service:
        raise ValueError(f"{instance.service} would be read as {name}")
    (found,) = entry.endpoints
    if found.labels != instance.labels:
        raise ValueError(f"the layout {layout.kind} has no labels")
    if entry.weight != instance.weight:
        raise ValueError(
            f"the layout {layout.kind} has no weights"
            if entry.weight is None
            else f"the layout {layout.kind} cannot have the weight {instance.weight}"
        )
    assert (found.address, found.port) == (instance.address, instance.port), found


def _given(**fields: Any) -> bytes:
    """JSON without the fields that are None."""
    return _JSON.encode({name: value for name, value in fields.items() if value is not None})


def _skydns(folder: tuple[str, ...], one: Instance) -> Written:
    # A domain is read from right to left; the last part is a name of its own below it.
    identity = "".join(c if c.isalnum() else "-" for c in f"{one.address}-{one.port}")
    domain = tuple(reversed(one.plain.split(".")))
    value = _given(host=one.address, port=one.port, weight=one.weight)
    return Written((*domain, identity.strip("-")), value)


def _grpc(folder: tuple[str, ...], one: Instance) -> Written:
    value = _given(Op=0, Addr=one.dialled, Metadata=dict(one.labels) or None)
    return Written((*folder, one.dialled), value)


def _registrator(folder: tuple[str, ...], one: Instance) -> Written:
    return Written((*folder, f"{one.node}:{one.plain}:{one.port}"), one.dialled.encode())


def _nerve(folder: tuple[str, ...], one: Instance) -> Written:
    value = _given(
        host=one.address,
        port=one.port,
        name=one.node,
        weight=one.weight,
        labels=dict(one.labels) or None,
    )
    return Written((*folder, f"{one.node}_{one.port}_"), value, sequential=True)


def _serverset(folder: tuple[str, ...], one: Instance) -> Written:
    value = _given(
        serviceEndpoint={"host": one.address, "port": one.port},
        additionalEndpoints={},
        status="ALIVE",
    )
    return Written((*folder, "member_"), value, sequential=True)


def _curator(folder: tuple[str, ...], one: Instance) -> Written:
    payload = None
    if one.labels:
        # Curator itself has no labels; this is how Spring Cloud writes them.
        payload = {
            "@class": "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance",
            "id": one.identity,
            "name": one.plain,
            "metadata": dict(one.labels),
        }
    value = _JSON.encode(
        {
            "name": one.plain,
            "id": one.identity,
            "address": one.address,
            "port": one.port,
            "sslPort": None,
            "payload": payload,
            "registrationTimeUTC": 0,
            "serviceType": "DYNAMIC",
            "uriSpec": None,
            "enabled": True,
        }
    )
    return Written((*folder, one.identity), value)


def _zk_registrator(folder: tuple[str, ...], one: Instance) -> Written:
    labels = dict(one.labels)
    tags = _tags(labels)
    value = _JSON.encode(
        {
            "Name": one.plain,
            "IP": one.address,
            "PublicPort": one.port,
            "PrivatePort": one.port,
            "ContainerID": "",
            "Tags": tags,
            "Attrs": labels,
        }
    )
    return Written((*folder, one.dialled), value)


def _tags(labels: dict[str, str]) -> list[str]:
    """Takes out the labels ``tag.X: "true"``, which is how a tag is read."""
    found = [k for k, v in labels.items() if k.startswith("tag.") and k != "tag." and v == "true"]
    for name in found:
        del labels[name]
    return [name.removeprefix("tag.") for name in found]


_LAYOUTS: Final[dict[tuple[str, str], Callable[[tuple[str, ...], Instance], Written]]] = {
    ("etcd", "skydns"): _skydns,
    ("etcd", "grpc"): _grpc,
    ("etcd", "registrator"): _registrator,
    ("zookeeper", "nerve"): _nerve,
    ("zookeeper", "serverset"): _serverset,
    ("zookeeper", "curator"): _curator,
    ("zookeeper", "registrator"): _zk_registrator,
}


def consul_service(instance: Instance, namespace: str, ttl: float) -> Written:
    """The body of ``/v1/agent/service/register`` and the service's ID. The address may be empty:
    that of Consul's node. Raises ValueError."""
    if instance.namespace != namespace:
        raise ValueError(
            f"in Consul every service is in the namespace of the registry, {namespace}:"
            f" {instance.service} cannot be"
        )
    labels = dict(instance.labels)
    identity = f"{instance.plain}:{instance.identity}"
    body: dict[str, Any] = {
        "ID": identity,
        "Name": instance.plain,
        "Port": instance.port,
        "Tags": _tags(labels),
        "Meta": labels,
        "Check": {
            "CheckID": f"service:{identity}",
            "Name": "nodeproxy",
            "TTL": f"{round(ttl * 1000)}ms",
            "Status": "passing",
            # What a node that is gone for good has left behind; Consul takes no less than 1m.
            "DeregisterCriticalServiceAfter": f"{max(60, round(ttl * 10))}s",
        },
    }
    if instance.address:
        body["Address"] = instance.address
    if instance.weight is not None:
        if not instance.weight:
            raise ValueError("Consul has no weight 0")
        body["Weights"] = {"Passing": instance.weight, "Warning": 1}
    return Written((identity,), _JSON.encode(body))
