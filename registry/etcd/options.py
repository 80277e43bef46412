"""The options of the back end ``etcd``."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from registry.duration import Duration
from registry.layouts.entry import Layout
from registry.layouts.gomicro import GoMicro
from registry.layouts.grpc import Grpc
from registry.layouts.registrator import Registrator
from registry.layouts.shape import Name, Number, ServiceName, ServiceOption
from registry.layouts.skydns import SkyDns
from registry.layouts.traefik import Traefik
from registry.model import Protocol

__all__ = ["LAYOUTS", "Options"]

LAYOUTS: Final[dict[str, Layout]] = {
    layout.kind: layout for layout in (SkyDns(), Grpc(), Registrator(), GoMicro(), Traefik())
}
Text = Annotated[str, msgspec.Meta(min_length=1)]
Url = Annotated[str, msgspec.Meta(pattern=r"^https?://[^/?#@\s]+/?$")]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``{kind: etcd, endpoints: ["https://10.0.0.5:2379"], layout: skydns}``"""

    endpoints: Annotated[tuple[Url, ...], msgspec.Meta(min_length=1)]
    """The client URLs of the cluster's members. One is used at a time, the first at random; when it
    fails, the next."""
    layout: Literal["skydns", "grpc", "registrator", "go-micro", "traefik"]
    """How the keys are written."""
    prefix: Text | None = None
    """Where they are; by default where the layout's writers put them. ``grpc`` has no default."""
    namespace: Name = "default"
    """The namespace of services whose key names none."""
    port: Number | None = None
    """The port at which clients dial services that ``services`` says nothing of; by default the
    port numbers of the endpoints."""
    protocol: Protocol = ""
    """How these ports speak, where the layout does not tell; by default it is detected."""
    services: dict[ServiceName, ServiceOption] = {}
    """Virtual addresses and ports by service: ``{web: {vips: [..], ports: [{port, name,
    protocol}]}}``."""
    ca_file: Text | None = None
    """A PEM file of the authorities to trust; by default the system's."""
    certificate_file: Text | None = None
    """The client certificate, a PEM file; read again at each new start of the back end."""
    key_file: Text | None = None
    """Its key; by default in the same file."""
    username: Text | None = None
    """For clusters with authentication. The user needs to read the prefix."""
    password_file: Text | None = None
    """A file with the user's password."""
    page: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 500
    """The most keys in one page of a read. Pages are smaller where values are large."""
    timeout: Duration = Duration("5s")
    """How long a member may take to connect and to answer. 100ms to 1m."""
    silence: Duration = Duration("60s")
    """A watch of which nothing was heard for this long is opened anew, at the revision where it
    stood. 1s to 30m."""
