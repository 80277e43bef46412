"""The link to one target, shared by all services that are announced there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from registry.backoff import Backoff
from registry.base import RegistryError
from registry.register.link import Link
from registry.register.target import Target

__all__ = ["Pool"]


class Pool:
    """See the module's text."""

    def __init__(self, target: Target, backoff: Backoff, log: Any) -> None:
        self.target = target
        self._backoff = backoff
        self._log = log
        self._link: Link | None = None
        self._error = ""
        self._news = trio.Event()
        self._doubted = trio.Event()
        self._users: dict[trio.CancelScope, None] = {}
        self._unused = trio.Event()
        self._life = trio.CancelScope(shield=True)

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Link]:
        """The link, for as long as it lasts. Raises RegistryError, also when it ends."""
        while self._link is None:
            if self._error:
                raise RegistryError(self._error)
            await self._news.wait()
        with trio.CancelScope() as scope:
            self._users[scope] = None
            try:
                yield self._link
            finally:
                del self._users[scope]
                if not self._users:
                    self._unused.set()
        if scope.cancelled_caught:
            raise RegistryError("the connection to the registry is being made anew")

    def doubt(self) -> None:
        """It failed again and again: credentials may have changed, a session may be beyond
        hope."""
        if self._link is not None and self._link.spent:
            self._doubted.set()

    async def run(self) -> None:
        """Until :meth:`end`. Being cancelled is not enough: users go first."""
        with self._life:
            while True:
                begun = trio.current_time()
                try:
                    async with self.target.connect() as link:
                        self._doubted = trio.Event()
                        self._say(link)
                        await self._doubted.wait()
                        self._say(None)
                        await self._free()
                except RegistryError as error:
                    self._say(None, str(error))
                except Exception as error:
                    self._log.error("a registry's link crashed: please report this", exc_info=error)
                    self._say(None, f"{type(error).__name__}: {error}")
                await trio.sleep(self._backoff.failed(trio.current_time() - begun))

    def end(self) -> None:
        """Nobody uses it any more."""
        self._life.cancel()

    def _say(self, link: Link | None, error: str = "") -> None:
        self._link = link
        self._error = error
        self._news.set()
        self._news = trio.Event()

    async def _free(self) -> None:
        """Until nobody uses the link that was."""
        for scope in self._users:
            scope.cancel()
        while self._users:
            self._unused = trio.Event()
            await self._unused.wait()
