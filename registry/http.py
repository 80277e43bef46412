"""HTTP clients for back ends: httpx on trio, whose sockets carry the node's mark.

A registry is often reached through a service address, which this very node intercepts. The mark
makes iptables leave our own connections alone; it has to be set before a socket connects, and
httpx's ``socket_options`` are set after. So the connection pool is given a network back end of our
own. This is the only file that knows how httpx is built inside.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Mapping
from typing import Any, Final

import httpcore
import httpx
import trio
from httpcore._backends.trio import TrioStream

from registry.base import RegistryError

__all__ = ["client", "failed"]

_SO_MARK: Final = 36  # asm-generic/socket.h
KEEP_ALIVE: Final = 60.0
"""Seconds that an idle connection to a registry is kept."""


def client(
    *,
    mark: int = 0,
    base_url: str = "",
    unix_socket: str = "",
    tls: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
    auth: httpx.Auth | None = None,
    connect_timeout: float = 5.0,
    read_timeout: float | None = 30.0,
) -> httpx.AsyncClient:
    """A client for one registry; use it as an async context manager.

    ``mark``: of :class:`registry.base.Context`; needs CAP_NET_ADMIN if it is not 0. ``tls``: None
    for the system's trust store. ``read_timeout``: seconds without a byte, None for streams that
    may be silent. Environment variables that name proxies are not looked at: a node's way to
    its registry is configured, not inherited.
    """
    # What httpx and httpcore are given is never used: reading the trust store takes 50 ms, so
    # it is done in a thread, and not before a connection wants it (_Stream.start_tls).
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    transport = httpx.AsyncHTTPTransport(verify=bare, trust_env=False)
    transport._pool = httpcore.AsyncConnectionPool(
        ssl_context=bare,
        max_connections=100,
        max_keepalive_connections=20,
        keepalive_expiry=KEEP_ALIVE,
        network_backend=_Marked(mark, unix_socket, _Trust(tls)),
    )
    return httpx.AsyncClient(
        transport=transport,
        base_url=base_url,
        headers=dict(headers or {}),
        auth=auth,
        timeout=httpx.Timeout(read_timeout, connect=connect_timeout, pool=connect_timeout),
        trust_env=False,
    )


def failed(doing: str, error: httpx.HTTPError | httpx.InvalidURL) -> RegistryError:
    """What an operator reads when a request failed: what was tried, and how it ended."""
    detail = type(error).__name__
    cause: BaseException | None = error
    # httpcore's errors are often silent; what TLS or the kernel said is among their causes.
    while cause is not None:
        if text := str(cause):
            detail = text
            break
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.TimeoutException):
        detail = f"no answer in time ({type(error).__name__})"
    return RegistryError(f"{doing}: {detail}")


class _Trust:
    """Whose certificates are believed: as configured, else the system's trust store."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls

    async def context(self) -> ssl.SSLContext:
        """Ready for a handshake that offers HTTP/1.1."""
        if self._tls is None:
            self._tls = await trio.to_thread.run_sync(ssl.create_default_context)
        self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


class _Stream(TrioStream):
    """Closes its socket when a handshake is cancelled, which httpcore leaves to the collector."""

    def __init__(self, stream: trio.abc.Stream, trust: _Trust) -> None:
        super().__init__(stream)
        self._trust = trust

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            believed = await self._trust.context()
            return await super().start_tls(believed, server_hostname, timeout)
        except BaseException:
            await trio.aclose_forcefully(self._stream)
            raise


class _Marked(httpcore.AsyncNetworkBackend):
    """Connects as httpcore's own back end for trio does, but marks sockets first."""

    def __init__(self, mark: int, unix_socket: str, trust: _Trust) -> None:
        self._mark = mark
        self._trust = trust
        self._unix_socket = unix_socket

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        if self._unix_socket:
            return await self.connect_unix_socket(self._unix_socket, timeout)
        try:
            with trio.fail_after(float("inf") if timeout is None else timeout):
                return _Stream(trio.SocketStream(await self._connect(host, port)), self._trust)
        except trio.TooSlowError as error:
            raise httpcore.ConnectTimeout(f"{host}:{port}: no connection in time") from error
        except OSError as error:
            raise httpcore.ConnectError(f"{host}:{port}: {error}") from error

    async def _connect(self, host: str, port: int) -> trio.socket.SocketType:
        """The first address of the name that takes a connection."""
        last: OSError | None = None
        for family, kind, protocol, _, address in await trio.socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            sock = trio.socket.socket(family, kind, protocol)
            try:
                if self._mark:
                    sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, self._mark)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await sock.connect(address)
            except OSError as error:
                sock.close()
                last = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise last or OSError(f"{host} has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            with trio.fail_after(float("inf") if timeout is None else timeout):
                return _Stream(await trio.open_unix_socket(path), self._trust)
        except trio.TooSlowError as error:
            raise httpcore.ConnectTimeout(f"{path}: no connection in time") from error
        except OSError as error:
            raise httpcore.ConnectError(f"{path}: {error}") from error

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)
