"""What is configured under ``register``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from registry.address import canonical
from registry.duration import Duration
from registry.model import qualified_name

__all__ = ["Check", "Entry", "Registration"]

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Status = Annotated[int, msgspec.Meta(ge=100, le=599)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``{kind: http, path: /health}``"""

    kind: Literal["http", "tcp", "command"]
    """``http``: a GET is answered. ``tcp``: a connection is taken. ``command``: a program ends with
    0."""
    path: Annotated[str, msgspec.Meta(pattern=r"^/[!-~]*$")] = "/"
    """What ``http`` asks for."""
    status: tuple[Status, ...] = ()
    """The statuses that are healthy; by default 200 to 399."""
    host: Annotated[str, msgspec.Meta(pattern=r"^[!-~]*$")] = ""
    """The header Host of ``http``; by default the address and port."""
    address: str = ""
    """Where ``http`` and ``tcp`` connect; by default the announced address."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """The port there; 0: the announced port."""
    run: tuple[Text, ...] = ()
    """The program of ``command`` and its arguments. There is no shell."""
    interval: Duration = Duration("2s")
    """From the end of one check to the next. At least 100ms."""
    timeout: Duration = Duration("1s")
    """What takes longer has failed; a program is killed with all that it started."""
    rise: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 2
    """So many successes in a row make it healthy."""
    fall: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    """So many failures in a row make it unhealthy."""
    jitter: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    """Part of the interval that is left to chance, so that checks do not fall into step."""

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if (self.kind == "command") != bool(self.run):
            raise ValueError(
                "a command needs `run`"
                if self.kind == "command"
                else "`run` belongs to kind: command"
            )
        if self.kind != "http" and (self.path != "/" or self.status or self.host):
            raise ValueError("`path`, `status` and `host` belong to kind: http")
        if self.kind == "command" and (self.address or self.port):
            raise ValueError("a command has no `address` and no `port`")
        if self.interval < 0.1:
            raise ValueError("`interval` must be 100ms or more")
        if not 0 < self.timeout <= 300:
            raise ValueError("`timeout` must be more than 0 and at most 5m")
        if self.address:
            canonical(self.address)

    @property
    def title(self) -> str:
        """For status and metrics: ``http :8081/health``, ``tcp``, ``command pg_isready``."""
        if self.kind == "command":
            return f"command {self.run[0].rpartition('/')[2]}"
        host = f"[{self.address}]" if ":" in self.address else self.address
        place = f"{host}:{self.port}" if self.port else host
        return f"{self.kind} {place}{self.path if self.kind == 'http' else ''}".rstrip()


class Registration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``{service: shop/web, port: 8080, registry: etcd, checks: [{kind: http}]}``"""

    service: Annotated[str, msgspec.Meta(pattern=r"^[^/\s]{1,253}(/[^/\s]{1,253})?$")]
    """Its name, ``namespace/name``, or ``name`` in the namespace ``default``."""
    port: Port
    """Where it listens."""
    registry: str | dict[str, Any]
    """The name of one of ``registries``, or an entry as it would stand there: of kind ``etcd``,
    ``zookeeper`` or ``consul``. Servers, credentials, place and namespace are as for reading."""
    address: str = ""
    """Where others reach it; by default the address from which this node reaches the registry, and
    in Consul the address of Consul's node."""
    layout: str = ""
    """How it is written; by default as the registry is read."""
    weight: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    """Its share of traffic, where the layout has weights; by default none is written."""
    labels: dict[Text, str] = {}
    """Labels, where the layout has them."""
    ttl: Duration = Duration("15s")
    """How long the registry keeps it when this node falls silent. 2s to 10m; for ZooKeeper the
    session's time-out. The servers may have limits of their own."""
    withdraw_delay: Duration = Duration("2s")
    """How long the node goes on after the withdrawal when it is stopped, so that others have heard
    of it before anything ends. At most 1m."""
    checks: tuple[Check, ...] = ()
    """It is announced while all of these pass; without any, while the node runs."""

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not 2 <= self.ttl <= 600:
            raise ValueError("`ttl` must be 2s to 10m")
        if self.withdraw_delay > 60:
            raise ValueError("`withdraw_delay` must be at most 1m")
        if self.address:
            canonical(self.address)

    @property
    def name(self) -> str:
        """``namespace/name``"""
        return qualified_name(self.service)


class Entry(msgspec.Struct, frozen=True):
    """One element of ``register``, and where it stands."""

    what: Registration
    base_dir: str = "."
    origin: str = ""
    """``nodeproxy.yaml:12``"""
    field: str = ""
    """``register[0]``"""
