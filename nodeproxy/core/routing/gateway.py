"""Gateway and ReferenceGrant.

A Gateway is served by the daemon's own listeners (``gateway: shop/edge`` in nodeproxy.yaml).
Certificates come from files: ``certificateRefs: [{group: nodeproxy.dev, kind: File, name: PATH}]``
where PATH, relative to the file that says so, is a PEM file with chain and key, or a folder that
holds ``tls.crt`` and ``tls.key``, as a mounted Secret does. The group and kind of a certificate's
reference are the place that the API leaves to implementations.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from nodeproxy.core.routing.schema import (
    Group,
    Hostname,
    Kind,
    Metadata,
    Namespace,
    ObjectName,
    PortNumber,
    SectionName,
    Spec,
    Status,
)

__all__ = ["AllowedRoutes", "CertificateRef", "Gateway", "Listener", "ReferenceGrant", "Selector"]


class CertificateRef(Spec, frozen=True, kw_only=True, omit_defaults=True):
    group: Group = ""
    kind: Kind = "Secret"
    name: Annotated[str, Meta(min_length=1, max_length=4096)]
    namespace: Namespace | None = None


class ListenerTls(Spec, frozen=True, kw_only=True, omit_defaults=True):
    mode: Literal["Terminate", "Passthrough"] = "Terminate"
    certificate_refs: Annotated[tuple[CertificateRef, ...], Meta(max_length=64)] = ()
    options: dict[str, str] = msgspec.field(default_factory=dict)


class Expression(Spec, frozen=True, kw_only=True, omit_defaults=True):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class Selector(Spec, frozen=True, kw_only=True, omit_defaults=True):
    """A label selector for namespaces. Files know one label of a namespace, its name
    (``kubernetes.io/metadata.name``)."""

    match_labels: dict[str, str] = msgspec.field(default_factory=dict)
    match_expressions: tuple[Expression, ...] = ()


class RouteNamespaces(Spec, frozen=True, rename={"from_": "from"}, omit_defaults=True):
    from_: Literal["All", "Selector", "Same", "None"] = "Same"
    selector: Selector | None = None


class RouteKind(Spec, frozen=True, kw_only=True, omit_defaults=True):
    group: Group = "gateway.networking.k8s.io"
    kind: Kind


class AllowedRoutes(Spec, frozen=True, kw_only=True, omit_defaults=True):
    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: Annotated[tuple[RouteKind, ...], Meta(max_length=8)] = ()


class Listener(Spec, frozen=True, kw_only=True, omit_defaults=True):
    name: SectionName
    hostname: Hostname | None = None
    port: PortNumber
    protocol: Literal["HTTP", "HTTPS", "TLS", "TCP", "UDP"]
    tls: ListenerTls | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewaySpec(
    Spec,
    frozen=True,
    omit_defaults=True,
    rename={
        "gateway_class_name": "gatewayClassName",
        "allowed_listeners": "allowedListeners",
        "backend_tls": "backendTLS",
        "default_scope": "defaultScope",
    },
):
    gateway_class_name: ObjectName
    listeners: Annotated[tuple[Listener, ...], Meta(min_length=1, max_length=64)]
    addresses: tuple[dict[str, Any], ...] = ()
    """Read over: the daemon's listeners say where they bind."""
    infrastructure: dict[str, Any] | None = None
    """Read over: nothing is created for a Gateway."""
    allowed_listeners: dict[str, Any] | None = None
    backend_tls: dict[str, Any] | None = None
    tls: dict[str, Any] | None = None
    default_scope: str | None = None


class Gateway(Spec, frozen=True, kw_only=True, tag_field="kind", tag="Gateway"):
    api_version: Literal["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"]
    metadata: Metadata
    spec: GatewaySpec
    status: Status | None = None


class GrantFrom(Spec, frozen=True, kw_only=True):
    group: Group
    kind: Kind
    namespace: Namespace


class GrantTo(Spec, frozen=True, kw_only=True, omit_defaults=True):
    group: Group
    kind: Kind
    name: ObjectName | None = None


class GrantSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    from_: Annotated[tuple[GrantFrom, ...], Meta(min_length=1, max_length=16)]
    to: Annotated[tuple[GrantTo, ...], Meta(min_length=1, max_length=16)]


class ReferenceGrant(Spec, frozen=True, kw_only=True, tag_field="kind", tag="ReferenceGrant"):
    """Lets objects of other namespaces refer to objects of its own."""

    api_version: Literal["gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1"]
    metadata: Metadata
    spec: GrantSpec
    status: Status | None = None

    def permits(self, group: str, kind: str, namespace: str, to: tuple[str, str, str]) -> bool:
        """Whether a (group, kind) of ``namespace`` may refer to ``to``: group, kind, name in the
        grant's namespace."""
        return any(
            (f.group, f.kind, f.namespace) == (group, kind, namespace) for f in self.spec.from_
        ) and any((t.group, t.kind) == to[:2] and t.name in (None, "", to[2]) for t in self.spec.to)
