"""List and watch: keeps one table as the API server has it.

The rules (kubernetes.io/docs/reference/using-api/api-concepts): list in pages that are all of one
resourceVersion; watch from there; each event and bookmark moves the position; a watch that ends
goes on from the position, whatever ended it; 410 Gone, as a status or as an event, means that the
position is too old: list again. Two traps are ours to see. A watch from a position that the
server has not reached (its etcd was lost) is silent for ever, so after an end that nobody asked
for one object is listed, only to see the server's position. And a server that ends
watches at once must not be asked in a tight loop.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import httpx
import msgspec
import trio

from registry.base import RegistryError
from registry.bulk import bulk
from registry.kubernetes import wire
from registry.kubernetes.api import Api, Collection, Gone, each_chunk
from registry.kubernetes.tables import Entry, Table

__all__ = ["BITE", "LARGE", "Reflector"]

BITE: Final = 150
"""Objects and endpoints that are decoded between two checkpoints: about a millisecond."""
PAGE_BYTES: Final = 512 * 1024
"""What a page should not exceed by much: it is split into its items in one step."""
FIRST_PAGE: Final = 50
LARGE: Final = 500
"""Objects from which on a list is a load; see :mod:`registry.bulk`."""
MAX_LISTS: Final = 5
"""Lists in a row that may expire before their last page."""
GRACE: Final = 10.0
"""Seconds after a watch's end when a server that has not ended it counts as frozen."""
SHORT: Final = 1.0
"""Seconds below which a watch without an event was futile."""
MAX_PAUSE: Final = 5.0


