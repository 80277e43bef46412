"""What the runner wants of a registry of any kind."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final, Protocol

import trio

from registry.address import canonical
from registry.base import RegistryError
from registry.register.encode import Written

__all__ = ["Holder", "Link", "local_address"]

_SO_MARK: Final = 36  # asm-generic/socket.h


class Holder(Protocol):
    """One service in one registry. Any of its methods may be cancelled at any moment and called
    again; all raise RegistryError when the registry cannot be had."""

    place: str
    """The key, path or ID, for people."""

    async def write(self) -> None:
        """It is there, with a lease, when this returns."""

    async def hold(self) -> None:
        """Keep the lease alive; returns when it may not be there any more."""

    async def remove(self) -> None:
        """It is not there when this returns."""


class Link(Protocol):
    """The way to one registry, for all services that are announced there."""

    def holder(self, written: Written) -> Holder: ...

    async def address(self) -> str:
        """This node's address towards the registry. Raises RegistryError."""

    @property
    def spent(self) -> bool:
        """After a failure: making a new link may help, and harms nobody."""


async def local_address(servers: Iterable[tuple[str, int]], mark: int) -> str:
    """From which address this node would reach the first of these that has a route. Nothing is
    sent. Raises RegistryError; also for loopback, which means another node everywhere else."""
    why = "no server is known"
    for host, port in servers:
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as error:
            why = f"{host}: {error.strerror or error}"
            continue
        for family, kind, protocol, _, where in found:
            with socket.socket(family, kind, protocol) as sock:
                try:
                    if mark:
                        sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
                    sock.connect(where)
                    address = canonical(sock.getsockname()[0])
                except (OSError, ValueError) as error:
                    why = f"{host}: {error}"
                    continue
            if address.startswith("127.") or address == "::1":
                why = f"{host} is this node itself: others need its `address`"
                continue
            return address
    raise RegistryError(f"the address of this node is not known: {why}")
