"""The options of the back end ``zookeeper``."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from registry.duration import Duration
from registry.layouts.curator import Curator
from registry.layouts.entry import Layout
from registry.layouts.nerve import Nerve
from registry.layouts.registrator import ZkRegistrator
from registry.layouts.serverset import Serverset
from registry.layouts.shape import Name, Number, ServiceName, ServiceOption
from registry.model import Protocol

__all__ = ["LAYOUTS", "Options"]

LAYOUTS: Final[dict[str, Layout]] = {
    layout.kind: layout for layout in (Nerve(), Serverset(), Curator(), ZkRegistrator())
}
Text = Annotated[str, msgspec.Meta(min_length=1)]
Server = Annotated[str, msgspec.Meta(pattern=r"^(\[[0-9a-fA-F:.]+\]|[^\s,/:\[\]]+)(:[0-9]{1,5})?$")]
Path = Annotated[str, msgspec.Meta(pattern=r"^/([^\s/]+(/[^\s/]+)*)?$")]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``{kind: zookeeper, servers: ["10.0.0.5:2181"], layout: nerve}``"""

    servers: Annotated[tuple[Server, ...], msgspec.Meta(min_length=1)]
    """The ensemble: ``HOST:PORT``, ``[IPV6]:PORT``; the port 2181 may be left out. One is used at a
    time, in random order."""
    layout: Literal["nerve", "serverset", "curator", "registrator"]
    """How the nodes are written."""
    path: Path | None = None
    """Where the services are; a part that is ``*`` stands for every node there. The parts that
    stars stand for name the service: the last one its name, those before it its namespace. Without
    a star one is added at the end. By default where the layout's writers put them."""
    chroot: Path | None = None
    """All paths are below this one."""
    namespace: Name = "default"
    """The namespace of services whose path has one star."""
    port: Number | None = None
    """The port at which clients dial services that ``services`` says nothing of; by default the
    port numbers of the endpoints."""
    protocol: Protocol = ""
    """How these ports speak; by default it is detected."""
    services: dict[ServiceName, ServiceOption] = {}
    """Virtual addresses and ports by service: ``{web: {vips: [..], ports: [{port, name,
    protocol}]}}``."""
    username: Text | None = None
    """For nodes with an ACL of the scheme ``digest``."""
    password_file: Text | None = None
    """A file with the user's password."""
    session_timeout: Duration = Duration("10s")
    """After this long without an answer the connection is given up and the registry counts as
    failed. 1s to 5m; the server may set other limits."""
    requests: Annotated[int, msgspec.Meta(ge=1, le=200)] = 32
    """The most requests that are under way at a time."""
