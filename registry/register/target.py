"""Where a service is announced: one of the configured registries, or one of its own.

The options are those of the back end that reads it, so servers, credentials, prefix and namespace
are written once, and what one node announces another one reads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from registry import plugins
from registry.base import Context, Problem
from registry.consul.options import Options as ConsulOptions
from registry.etcd.options import LAYOUTS as ETCD_LAYOUTS
from registry.etcd.options import Options as EtcdOptions
from registry.layouts.entry import Layout
from registry.plugins import Spec, SpecError, Supervision
from registry.register.encode import Instance, Written, consul_service, encode
from registry.register.link import Link
from registry.register.options import Entry, Registration
from registry.strict import near
from registry.zookeeper.options import LAYOUTS as ZOOKEEPER_LAYOUTS
from registry.zookeeper.options import Options as ZookeeperOptions

__all__ = ["Target", "resolve"]

KINDS: Final[dict[str, type[Any]]] = {
    "etcd": EtcdOptions,
    "zookeeper": ZookeeperOptions,
    "consul": ConsulOptions,
}
ANYWHERE: Final = "192.0.2.1"
"""Stands for an address that is not known before the registry is reached (RFC 5737)."""


class Target:
    """A registry as it is written to. Made by :func:`resolve`."""

    def __init__(self, spec: Spec, backend: Any, options: Any, ttl: float, mark: int) -> None:
        self.spec = spec
        self.name = spec.name
        self.kind = spec.kind
        self.ttl = ttl
        self._backend = backend
        self._options = options
        self._mark = mark
        self._layout: Layout | None = None
        self._prefix = ""
        self._stars = 0
        if self.kind == "etcd":
            self._layout = ETCD_LAYOUTS[options.layout]
            self._prefix = options.prefix or self._layout.prefix
        elif self.kind == "zookeeper":
            self._layout = ZOOKEEPER_LAYOUTS[options.layout]
            self._prefix = options.path or self._layout.prefix
            self._stars = self._prefix.split("/").count("*") or 1

    @property
    def identity(self) -> object:
        """Equal for targets that can share a link."""
        spec = self.spec
        return (spec.name, spec.kind, msgspec.json.encode(spec.options), spec.base_dir, self.ttl)

    @property
    def layout(self) -> str:
        return "agent" if self._layout is None else self._layout.kind

    def written(self, instance: Instance) -> Written:
        """Raises ValueError for a service that cannot be written as it is configured."""
        if self._layout is None:
            return consul_service(instance, self._options.namespace, self.ttl)
        return encode(self.kind, self._layout, instance, self._options.namespace, self._stars)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Link]:
        """Raises RegistryError."""
        # Nobody pays for the clients of the other kinds; kazoo is a large one.
        if self.kind == "etcd":
            from registry.register import etcd

            async with etcd.connect(
                self._backend, self._options, self._prefix.rstrip("/"), self.ttl, self._mark
            ) as link:
                yield link
        elif self.kind == "zookeeper":
            from registry.register import zookeeper

            async with zookeeper.connect(
                self._backend, self._options, self._prefix, self.ttl, self._mark
            ) as session:
                yield session
        else:
            from registry.register import consul

            context = Context(self.name, base_dir=self.spec.base_dir, mark=self._mark)
            async with consul.connect(self._options, context, self.ttl) as agent:
                yield agent


def resolve(entry: Entry, registries: Mapping[str, Spec], mark: int = 0) -> Target:
    """``registries``: the configured ones, by name. Raises SpecError with every problem."""
    what = entry.what
    spec = _spec(entry, registries)
    if spec.kind not in KINDS:
        known = ", ".join(KINDS)
        raise _wrong(entry, f"nothing can be announced to a registry of kind {spec.kind}: {known}")
    if what.layout:
        if spec.kind == "consul":
            raise _wrong(entry, "Consul's agent has one layout only: leave `layout` out", "layout")
        options = {k: v for k, v in spec.options.items() if k != "layout"}
        if _layout(spec) != what.layout:
            # The place goes with the layout it was meant for, unless it is given with this one.
            for place in ("prefix", "path"):
                if isinstance(what.registry, str):
                    options.pop(place, None)
        spec = msgspec.structs.replace(spec, options=options | {"layout": what.layout})
    _, backend = plugins.make(spec, Context(spec.name, base_dir=spec.base_dir, mark=mark))
    ours = set(Supervision.__struct_fields__)
    theirs = {k: v for k, v in spec.options.items() if k not in ours}
    options = plugins.typed(spec, KINDS[spec.kind], theirs)
    if spec.kind == "consul" and options.layout != "catalog":
        message = f"the layout {options.layout} cannot be written: only the catalog can"
        raise _wrong(entry, message)
    target = Target(spec, backend, options, float(what.ttl), mark)
    try:
        target.written(instance_of(what, "node", what.address or ANYWHERE))
    except ValueError as error:
        raise _wrong(entry, str(error)) from None
    return target


def instance_of(what: Registration, node: str, address: str) -> Instance:
    return Instance(
        what.name, address, what.port, node, what.weight, tuple(sorted(what.labels.items()))
    )


def _spec(entry: Entry, registries: Mapping[str, Spec]) -> Spec:
    where = entry.what.registry
    if isinstance(where, str):
        if where in registries:
            return registries[where]
        raise _wrong(entry, f"no registry is called {where!r}{near(where, registries)}")
    options = dict(where)
    kind, name = options.pop("kind", ""), options.pop("name", "")
    if not isinstance(kind, str) or not kind:
        raise _wrong(entry, "'kind' is missing: which registry is it? For example kind: etcd")
    return Spec(
        name=str(name or f"{kind} of {entry.field}"),
        kind=kind,
        options=options,
        base_dir=entry.base_dir,
        origin=entry.origin,
    )


def _layout(spec: Spec) -> Any:
    return spec.options.get("layout")


def _wrong(entry: Entry, message: str, key: str = "registry") -> SpecError:
    source, _, line = entry.origin.rpartition(":")
    field = f"{entry.field}.{key}" if entry.field else key
    return SpecError([Problem(message, source, int(line) if line.isdecimal() else 0, field)])
