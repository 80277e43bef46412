"""A small HTTP/1.1 server for fakes of registries, in memory and on loopback.

A fake says what a request gets (:meth:`HttpFake.handle`); faults are the test's to set: ``stop``
and ``start`` (on the port of before), ``freeze``, ``cut`` an answer after any number of bytes,
``scripted`` answers in place of what requests deserve.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import trio


class Request(NamedTuple):
    method: str
    path: str
    params: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes

    def param(self, name: str, default: str = "") -> str:
        return dict(self.params).get(name, default)


class Reply(NamedTuple):
    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class _Cut(Exception):
    """The connection was cut by the test's wish."""


class HttpFake:
    """Everything public may be called and set by a test at any moment."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[Request] = []
        self.connections = 0
        self.most_connections = 0
        self.scripted: deque[Reply] = deque()
        """Instead of what the next requests deserve."""
        self.cut: int | None = None
        """Bytes of the next answer after which its connection is cut, once."""
        self._news = trio.Event()
        self._thawed = trio.Event()
        self._thawed.set()
        self._scope: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None

    async def handle(self, request: Request) -> Reply:
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tell(self) -> None:
        """Something changed: wake those who wait in :meth:`changed`."""
        self._news.set()
        self._news = trio.Event()

    async def changed(self) -> None:
        await self._news.wait()

    async def asked(self, count: int) -> None:
        """Until there have been so many requests."""
        with trio.fail_after(20):
            while len(self.requests) < count:
                await self.changed()

    # --- life ---

    def freeze(self) -> None:
        """Connections are taken, and nothing is ever said."""
        self._thawed = trio.Event()

    def thaw(self) -> None:
        self._thawed.set()

    async def start(self) -> None:
        assert self._nursery is not None
        if self._scope is None:
            listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
            self.port = listeners[0].socket.getsockname()[1]
            await self._nursery.start(self._serve, listeners)

    def stop(self) -> None:
        """Like kill -9."""
        if self._scope is not None:
            self._scope.cancel()
            self._scope = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self.start()
            yield self
            nursery.cancel_scope.cancel()

    async def _serve(
        self, listeners: list[trio.SocketListener], task_status: trio.TaskStatus[None]
    ) -> None:
        with trio.CancelScope() as scope:
            self._scope = scope
            task_status.started()
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, nursery)

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        async with listener:
            while True:
                stream = await listener.accept()
                nursery.start_soon(self._connection, stream)

    async def _connection(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self.most_connections = max(self.most_connections, self.connections)
        try:
            with suppress(
                trio.BrokenResourceError,
                trio.ClosedResourceError,
                h11.RemoteProtocolError,  # gone in the middle of a request
                _Cut,
            ):
                await self._talk(stream)
        finally:
            self.connections -= 1
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async def _talk(self, stream: trio.SocketStream) -> None:
        http = h11.Connection(h11.SERVER)
        head: h11.Request | None = None
        body = b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(65536)))
            elif isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                reply = await self._reply(stream, head, body)
                await self._send(http, stream, reply)
                if http.our_state is h11.MUST_CLOSE:
                    return
                http.start_next_cycle()
            else:
                return

    async def _reply(self, stream: trio.SocketStream, head: h11.Request, body: bytes) -> Reply:
        await self._thawed.wait()
        parts = urlsplit(head.target.decode())
        request = Request(
            head.method.decode(),
            unquote(parts.path),
            parse_qsl(parts.query, keep_blank_values=True),
            {k.decode(): v.decode() for k, v in head.headers},
            body,
        )
        self.requests.append(request)
        self.tell()
        if self.scripted:
            return self.scripted.popleft()
        replies: list[Reply] = []
        async with trio.open_nursery() as nursery:
            # A client that goes away while it waits is noticed, as by a real server.
            nursery.start_soon(self._watch, stream, nursery)
            replies.append(await self.handle(request))
            nursery.cancel_scope.cancel()
        if not replies:
            raise _Cut
        await self._thawed.wait()
        return replies[0]

    async def _watch(self, stream: trio.SocketStream, nursery: trio.Nursery) -> None:
        await trio.lowlevel.wait_readable(stream.socket)
        nursery.cancel_scope.cancel()

    async def _send(self, http: h11.Connection, stream: trio.SocketStream, reply: Reply) -> None:
        headers = [("content-length", str(len(reply.body))), *reply.headers]
        wire = http.send(h11.Response(status_code=reply.status, headers=headers)) or b""
        if reply.body:
            wire += http.send(h11.Data(data=reply.body)) or b""
        wire += http.send(h11.EndOfMessage()) or b""
        if self.cut is not None:
            cut, self.cut = self.cut, None
            await stream.send_all(wire[:cut])
            raise _Cut
        await stream.send_all(wire)
