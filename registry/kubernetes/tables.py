"""What lists and watches have told, and the services that this comes to. Pure; kept between runs.

A :class:`Table` mirrors one collection of the API server (Services, or EndpointSlices, of all
namespaces or of one). It hands what changed to the :class:`View`, which marks the services
concerned, so that an event costs as much as its own service, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

import msgspec

from registry.base import Problem
from registry.file.fragment import Fragment, join
from registry.kubernetes import wire
from registry.kubernetes.objects import (
    SERVICE_NAME,
    ServiceObject,
    SliceObject,
    declared,
    endpoints_of,
    service_of_slice,
)
from registry.model import Endpoint, Service
from registry.yamltext import path_text

__all__ = ["Decode", "Entry", "ServiceDecoder", "Table", "View", "decode_slice"]

MAX_UNNAMED: Final = 20
"""Problems of objects without a name that are kept; they cannot be told to be gone."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What one object means."""

    key: str
    """``namespace/name`` of the object."""
    version: str
    service: str | None
    """``namespace/name`` of the service concerned."""
    declared: Service | None = None
    """Of a Service: itself without endpoints; None: it is none of ours."""
    local: bool = False
    """Of a Service: only endpoints on this node are for this node (internalTrafficPolicy)."""
    endpoints: tuple[Endpoint, ...] = ()
    """Of an EndpointSlice."""
    problems: tuple[Problem, ...] = ()
    bad: bool = False
    """The object cannot be read; what was known of it before stays."""

    def same(self, other: Entry) -> bool:
        """Whether both mean the same to the view."""
        return (
            self.service == other.service
            and self.declared == other.declared
            and self.local == other.local
            and self.endpoints == other.endpoints
        )


class Decode(Protocol):
    """Makes an Entry of an object as JSON. Raises msgspec.MsgspecError."""

    def __call__(self, raw: bytes | msgspec.Raw) -> Entry: ...


_service: Final = msgspec.json.Decoder(ServiceObject).decode
_slice: Final = msgspec.json.Decoder(SliceObject).decode


class ServiceDecoder:
    """Decodes Services."""

    def __init__(self, *, external_ips: bool = False, load_balancer_ips: bool = False) -> None:
        self._external_ips = external_ips
        self._load_balancer_ips = load_balancer_ips

    def __call__(self, raw: bytes | msgspec.Raw) -> Entry:
        found = _service(raw)
        meta = found.metadata
        key = f"{meta.namespace}/{meta.name}"
        source = f"Service {key}"
        service, trouble = declared(
            found,
            source,
            external_ips=self._external_ips,
            load_balancer_ips=self._load_balancer_ips,
        )
        # Headless: there is no address that this node could catch.
        usable = service if service is not None and service.vips else None
        return Entry(
            key,
            meta.resource_version or "",
            key,
            usable,
            found.spec.internal_traffic_policy == "Local",
            problems=tuple(Problem(text, source, 0, path_text(path)) for path, text in trouble),
            bad=bool(trouble),
        )


def decode_slice(raw: bytes | msgspec.Raw) -> Entry:
    """Decodes EndpointSlices."""
    found = _slice(raw)
    meta = found.metadata
    key = f"{meta.namespace}/{meta.name}"
    source = f"EndpointSlice {key}"
    service = service_of_slice(meta)
    version = meta.resource_version or ""
    if service is None:
        message = f"the label {SERVICE_NAME} is missing: whose endpoints are these?"
        return Entry(key, version, None, problems=(Problem(message, source),))
    endpoints, trouble = endpoints_of(found)
    problems = tuple(Problem(text, source, 0, path_text(path)) for path, text in trouble)
    return Entry(key, version, service, endpoints=tuple(endpoints), problems=problems)


