"""Parts that the Gateway API's objects share: metadata, references, limits.

All structs are frozen and strict: an unknown key is an error, except in ``metadata`` and
``status``, where ``kubectl get -o yaml`` prints more than a route needs. Names of fields, limits
and defaults are those of kubernetes-sigs/gateway-api ``apis/v1``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Self

import msgspec
from msgspec import Meta

__all__ = [
    "GATEWAY_GROUP",
    "OUR_GROUP",
    "X_GROUP",
    "BackendRef",
    "Metadata",
    "ParentRef",
    "PortNumber",
    "Spec",
    "Status",
    "TargetRef",
    "Timestamp",
    "Weight",
]

GATEWAY_GROUP: Final = "gateway.networking.k8s.io"
X_GROUP: Final = "gateway.networking.x-k8s.io"
OUR_GROUP: Final = "nodeproxy.dev"

DNS_NAME: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

PortNumber = Annotated[int, Meta(ge=1, le=65535)]
Weight = Annotated[int, Meta(ge=0, le=1_000_000)]
ObjectName = Annotated[str, Meta(min_length=1, max_length=253)]
Namespace = Annotated[
    str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
]
SectionName = Annotated[str, Meta(min_length=1, max_length=253, pattern=DNS_NAME)]
Group = Annotated[str, Meta(max_length=253)]
Kind = Annotated[str, Meta(min_length=1, max_length=63)]
Hostname = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=253,
        pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    ),
]
PreciseHostname = Annotated[str, Meta(min_length=1, max_length=253, pattern=DNS_NAME)]
HeaderName = Annotated[
    str, Meta(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$")
]
Status = dict[str, Any]
"""What a controller wrote: read over."""


class Timestamp(float):
    """Seconds since 1970 of an RFC 3339 text; for the age of objects."""

    __slots__ = ()

    @classmethod
    def convert(cls, value: object) -> Self:
        """Raises ValueError."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return cls(value)
        try:
            if not isinstance(value, str):
                raise ValueError
            when = datetime.fromisoformat(value)
            if when.tzinfo is None:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{value!r} is not a time; write for example 2026-01-31T12:00:00Z"
            ) from None
        return cls(when.timestamp())


class Spec(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename="camel",
    gc=False,
):
    """Base of all strict parts. They hold no cycles, and a hundred thousand of them should not be
    looked at by the garbage collector time and again."""


class Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The few of an object's metadata that mean something here. Others are read over."""

    name: Annotated[str, Meta(min_length=1, max_length=253, pattern=DNS_NAME)]
    namespace: Namespace = "default"
    creation_timestamp: Timestamp | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None

    @property
    def full_name(self) -> str:
        """``namespace/name``"""
        return f"{self.namespace}/{self.name}"

    @property
    def age(self) -> tuple[float, str]:
        """Sorts the oldest first, then by name. What has no time counts as new."""
        created = self.creation_timestamp
        return (float("inf") if created is None else float(created), self.full_name)


class ParentRef(Spec, frozen=True, kw_only=True, omit_defaults=True):
    """Where a route is attached. A Service needs the explicit ``group: ""``."""

    group: Group = GATEWAY_GROUP
    kind: Kind = "Gateway"
    namespace: Namespace | None = None
    name: ObjectName
    section_name: SectionName | None = None
    port: PortNumber | None = None

    @property
    def is_service(self) -> bool:
        return self.group == "" and self.kind == "Service"

    @property
    def is_gateway(self) -> bool:
        return self.group == GATEWAY_GROUP and self.kind == "Gateway"

    def full_name(self, namespace: str) -> str:
        """``namespace``: the route's own."""
        return f"{self.namespace or namespace}/{self.name}"


class ObjectRef(Spec, frozen=True, kw_only=True, omit_defaults=True):
    """An object of the same namespace (``extensionRef``)."""

    group: Group
    kind: Kind
    name: ObjectName


class BackendObjectRef(Spec, frozen=True, kw_only=True, omit_defaults=True):
    """A backend, without weight (``requestMirror.backendRef``)."""

    group: Group = ""
    kind: Kind = "Service"
    name: ObjectName
    namespace: Namespace | None = None
    port: PortNumber | None = None


class BackendRef(BackendObjectRef, frozen=True, kw_only=True, omit_defaults=True):
    """A backend and its share."""

    weight: Weight = 1


class TargetRef(Spec, frozen=True, kw_only=True, omit_defaults=True):
    """What a policy is for: an object of the policy's own namespace, or a named part of it."""

    group: Group
    kind: Kind
    name: ObjectName
    section_name: SectionName | None = None
