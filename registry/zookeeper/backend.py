"""The back end ``zookeeper``.

One run is one kazoo client. Whenever it has (again) a connection everything is read and watched
anew; while it has none nothing is published and everything stays. A connection that does not
come back within the session's time-out is an error.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import ClassVar

import trio

from registry.base import Context, RegistryError, Sink
from registry.bulk import bulk
from registry.layouts.publisher import Publisher
from registry.layouts.shape import Shape
from registry.layouts.table import Table
from registry.zookeeper.options import LAYOUTS, Options
from registry.zookeeper.session import Lost, Refused, Session, State, open_session
from registry.zookeeper.walk import Pattern, Tree, Walk

__all__ = ["Line", "Options", "ZookeeperBackend"]


class ZookeeperBackend:
    """See the module's text. What was read is kept between runs."""

    kind: ClassVar[str] = "zookeeper"
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options, context: Context) -> None:
        """Raises ValueError."""
        if not 1 <= options.session_timeout <= 300:
            raise ValueError("session_timeout must be 1s to 5m")
        if (options.username is None) != (options.password_file is None):
            raise ValueError("`username` and `password_file` belong together")
        if options.username is not None and ":" in options.username:
            raise ValueError("`username` must not have a colon")
        self._options = options
        self._context = context
        layout = LAYOUTS[options.layout]
        path = layout.prefix if options.path is None else options.path
        shape = Shape(
            namespace=options.namespace,
            port=options.port,
            protocol=options.protocol,
            services=options.services,
        )
        self._tree = Tree(Pattern.of(path), layout, Table(layout, shape, f"{context.name} {path}"))
        self._told_missing = False
        """The supervisor knows that the path is not there."""
        self.connections = 0
        self.interruptions = 0
        """Connections that were made and lost, for tests."""

    async def run(self, sink: Sink) -> None:
        """See :class:`registry.base.Backend`."""
        failures: list[RegistryError] = []
        line = Line()
        async with (
            self.connect(line, self._options.session_timeout) as session,
            trio.open_nursery() as nursery,
        ):
            run = _Run(self, session, line, Publisher(sink, self._tree.table))

            async def guarded(part: Callable[[], Awaitable[None]]) -> None:
                try:
                    await part()
                except RegistryError as error:
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            line.listen(run.connection)
            for part in (run.keep_connected, run.publish, run.stay_alive):
                nursery.start_soon(guarded, part)
            for _ in range(self._options.requests):
                nursery.start_soon(guarded, run.walk.work)
        if failures:
            raise failures[0]

    @asynccontextmanager
    async def connect(self, line: Line, timeout: float) -> AsyncIterator[Session]:
        """A session of the ensemble that times out after so many seconds, with credentials as they
        are in their files now; ``line`` tells its state. Raises RegistryError."""
        login = await trio.to_thread.run_sync(self._login)
        async with open_session(
            self._options.servers,
            chroot=(self._options.chroot or "").rstrip("/"),
            login=login,
            timeout=timeout,
            mark=self._context.mark,
            on_state=line.set,
        ) as session:
            yield session

    def _login(self) -> tuple[str, str] | None:
        """Raises RegistryError. Blocks."""
        if self._options.username is None or self._options.password_file is None:
            return None
        path = os.path.join(self._context.base_dir, self._options.password_file)
        try:
            return self._options.username, Path(path).read_text().rstrip("\r\n")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "not a text"
            raise RegistryError(f"password_file {path}: {why}") from None


class Line:
    """The connection's state, to be waited for."""

    def __init__(self) -> None:
        self.state = State.LOST
        self._news = trio.Event()
        self._listener: Callable[[State], None] | None = None

    def listen(self, listener: Callable[[State], None]) -> None:
        """It is called at once with each new state, and with the present one now."""
        self._listener = listener
        listener(self.state)

    def set(self, state: State) -> None:
        self.state = state
        self._news.set()
        if self._listener is not None:
            self._listener(state)

    async def change(self) -> None:
        """Until something was said since the last time."""
        await self._news.wait()
        self._news = trio.Event()


class _Run:
    """The parts of one run."""

    def __init__(
        self, backend: ZookeeperBackend, session: Session, line: Line, publisher: Publisher
    ) -> None:
        self._backend = backend
        self._session = session
        self._line = line
        self._publisher = publisher
        self._patience = float(backend._options.session_timeout)
        self._walked = False
        """All has been read in this run."""
        self.walk = Walk(backend._tree, session)

    def connection(self, state: State) -> None:
        """It was made or lost. Everything is walked whenever it was made."""
        if state is State.CONNECTED:
            self._backend.connections += 1
            self.walk.begin()
        else:
            self._backend.interruptions += state is State.SUSPENDED
            self.walk.stop()

    async def keep_connected(self) -> None:
        """Raises RegistryError when there is no connection for long."""
        while True:
            with trio.move_on_after(self._patience) as limit:
                while self._line.state is not State.CONNECTED:
                    await self._line.change()
            if limit.cancelled_caught:
                servers = ", ".join(self._backend._options.servers)
                raise RegistryError(
                    f"{servers}: no session for {self._patience:g} s"
                    f" ({self._session.trouble or 'no server has an address'})"
                )
            await self._line.change()

    async def publish(self) -> None:
        """Tells what has been read, when it is all read; later, as it comes in."""
        loading = False
        with ExitStack() as load:
            while True:
                await self.walk.news.wait()
                self.walk.news = trio.Event()
                if not self._walked and not loading:
                    loading = True
                    load.enter_context(bulk())
                if self.walk.idle and self.walk.missing:
                    self._missing()
                elif self._walked or self._complete:
                    await self._say()
                    if self._complete:
                        load.close()

    async def stay_alive(self) -> None:
        """A round trip now and then: all that happened before it has been told before its end."""
        while True:
            await trio.sleep(self._patience / 2)
            if not self._complete:
                continue
            try:
                there = await self._session.exists(self._backend._tree.pattern.root)
            except (Lost, Refused):
                continue
            if there and self._complete:
                await self._say()

    @property
    def _complete(self) -> bool:
        return self.walk.idle and not self.walk.missing

    async def _say(self) -> None:
        async with self.walk.lock:
            await self._publisher.publish()
            if self._complete:
                self._walked = True
                self._backend._told_missing = False
                await self._publisher.synced()

    def _missing(self) -> None:
        """Raises RegistryError once, so that it shows; the next run waits for the path."""
        if not self._backend._told_missing:
            self._backend._told_missing = True
            root = (self._backend._options.chroot or "").rstrip("/")
            raise RegistryError(f"there is no node {root + self._backend._tree.pattern.root}")
