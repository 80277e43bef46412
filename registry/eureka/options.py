"""The options of the back end ``eureka``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from registry.duration import Duration
from registry.naming import ServiceName, ServiceSettings

__all__ = ["Options", "Status"]

Text = Annotated[str, msgspec.Meta(min_length=1)]
Status = Literal["UP", "DOWN", "STARTING", "OUT_OF_SERVICE", "UNKNOWN"]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``{kind: eureka, servers: ["http://eureka.example:8761/eureka"]}``"""

    servers: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]
    """Base URLs, asked in this order when one fails: ``http://HOST:8761/eureka`` (Spring Cloud)
    or ``http://HOST:8080/eureka/v2`` (Netflix). ``http://USER:PASSWORD@HOST`` works, but
    ``password_file`` keeps the password out of this file."""
    username: Text | None = None
    """The user for servers whose URL names none."""
    password_file: Text | None = None
    """A file with this user's password, relative to the file that configures the registry."""
    ca_file: Text | None = None
    """A PEM file of the authorities to trust; by default the system's."""
    cert_file: Text | None = None
    """A PEM file with our certificate, where the server verifies its clients."""
    key_file: Text | None = None
    """The certificate's key, if it is not in the same file."""
    follow: tuple[Text, ...] = ()
    """Only these applications, in upper or lower case; by default all."""
    statuses: tuple[Status, ...] = ("UP",)
    """Instances with these statuses are used."""
    port: Literal["plain", "secure", "any"] = "any"
    """Which port of an instance is used: the one for HTTP, the one for HTTPS, or the first of
    them that is enabled. Instances without it are left out."""
    poll: Duration = Duration("30s")
    """How often the server is asked. 1s to 10m."""
    delta: bool = True
    """Ask for changes only, and for everything when the hash code shows that some were missed."""
    zone_meta: Text = "zone"
    """The key of an instance's metadata that names its zone; without it the availability zone of
    its AWS data is used."""
    weight_meta: Text = "weight"
    """The key of an instance's metadata that gives its weight."""
    namespace: Text = "default"
    """The namespace of our names: ``WEB`` becomes ``default/web``."""
    services: dict[ServiceName, ServiceSettings] = {}
    """Virtual addresses, ports and protocols of services, by name."""
    allow_loopback: bool = False
    """Use endpoints with loopback addresses: they mean this node, whoever registered them."""
    timeout: Duration = Duration("30s")
    """How long a server may be silent while it answers. 100ms to 5m."""