class Reflector:
    """One table's. ``await run()``; never returns. Raises RegistryError."""

    def __init__(
        self,
        api: Api,
        collection: Collection,
        table: Table,
        *,
        page: int,
        watch_timeout: float,
        changed: Callable[[], None],
        lock: trio.Lock,
        rng: random.Random,
    ) -> None:
        """``changed`` is called when the table or one of the flags below has changed. ``lock`` is
        held while the table is being replaced: it is of no use meanwhile."""
        self._api = api
        self._of = collection
        self._table = table
        self._page = page
        self._limit = min(page, FIRST_PAGE)
        self._watch_timeout = watch_timeout
        self._changed = changed
        self._rng = rng
        self._lock = lock
        self._futile = 0
        self._work = 0
        self._heard = 0
        self.ready = False
        """The table is as complete as the server's answer."""
        self.confirmed = False
        """The server has said something since this was last set to False."""
        self.relisted = False
        """A list has replaced the table since this was last set to False."""

    async def run(self) -> None:
        await self._check_position()
        while True:
            try:
                if not self._table.version:
                    await self._list()
                orderly = await self._watch()
            except Gone:
                self._table.version = ""
                orderly = True
                self._futile += 1
            if self._futile > 1:
                pause = min(0.05 * 2.0 ** min(self._futile, 10), MAX_PAUSE)
                await trio.sleep(pause * (0.5 + self._rng.random()))
            if not orderly:
                await self._check_position()

    # --- list ---

    async def _list(self) -> None:
        for _ in range(MAX_LISTS):
            with ExitStack() as load:
                try:
                    fresh, version = await self._pages(load)
                except Gone:
                    # It took longer than the server keeps history: in larger steps, from the start.
                    self._limit = self._page = min(self._page * 2, 10_000)
                    continue
                await self._replace(fresh, version)
                return
        raise RegistryError(
            f"{self._of.resource}: {MAX_LISTS} lists expired before their last page: the API"
            " server or the way to it is too slow"
        )

    async def _pages(self, load: ExitStack) -> tuple[dict[str, Entry], str]:
        """All objects and their version; ``load`` is entered where they are many."""
        fresh: dict[str, Entry] = {}
        self._table.unnamed.clear()
        token = ""
        large = False
        while True:
            params = self._params() | {"limit": str(self._limit)}
            if token:
                params["continue"] = token
            body = await self._api.get(self._of.path, params, "list", self._of)
            try:
                found = wire.page(body)
            except msgspec.MsgspecError as error:
                raise RegistryError(f"the list of {self._of.resource}: {error}") from None
            items = found.items or []
            for raw in items:
                entry = self._table.read(raw)
                if entry is not None:
                    fresh[entry.key] = entry
                await self._did(1 + (len(entry.endpoints) if entry else 0))
            token = found.metadata.continue_
            if not token:
                return fresh, found.metadata.version
            if not large and len(fresh) >= LARGE:
                large = True
                load.enter_context(bulk())
            if items:
                fitting = PAGE_BYTES * len(items) // max(len(body), 1)
                self._limit = max(1, min(fitting, self._page))

    async def _replace(self, fresh: dict[str, Entry], version: str) -> None:
        if not version:
            raise RegistryError(f"the list of {self._of.resource} has no resourceVersion")
        async with self._lock:
            for step in self._table.replace(fresh, version):
                await self._did(step)
        self.ready = self.confirmed = self.relisted = True
        self._changed()

    def _params(self) -> dict[str, str]:
        selector = self._of.label_selector
        return {"labelSelector": selector} if selector else {}

    async def _check_position(self) -> None:
        """Forget the position if it is ahead of the server's."""
        if not self._table.version:
            return
        params = self._params() | {"limit": "1"}
        try:
            body = await self._api.get(self._of.path, params, "list", self._of)
            now = wire.page(body).metadata.version
        except (Gone, msgspec.MsgspecError):
            now = ""
        if not now or wire.is_older(now, self._table.version):
            self._table.version = ""

    # --- watch ---

    async def _watch(self) -> bool:
        """Until the watch ends; whether it did as it should. Raises Gone."""
        seconds = round(self._watch_timeout * (1 + 0.25 * self._rng.random()))
        params = self._params() | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._table.version,
            "timeoutSeconds": str(max(1, seconds)),
        }
        begun = trio.current_time()
        heard = self._heard
        lines = wire.Lines()

        def take(chunk: bytes) -> None:
            # A chunk is at most what one read of a socket gives, so this is bounded.
            for line in lines.feed(chunk):
                self._event(line)
            self.confirmed = True
            self._changed()

        frozen = False
        async with self._api.open(
            self._of.path, params, "watch", self._of, seconds + GRACE
        ) as response:
            self.ready = self.confirmed = True
            self._changed()
            try:
                await each_chunk(response, take)
            except httpx.ReadTimeout:
                frozen = True
            except httpx.HTTPError:
                # Cut: that ends this watch only. What was complete has been applied.
                pass
            except (ValueError, msgspec.MsgspecError) as error:
                # Asked again the server would say it again.
                self._table.version = ""
                raise RegistryError(f"{self._what} is garbled: {error}") from None
        if frozen:
            raise RegistryError(
                f"{self._what} was silent beyond its end: the API server or the way to it hangs"
            )
        lasted = trio.current_time() - begun
        futile = self._heard == heard and lasted < SHORT
        self._futile = self._futile + 1 if futile else 0
        # At its end at least a bookmark comes, unless the position lies ahead of the server's.
        return lasted >= seconds * 0.9 and self._heard > heard

    def _event(self, line: bytes) -> None:
        """Raises Gone, RegistryError, and ValueError for what is no event."""
        event = wire.event(line)
        if event.type == "ERROR":
            self._error(event.object)
        self._table.event(event.type, event.object)
        self._heard += 1
        self._futile = 0

    def _error(self, raw: msgspec.Raw) -> None:
        """The watch has failed inside of the server; where it stands now only a list can tell."""
        status = wire.status(raw)
        self._table.version = ""
        if status.code == 410 or status.reason in ("Expired", "Gone"):
            raise Gone(status.message)
        raise RegistryError(f"{self._what} failed: {status.code} {status.message[:300]}")

    @property
    def _what(self) -> str:
        return f"the watch of {self._of.resource}{self._of.place}"

    # --- turns ---

    async def _did(self, work: int) -> None:
        """Lets the loop go on after each BITE of work."""
        self._work += work
        if self._work >= BITE:
            self._work = 0
            await trio.lowlevel.checkpoint()
