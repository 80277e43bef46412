"""The options of the back end ``nacos``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from registry.duration import Duration
from registry.naming import ServiceName, ServiceSettings

__all__ = ["Options"]

Text = Annotated[str, msgspec.Meta(min_length=1)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``{kind: nacos, servers: ["http://nacos.example:8848/nacos"]}``"""

    servers: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]
    """Base URLs with the context path: ``http://HOST:8848/nacos``. One is used at a time; when it
    fails, the next."""
    api: Literal["v1", "v2"] = "v1"
    """The version of the HTTP API; ``v2`` needs Nacos 2.2 or newer."""
    username: Text | None = None
    """The user to log in as, where the server authenticates."""
    password_file: Text | None = None
    """A file with this user's password, relative to the file that configures the registry; read
    again at each login."""
    ca_file: Text | None = None
    """A PEM file of the authorities to trust; by default the system's."""
    cert_file: Text | None = None
    """A PEM file with our certificate, where the server verifies its clients."""
    key_file: Text | None = None
    """The certificate's key, if it is not in the same file."""
    nacos_namespace: str = ""
    """The id of Nacos' namespace; empty: ``public``."""
    group: Text = "DEFAULT_GROUP"
    """The group of the services. For several, configure a registry for each."""
    clusters: tuple[Text, ...] = ()
    """Only instances of these clusters; by default of all."""
    follow: tuple[Text, ...] = ()
    """Only these services; by default all of the group."""
    list_interval: Duration = Duration("30s")
    """How often the list of services is read. 1s to 1h."""
    min_interval: Duration = Duration("1s")
    """A service is read again no sooner than this, whatever its ``cacheMillis`` says. 100ms or
    more."""
    max_interval: Duration = Duration("1m")
    """A service is read again no later than this, whatever its ``cacheMillis`` says."""
    zone_meta: Text = "zone"
    """The key of an instance's metadata that names its zone."""
    namespace: Text = "default"
    """The namespace of our names: ``web`` becomes ``default/web``."""
    services: dict[ServiceName, ServiceSettings] = {}
    """Virtual addresses, ports and protocols of services, by name."""
    allow_loopback: bool = False
    """Use endpoints with loopback addresses: they mean this node, whoever registered them."""
    max_queries: Annotated[int, msgspec.Meta(ge=1, le=90)] = 10
    """The most requests at a time."""
    rate: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    """Requests a second at most for services that are known already."""
    timeout: Duration = Duration("10s")
    """How long a server may be silent. 100ms to 5m."""
