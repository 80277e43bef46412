"""The back end ``etcd``.

One cycle: read all keys of the prefix at one revision, publish, then watch from the next
revision on. A watch that is cut is opened again where it stood, at another member if need be;
when its revision is compacted, or the cluster is not the one that was read, all is read again.
A read costs little where nothing changed: values that are the same are not decoded again.
"""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import ClassVar, Final

import httpx
import trio

from registry.base import Context, RegistryError, Sink
from registry.bulk import bulk
from registry.etcd.gateway import Compacted, Gateway, Login, Unavailable, tls_context
from registry.etcd.options import LAYOUTS, Options
from registry.etcd.wire import (
    Bad,
    Header,
    KeyValue,
    Lines,
    Range,
    WatchLine,
    WatchResult,
    decode,
    prefix_range,
    range_request,
    watch_request,
)
from registry.http import client
from registry.layouts.publisher import BITE, Publisher
from registry.layouts.shape import Shape
from registry.layouts.table import Table

__all__ = ["EtcdBackend", "Options"]

LARGE: Final = 1 << 20
"""Bytes of a page from which on pages get smaller: a page is decoded in one go."""
LOAD: Final = 5000
"""Keys from which on a read is a load; see :mod:`registry.bulk`."""
BRIEF: Final = 1.0
"""Seconds that a watch must have lived for its end not to be counted as a failure to watch."""


class _Silent(Exception):
    """Nothing was heard of a watch for too long."""


class _ReadAgain(Exception):
    """What is known may not be what the cluster has."""


