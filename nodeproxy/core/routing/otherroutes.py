"""TCPRoute and TLSRoute, and of GRPCRoute and UDPRoute as much as is needed to see conflicts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from nodeproxy.core.routing.schema import (
    BackendRef,
    Hostname,
    Metadata,
    ParentRef,
    SectionName,
    Spec,
    Status,
)

__all__ = ["GRPCRoute", "L4Rule", "TCPRoute", "TLSRoute"]

_VERSIONS = Literal[
    "gateway.networking.k8s.io/v1",
    "gateway.networking.k8s.io/v1beta1",
    "gateway.networking.k8s.io/v1alpha3",
    "gateway.networking.k8s.io/v1alpha2",
]


class L4Rule(Spec, frozen=True, kw_only=True, omit_defaults=True):
    name: SectionName | None = None
    backend_refs: Annotated[tuple[BackendRef, ...], Meta(min_length=1, max_length=16)]


class TcpSpec(Spec, frozen=True, kw_only=True, omit_defaults=True):
    parent_refs: Annotated[tuple[ParentRef, ...], Meta(max_length=32)] = ()
    rules: Annotated[tuple[L4Rule, ...], Meta(min_length=1, max_length=16)]


class TlsSpec(TcpSpec, frozen=True, kw_only=True, omit_defaults=True):
    hostnames: Annotated[tuple[Hostname, ...], Meta(max_length=16)] = ()


class TCPRoute(Spec, frozen=True, kw_only=True, tag_field="kind", tag="TCPRoute"):
    api_version: _VERSIONS
    metadata: Metadata
    spec: TcpSpec
    status: Status | None = None


class TLSRoute(Spec, frozen=True, kw_only=True, tag_field="kind", tag="TLSRoute"):
    api_version: _VERSIONS
    metadata: Metadata
    spec: TlsSpec
    status: Status | None = None


class GrpcSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Only where it is attached: its rules wait for HTTP/2."""

    parent_refs: Annotated[tuple[ParentRef, ...], Meta(max_length=32)] = ()
    hostnames: Annotated[tuple[Hostname, ...], Meta(max_length=16)] = ()
    rules: tuple[Any, ...] = ()


class GRPCRoute(Spec, frozen=True, kw_only=True, tag_field="kind", tag="GRPCRoute"):
    api_version: _VERSIONS
    metadata: Metadata
    spec: GrpcSpec
    status: Status | None = None
