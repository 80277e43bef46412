"""Announcing to ZooKeeper: an ephemeral node, which goes with the session.

All services of one target share a session. kazoo makes a new one after the old one has expired;
then every node is written again. A node that somebody deletes is written again at once. Where a
connection broke while a node was made, nobody knows whether it was: before the next try all nodes
of this name that belong to this session are taken away.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import trio

from registry.base import RegistryError
from registry.register.encode import Written
from registry.register.link import local_address
from registry.zookeeper.backend import Line, ZookeeperBackend
from registry.zookeeper.options import Options
from registry.zookeeper.session import Gone, Lost, Refused, Session, State, Taken
from registry.zookeeper.walk import Pattern

__all__ = ["ZookeeperLink", "connect"]

T = TypeVar("T")


@asynccontextmanager
async def connect(
    backend: ZookeeperBackend, options: Options, path: str, ttl: float, mark: int
) -> AsyncIterator[ZookeeperLink]:
    """Raises RegistryError for files that cannot be read."""
    line = Line()
    async with backend.connect(line, ttl) as session, trio.open_nursery() as nursery:
        link = ZookeeperLink(session, line, options.servers, Pattern.of(path), ttl, mark)
        nursery.start_soon(link.listen)
        yield link
        nursery.cancel_scope.cancel()


class ZookeeperLink:
    """See :class:`registry.register.link.Link`."""

    def __init__(
        self,
        session: Session,
        line: Line,
        servers: tuple[str, ...],
        pattern: Pattern,
        ttl: float,
        mark: int,
    ) -> None:
        self.session = session
        self._line = line
        self._servers = servers
        self._pattern = pattern
        self._ttl = ttl
        self._mark = mark
        self._changed = trio.Event()

    @property
    def spent(self) -> bool:
        # Closing a session takes all of its nodes away.
        return not self.connected

    @property
    def connected(self) -> bool:
        return self._line.state is State.CONNECTED

    async def listen(self) -> None:
        """The line can be waited for by one task only; this lets all others know."""
        while True:
            await self._line.change()
            self._changed.set()
            self._changed = trio.Event()

    async def up(self) -> None:
        """Raises RegistryError if there is no connection for the session's time-out."""
        with trio.move_on_after(self._ttl) as limit:
            while not self.connected:
                await self._changed.wait()
        if limit.cancelled_caught:
            trouble = self.session.trouble or "no server has an address"
            raise RegistryError(f"no session for {self._ttl:g} s ({trouble})")

    async def disturbed(self) -> None:
        """Until the connection changes."""
        await self._changed.wait()

    def holder(self, written: Written) -> _Node:
        parts = iter(written.parts)
        stars = [next(parts) if part == "*" else part for part in self._pattern.parts]
        return _Node(self, "/" + "/".join((*stars, *parts)), written.value, written.sequential)

    async def address(self) -> str:
        places = []
        for server in self._servers:
            host, colon, port = server.rpartition(":")
            if not colon or server.endswith("]"):
                host, port = server, "2181"
            places.append((host.strip("[]"), int(port)))
        return await local_address(places, self._mark)


class _Node:
    """One node. See :class:`registry.register.link.Holder`."""

    def __init__(self, link: ZookeeperLink, path: str, value: bytes, sequential: bool) -> None:
        self.place = path
        self._link = link
        self._path = path
        self._value = value
        self._sequential = sequential
        self._made = ""
        """The node's whole path, while it may be there."""
        self._uncertain = False
        """There may be one of which we know nothing."""

    async def write(self) -> None:
        await self._link.up()
        await self._ask(self._write())

    async def hold(self) -> None:
        await self._ask(self._hold())

    async def remove(self) -> None:
        if not self._made and not self._uncertain:
            return
        await self._link.up()
        await self._ask(self._remove())

    async def _write(self) -> None:
        session = self._link.session
        if self._made and await session.owned(self._made):
            return
        await self._clear()
        self._uncertain = True
        try:
            self._made = await session.create(self._path, self._value, sequential=self._sequential)
        except Taken:
            # From before a restart of this node: its session has not expired yet.
            with suppress(Gone):
                await session.delete(self._path)
            self._made = await session.create(self._path, self._value, sequential=False)
        self._uncertain = False
        self.place = self._made

    async def _hold(self) -> None:
        gone = trio.Event()
        if not await self._link.session.exists(self._made, gone.set):
            return
        async with trio.open_nursery() as nursery:

            async def until(wait: Callable[[], Awaitable[None]]) -> None:
                await wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until, gone.wait)
            nursery.start_soon(until, self._link.disturbed)

    async def _remove(self) -> None:
        if self._made:
            with suppress(Gone):
                await self._link.session.delete(self._made)
            self._made = ""
        await self._clear()

    async def _clear(self) -> None:
        """Take away what an interrupted write may have left."""
        if not self._uncertain:
            return
        session = self._link.session
        folder, _, name = self._path.rpartition("/")
        with suppress(Gone):
            for child in await session.children(folder, lambda: None):
                path = f"{folder}/{child}"
                fits = child.startswith(name) if self._sequential else child == name
                if fits and await session.owned(path):
                    with suppress(Gone):
                        await session.delete(path)
        self._uncertain = False

    async def _ask(self, request: Awaitable[T]) -> T:
        try:
            return await request
        except Lost:
            raise RegistryError(f"{self.place}: the connection was lost") from None
        except Refused as error:
            raise RegistryError(str(error)) from None
        except (Gone, Taken) as error:
            raise RegistryError(f"{error}: somebody else changes it at the same time") from None
