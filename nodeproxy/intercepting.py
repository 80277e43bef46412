"""The daemon's side of interception: the order in which traffic is taken over and given back,
and the kernel's sets kept after the catalog.

Rules come first, as they hand over nothing while the switch is off; then the listeners; then
what the catalog has; then the first beat. Giving back goes the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Never

import trio

from iptables.errors import InterceptionError
from iptables.manager import Interception
from nodeproxy.core.destination import Address
from nodeproxy.frontends import Changed, changed, frontends
from registry.catalog import Catalog, Change

__all__ = ["Intercepting"]

FULL_SYNC: Final = 2000
"""Changed services from which on sending everything is cheaper than sending each."""
AT_ONCE: Final = 30
"""Changed services whose frontends are computed on the loop: a millisecond or two of work."""
RETRY: Final = 1.0
"""Seconds until the kernel is tried again after it refused a change."""


class Intercepting:
    """Keeps the kernel handing traffic to this process, for as long as it should."""

    def __init__(
        self,
        kernel: Interception,
        *,
        catalog: Callable[[], Catalog],
        listen: Callable[[Address], None],
        accepting: Callable[[], bool],
        log: Any,
    ) -> None:
        """``listen`` opens the listener of one family; ``accepting`` says whether connections
        that are handed over would be served."""
        self.kernel = kernel
        self.on = False
        """True between the first beat and the release: traffic is ours."""
        self.beats = 0
        self._catalog = catalog
        self._listen = listen
        self._accepting = accepting
        self._log = log
        self._pending: list[Change] = []
        self._everything = False
        self._work = trio.Event()
        self._resumed = trio.Event()
        self._scope = trio.CancelScope()
        self._turn = trio.Lock()
        """Taking over and giving back never meet."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
        """Take over, report started, and keep everything so until cancelled."""
        async with self._turn:
            await self.kernel.install()
            settings = self.kernel.settings
            for family in self.kernel.status().families:
                self._listen((settings.address(family), settings.outbound_port))
            await self._take_over()
        task_status.started()
        while True:
            self._resumed = trio.Event()
            with trio.CancelScope() as self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._follow)
                    nursery.start_soon(self.kernel.watch)
            await self._resumed.wait()

    async def _take_over(self) -> None:
        # Before, not after: what changes while the kernel is told must not be forgotten.
        self._pending.clear()
        await self.kernel.sync(frontends(self._catalog()))
        self.on = True
        self.beat()

    def beat(self) -> None:
        """Keep the dead-man's switch alive: called from the loop that carries the traffic, and
        heeded only while connections are really accepted."""
        if self.on and self._accepting():
            self.kernel.beat()
            self.beats += 1

    def release(self) -> None:
        """Let new connections pass by at once; the rules stay. Raises InterceptionError."""
        if self.on:
            self.on = False
            self.kernel.release()

    async def stop(self) -> None:
        """Leave the path of traffic and take everything out of the kernel, until ``resume``.
        Whoever watches and follows ends first, or it would put the rules back."""
        async with self._turn:
            self.on = False
            self._scope.cancel()
            await self.kernel.remove()

    async def resume(self) -> int:
        """Put the rules right and, after ``stop``, get back into the path. Returns how many
        differences there were."""
        async with self._turn:
            if self.on:
                return len(await self.kernel.repair())
            await self.kernel.install()
            await self._take_over()
            self._resumed.set()
            return 0

    def follow(self, changes: Sequence[Change]) -> None:
        """The catalog has changed."""
        self._pending.extend(changes)
        self._work.set()

    async def _follow(self) -> Never:
        """Bring the kernel's sets after the catalog."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            changes, self._pending = self._pending, []
            try:
                if self._everything or len(changes) > FULL_SYNC:
                    await self.kernel.sync(frontends(self._catalog()))
                    self._everything = False
                else:
                    upserts, removals = await self._changed(changes)
                    await self.kernel.update(upserts.values(), removals)
            except InterceptionError as error:
                # The kernel's own watch repairs; what these changes meant is sent again whole.
                self._everything = True
                self._work.set()
                self._log.warning("kernel sets not updated", error=str(error))
                await trio.sleep(RETRY)

    async def _changed(self, changes: Sequence[Change]) -> Changed:
        catalog = self._catalog()
        if len(changes) <= AT_ONCE:
            return changed(changes, catalog)
        # Catalogs never change, so another thread may read this one.
        return await trio.to_thread.run_sync(changed, changes, catalog)
