"""A ZooKeeper session of kazoo's, as a trio program uses it.

kazoo runs its connection in one thread of its own. Requests are put into its queue, which does not
block; their answers, watch events and changes of state come back by the trio token. Nothing of
kazoo's runs on the loop for longer than that. This is the only file that knows kazoo.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import kazoo.client
import kazoo.exceptions
import trio
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.serialization import CloseInstance
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, READ_ACL_UNSAFE

from registry.base import RegistryError

__all__ = ["Gone", "Lost", "Refused", "Session", "State", "Taken", "open_session"]

_SO_MARK: Final = 36  # asm-generic/socket.h

# kazoo logs sessions' passwords at its lowest level, and every reconnection as a warning: what
# matters of it is this registry's state and error.
_silent = logging.getLogger("registry.zookeeper.kazoo")
_silent.propagate = False
_silent.setLevel(logging.CRITICAL + 1)
_silent.addHandler(logging.NullHandler())


_LOST: Final = (
    kazoo.exceptions.ConnectionLoss,
    kazoo.exceptions.ConnectionClosedError,
    kazoo.exceptions.SessionExpiredError,
    kazoo.exceptions.SessionMovedError,
    kazoo.exceptions.AuthFailedError,
)


class Gone(Exception):
    """There is no such node."""


class Taken(Exception):
    """There is such a node already."""


class Lost(Exception):
    """The connection was lost meanwhile. All watches are gone."""


class Refused(Exception):
    """The server does not allow it."""


class State(enum.Enum):
    """Of the connection, as kazoo tells it."""

    CONNECTED = "CONNECTED"
    SUSPENDED = "SUSPENDED"
    LOST = "LOST"


class Session:
    """Made by :func:`open_session`. All methods are the loop's."""

    def __init__(self, client: Any, handler: _Handler, on_state: Callable[[State], None]) -> None:
        self._client = client
        self._handler = handler
        self._token = trio.lowlevel.current_trio_token()
        self._on_state = on_state
        self.closed = False
        client.add_listener(self._listen)

    async def get(self, path: str, changed: Callable[[], None]) -> bytes:
        """A node's value; ``changed`` is called once, when it changes or the node goes away.
        Raises Gone, Lost, Refused."""
        value, _ = await self._ask(self._client.get_async, path, watch=self._watcher(changed))
        return bytes(value)

    async def children(self, path: str, changed: Callable[[], None]) -> list[str]:
        """A node's children, in no order; ``changed`` as in :meth:`get`."""
        answer: list[str] = await self._ask(
            self._client.get_children_async, path, watch=self._watcher(changed)
        )
        return answer

    async def exists(self, path: str, changed: Callable[[], None] | None = None) -> bool:
        """Whether there is such a node; ``changed`` when that changes."""
        watch = None if changed is None else self._watcher(changed)
        return await self._ask(self._client.exists_async, path, watch=watch) is not None

    async def create(self, path: str, value: bytes, *, sequential: bool) -> str:
        """An ephemeral node: it goes with this session. Folders above it are made. Everybody may
        read it; where we have logged in only we may change it. Its path, which ends with a number
        if ``sequential``. Raises Taken, Lost (it may be there all the same), Refused."""
        await self._ask(self._client.ensure_path_async, path.rpartition("/")[0] or "/")
        acl = [*CREATOR_ALL_ACL, *READ_ACL_UNSAFE] if self._client.auth_data else OPEN_ACL_UNSAFE
        made: str = await self._ask(
            self._client.create_async,
            path,
            value=value,
            acl=acl,
            ephemeral=True,
            sequence=sequential,
        )
        return made

    async def delete(self, path: str) -> None:
        """Raises Gone, Lost, Refused."""
        await self._ask(self._client.delete_async, path)

    async def owned(self, path: str) -> bool:
        """Whether there is such a node, and of this session. Raises Lost, Refused."""
        stat = await self._ask(self._client.exists_async, path)
        return stat is not None and stat.ephemeralOwner == self._client.client_id[0]

    @property
    def trouble(self) -> str:
        """Why there is no session, as far as is known; empty at first."""
        return self._handler.trouble

    # --- inside ---

    async def _ask(self, function: Callable[..., Any], path: str, **more: Any) -> Any:
        done = trio.Event()
        token = self._token

        def answered(_: object) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        result = function(path, **more)
        result.rawlink(answered)
        await done.wait()
        error = result.exception
        if error is None:
            return result.value
        if isinstance(error, kazoo.exceptions.NoNodeError):
            raise Gone(path)
        if isinstance(error, kazoo.exceptions.NodeExistsError):
            raise Taken(path)
        if isinstance(error, _LOST):
            raise Lost(f"{path}: {type(error).__name__}")
        raise Refused(f"{path}: {type(error).__name__}")

    def _watcher(self, changed: Callable[[], None]) -> Callable[[Any], None]:
        def fired(event: Any) -> None:
            # Events of type NONE tell of the session, and the listener does that.
            if event.type != "NONE":
                self._soon(changed)

        return fired

    def _listen(self, state: str) -> None:
        self._soon(lambda: self._on_state(State(str(state))))

    def _soon(self, function: Callable[[], None]) -> None:
        """From kazoo's thread onto the loop, in order."""

        def run() -> None:
            if not self.closed:
                function()

        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(run)