class EtcdBackend:
    """See the module's text. The table is kept between runs."""

    kind: ClassVar[str] = "etcd"
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options, context: Context) -> None:
        """Raises ValueError."""
        if not 0.1 <= options.timeout <= 60:
            raise ValueError("timeout must be 100ms to 1m")
        if not 1 <= options.silence <= 1800:
            raise ValueError("silence must be 1s to 30m")
        if (options.username is None) != (options.password_file is None):
            raise ValueError("`username` and `password_file` belong together")
        if options.key_file is not None and options.certificate_file is None:
            raise ValueError("`key_file` needs `certificate_file`")
        layout = LAYOUTS[options.layout]
        prefix = layout.prefix if options.prefix is None else options.prefix
        if not prefix:
            raise ValueError(f"the layout {layout.kind} needs `prefix`")
        self._options = options
        self._context = context
        self._prefix = prefix.rstrip("/")
        self._range = prefix_range(prefix)
        shape = Shape(
            namespace=options.namespace,
            port=options.port,
            protocol=options.protocol,
            services=options.services,
        )
        self._table = Table(layout, shape, f"{context.name} {prefix}")
        self._rng = random.Random()
        self._page = options.page
        self.reads = 0
        """Complete reads, for tests."""
        self.watches = 0
        """Watches that were opened, for tests."""

    async def run(self, sink: Sink) -> None:
        """See :class:`registry.base.Backend`."""
        async with self.connect() as gateway:
            publisher = Publisher(sink, self._table)
            while True:
                try:
                    with ExitStack() as load:
                        read = await self._read(gateway, load)
                        await publisher.publish()
                    await _Watch(self, gateway, publisher, read).follow()
                except (_ReadAgain, Compacted):
                    await trio.sleep(self._rng.uniform(0, 0.1))

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Gateway]:
        """The cluster, with credentials as they are in their files now. Raises RegistryError."""
        login = await trio.to_thread.run_sync(self._login)
        # Without one the client would load the system's authorities, on the loop, for 80 ms.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if any(endpoint.startswith("https:") for endpoint in self._options.endpoints):
            tls = await trio.to_thread.run_sync(
                tls_context,
                self._path(self._options.ca_file),
                self._path(self._options.certificate_file),
                self._path(self._options.key_file),
            )
        async with client(
            mark=self._context.mark,
            tls=tls,
            connect_timeout=self._options.timeout,
            read_timeout=None,
        ) as http:
            yield Gateway(http, self._options.endpoints, login, self._options.timeout, self._rng)

    # --- reading ---

    async def _read(self, gateway: Gateway, load: ExitStack) -> Header:
        """All keys, at one revision, into the table. That revision's header."""
        key, end = self._range
        first: Header | None = None
        seen: set[str] = set()
        more = True
        while more:
            request = range_request(key, end, self._page, first.revision if first else 0)
            page, size = await gateway.call("/v3/kv/range", request, Range)
            if first is None:
                first = page.header
                if page.count > LOAD:
                    load.enter_context(bulk())
            if size > LARGE:
                self._page = max(1, min(self._page // 2, len(page.kvs) * LARGE // size))
            else:
                self._page = min(self._options.page, self._page * 2)
            for i, kv in enumerate(page.kvs):
                seen.add(self._put(kv))
                if i % BITE == BITE - 1:
                    await trio.lowlevel.checkpoint()
            more = page.more and bool(page.kvs)
            if more:
                key = page.kvs[-1].key + b"\0"
        assert first is not None
        await self._sweep(seen)
        self.reads += 1
        return first

    async def _sweep(self, seen: set[str]) -> None:
        """What was not read any more is gone."""
        if len(seen) == len(self._table):
            return
        for i, key in enumerate(list(self._table)):
            if key not in seen:
                self._table.delete(key)
            if i % BITE == BITE - 1:
                await trio.lowlevel.checkpoint()

    def _put(self, kv: KeyValue) -> str:
        key = self._key(kv)
        below = key[len(self._prefix) :]
        self._table.put(key, [part for part in below.split("/") if part], kv.value)
        return key

    @staticmethod
    def _key(kv: KeyValue) -> str:
        return kv.key.decode("utf-8", "backslashreplace")

    def apply(self, result: WatchResult) -> int:
        """The events of one message into the table; the last revision among them."""
        last = 0
        for event in result.events:
            last = max(last, event.kv.mod_revision)
            if event.type == "DELETE":
                self._table.delete(self._key(event.kv))
            else:
                self._put(event.kv)
        return last

    # --- files ---

    def _path(self, name: str | None) -> str | None:
        return None if name is None else os.path.join(self._context.base_dir, name)

    def _login(self) -> Login | None:
        """Raises RegistryError. Blocks."""
        path = self._path(self._options.password_file)
        if self._options.username is None or path is None:
            return None
        try:
            password = Path(path).read_text().rstrip("\r\n")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "not a text"
            raise RegistryError(f"password_file {path}: {why}") from None
        return Login(self._options.username, password)


class _Watch:
    """Follows the prefix from one read on."""

    def __init__(
        self, backend: EtcdBackend, gateway: Gateway, publisher: Publisher, read: Header
    ) -> None:
        self._backend = backend
        self._gateway = gateway
        self._publisher = publisher
        self._read = read
        self._next = read.revision + 1
        """The revision from which on nothing has been heard yet."""
        self._silence = float(backend._options.silence)

    async def follow(self) -> None:
        """Until all has to be read again (_ReadAgain), or no member serves (RegistryError)."""
        failures: list[str] = []
        while True:
            begun = trio.current_time()
            try:
                await self._once()
            except _Silent:
                failures.clear()
            except (Unavailable, Bad) as error:
                if trio.current_time() - begun > BRIEF + self._gateway.timeout:
                    failures.clear()
                failures.append(f"{self._gateway.member}: {error}")
                # One more than members: the first was the end of a watch that had worked.
                if len(failures) > self._gateway.members:
                    raise RegistryError("; ".join(failures[-self._gateway.members :])) from None
                self._gateway.turn()

    async def _once(self) -> None:
        body = watch_request(*self._backend._range, self._next)
        async with (
            self._gateway.stream("/v3/watch", body) as response,
            aclosing(self._messages(response)) as messages,
        ):
            async for result in messages:
                await self._take(result)
        raise Unavailable("the watch ended")

    async def _messages(self, response: httpx.Response) -> AsyncGenerator[WatchResult, None]:
        """Raises _Silent, Unavailable, Bad."""
        lines = Lines()
        heard = False
        chunks = response.aiter_bytes()
        try:
            while True:
                data: bytes | None = None
                with trio.move_on_after(self._silence if heard else self._gateway.timeout) as limit:
                    data = await anext(chunks, b"")
                if limit.cancelled_caught or data is None:
                    if heard:
                        raise _Silent
                    raise Unavailable(f"no watch within {self._gateway.timeout:g} s")
                if not data:
                    return
                for line in lines.feed(data):
                    heard = True
                    told = decode(line, WatchLine)
                    if told.error is not None:
                        raise Unavailable(told.error.message or "the watch failed")
                    if told.result is not None:
                        yield told.result
        finally:
            await _unwind(chunks)

    async def _take(self, result: WatchResult) -> None:
        header = result.header
        if result.canceled:
            if result.compact_revision:
                raise _ReadAgain
            # Without the right to read, or with a token that is not known any more.
            self._gateway.forget_token()
            raise Unavailable(f"the watch is refused: {result.cancel_reason}")
        if header.cluster_id != self._read.cluster_id or header.raft_term < self._read.raft_term:
            raise _ReadAgain  # made anew, with other contents
        if result.created:
            self._backend.watches += 1
            if header.revision < self._next - 1:
                raise _ReadAgain  # restored from a backup; or a member that lags, then for nothing
            # What happened since _next follows at once (etcd catches up every 100 ms).
            await self._publisher.synced()
        elif result.events:
            # The header's revision may be ahead of events that are still to come.
            self._next = max(self._next, self._backend.apply(result) + 1)
            if not result.fragment:
                await self._publisher.synced()
        else:
            # A progress notification: all up to here has been told.
            self._next = max(self._next, header.revision + 1)
            await self._publisher.synced()


async def _unwind(chunks: AsyncIterator[bytes]) -> None:
    """httpx reads by generators within generators. Left half way, the inner ones would be closed by
    the garbage collector some time later; a cancellation ends them from within, now."""
    with trio.CancelScope(shield=True) as scope:
        scope.cancel()
        with suppress(httpx.HTTPError, httpx.StreamError):
            async for _ in chunks:
                pass