class Table:
    """One collection. ``on_change(key, old, new)`` is called for each object whose meaning is
    not what it was."""

    def __init__(
        self,
        kind: str,
        decode: Decode,
        on_change: Callable[[str, Entry | None, Entry | None], None],
    ) -> None:
        self.kind = kind
        self.version = ""
        """The resourceVersion to watch from; empty: list first."""
        self.troubled: dict[str, tuple[Problem, ...]] = {}
        self.unnamed: list[Problem] = []
        self.entries: dict[str, Entry] = {}
        self._decode = decode
        self._on_change = on_change

    def problems(self) -> Iterator[Problem]:
        for _, found in sorted(self.troubled.items()):
            yield from found
        yield from self.unnamed

    def read(self, raw: bytes | msgspec.Raw) -> Entry | None:
        """What ``raw`` means; of an object that cannot be read at least which one it is. None
        (and a problem) where not even that can be told."""
        try:
            return self._decode(raw)
        except msgspec.MsgspecError as error:
            reason = str(error)
        try:
            meta = wire.named(raw).metadata
        except msgspec.MsgspecError:
            meta = None
        if meta is None or not meta.name:
            if len(self.unnamed) < MAX_UNNAMED:
                self.unnamed.append(Problem(reason, self.kind))
            return None
        key = f"{meta.namespace}/{meta.name}"
        service: str | None = key
        if self.kind == "EndpointSlice":
            name = (meta.labels or {}).get(SERVICE_NAME)
            service = f"{meta.namespace}/{name}" if name else None
        problem = Problem(reason, f"{self.kind} {key}")
        return Entry(key, meta.version, service, problems=(problem,), bad=True)

    def event(self, type_: str, raw: msgspec.Raw) -> None:
        """Apply one event of a watch. Raises ValueError or MsgspecError for one that no API
        server sends."""
        if type_ == "BOOKMARK":
            self._advance(wire.named(raw).metadata.version)
            return
        if type_ == "DELETED":
            meta = wire.named(raw).metadata
            key = f"{meta.namespace}/{meta.name}"
            known = self.entries.get(key)
            if known is not None and not wire.is_older(meta.version, known.version):
                self._drop(key)
            self._advance(meta.version)
            return
        if type_ not in ("ADDED", "MODIFIED"):
            raise ValueError(f"an event of the unknown type {type_[:40]!r}")
        entry = self.read(raw)
        if entry is None:
            return
        known = self.entries.get(entry.key)
        # What was told before the list was made, or twice, is no news.
        if known is None or not wire.is_older(entry.version, known.version):
            self._put(entry)
        self._advance(entry.version)

    def replace(self, fresh: Mapping[str, Entry], version: str) -> Iterator[int]:
        """``fresh`` is all that there is, as of ``version``. A generator: the units of work done
        since the last step; the table is whole when it has ended."""
        for key in [k for k in self.entries if k not in fresh]:
            self._drop(key)
            yield 1
        for entry in fresh.values():
            self._put(entry)
            yield 1 + len(entry.endpoints) // 8
        self.version = version

    def _advance(self, version: str) -> None:
        if version and not wire.is_older(version, self.version):
            self.version = version

    def _put(self, entry: Entry) -> None:
        key = entry.key
        known = self.entries.get(key)
        if entry.problems:
            self.troubled[key] = entry.problems
        else:
            self.troubled.pop(key, None)
        if entry.bad and known is not None and not known.bad:
            # What it said when it could be read stays.
            entry = msgspec.structs.replace(known, version=entry.version)
        self.entries[key] = entry
        if known is None or not known.same(entry):
            self._on_change(key, known, entry)

    def _drop(self, key: str) -> None:
        self.troubled.pop(key, None)
        self._on_change(key, self.entries.pop(key), None)


class View:
    """The services that the tables come to.

    A service is not there before its first EndpointSlice: the two come by different watches, and
    the slice of a new service a little after it. Until then the kernel's answer is as good as ours.
    """

    def __init__(self) -> None:
        self.node = ""
        """This node's name; empty: not known, and services that need it are left out."""
        self.dirty: dict[str, None] = {}
        """Services that may have changed."""
        self.left_out: dict[str, None] = {}
        """Services that need the node's name, which is not known."""
        self.unreadable: dict[str, None] = {}
        """Services that are there, but of which nothing could be read yet."""
        self._declared: dict[str, Entry] = {}
        self._slices: dict[str, dict[str, tuple[Endpoint, ...]]] = {}
        self._seen: set[str] = set()
        """Services that have, or had, a slice."""

    def __iter__(self) -> Iterator[str]:
        """The names of all services that there may be."""
        return iter(self._declared)

    def service(self, key: str, old: Entry | None, new: Entry | None) -> None:
        """A Service changed."""
        if new is None:
            self._declared.pop(key, None)
            self._seen.discard(key)
        else:
            self._declared[key] = new
        if new is not None and new.bad:
            self.unreadable[key] = None
        else:
            self.unreadable.pop(key, None)
        self.dirty[key] = None

    def slice(self, key: str, old: Entry | None, new: Entry | None) -> None:
        """An EndpointSlice changed."""
        if (
            old is not None
            and old.service is not None
            and (new is None or new.service != old.service)
        ):
            slices = self._slices[old.service]
            del slices[key]
            if not slices:
                del self._slices[old.service]
            self.dirty[old.service] = None
        if new is not None and new.service is not None:
            self._slices.setdefault(new.service, {})[key] = new.endpoints
            self.dirty[new.service] = None

    def build(self, name: str) -> Service | None:
        """The service as it is now; None if there is none for this node to serve."""
        entry = self._declared.get(name)
        self.left_out.pop(name, None)
        if entry is None or entry.declared is None:
            return None
        slices = self._slices.get(name, {})
        if name not in self._seen:
            if not slices:
                return None
            self._seen.add(name)
        if entry.local and not self.node:
            self.left_out[name] = None
            return None
        fragments = [Fragment(entry.declared)]
        for _, endpoints in sorted(slices.items()):
            if entry.local:
                endpoints = tuple(e for e in endpoints if e.locality.node == self.node)
            fragments.append(Fragment(Service(name, endpoints=endpoints), declared=False))
        return join(fragments)