@asynccontextmanager
async def open_session(
    servers: Sequence[str],
    *,
    chroot: str = "",
    login: tuple[str, str] | None = None,
    timeout: float = 10.0,
    mark: int = 0,
    on_state: Callable[[State], None],
) -> AsyncIterator[Session]:
    """A session that is about to connect; ``on_state`` tells when it has. Raises RegistryError
    for servers that cannot be."""
    handler = _Handler(mark)
    retry = {
        "max_tries": -1,
        "delay": 0.1,
        "backoff": 2,
        "max_delay": 1.0,
        "sleep_func": handler.sleep_func,
    }
    try:
        client = kazoo.client.KazooClient(
            hosts=",".join(servers) + chroot,
            timeout=timeout,
            handler=handler,
            auth_data=[("digest", ":".join(login))] if login else None,
            connection_retry=retry,
            logger=_silent,
        )
    except (ValueError, kazoo.exceptions.KazooException) as error:
        raise RegistryError(f"{', '.join(servers)}: {error}") from None
    session = Session(client, handler, on_state)
    client.start_async()
    try:
        yield session
    finally:
        session.closed = True
        # With its socket shut kazoo's thread ends at once, whatever the server does; only a
        # resolver may hold it longer, and then it ends by itself.
        with trio.CancelScope(deadline=trio.current_time() + 3, shield=True):
            await trio.to_thread.run_sync(_close, client, handler, abandon_on_cancel=True)


def _close(client: Any, handler: _Handler) -> None:
    """Blocks, but not for long. The session is ended in order if the server answers quickly."""
    connection = client._connection
    client._stopped.set()
    if client.connected:
        client._queue.append((CloseInstance, None))
        with contextlib.suppress(OSError):
            connection._write_sock.send(b"\0")
        connection.connection_stopped.wait(0.3)
    handler.cut()
    with contextlib.suppress(kazoo.exceptions.KazooException):
        client._safe_close()
    client.close()


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]
    """kazoo's way to threads and sockets: without threads for callbacks, as ours only hand over to
    the loop, and with sockets that are marked before they connect and can be cut."""

    def __init__(self, mark: int) -> None:
        super().__init__()
        self.trouble = ""
        """Why the last connection was not made."""
        self._mark = mark
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._cut = False

    def start(self) -> None:
        """While this handler is not "running", kazoo calls callbacks itself."""

    def stop(self) -> None:
        pass

    def dispatch_callback(self, callback: Any) -> None:
        callback.func(*callback.args)

    def create_connection(
        self, address: tuple[str, int], hostname: str = "", timeout: float = 10.0, **_: Any
    ) -> socket.socket:
        host, port = address
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            if self._mark:
                sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, self._mark)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(timeout)
            with self._lock:
                if self._cut:
                    raise OSError("closed")
                self._sock = sock
            sock.connect((host, port))
        except OSError as error:
            sock.close()
            self.trouble = f"{hostname or host}:{port}: {error.strerror or error}"
            raise
        self.trouble = f"{hostname or host}:{port}: no answer"
        return sock

    def cut(self) -> None:
        """No connection any more, now and later."""
        with self._lock:
            self._cut = True
            if self._sock is not None:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)
