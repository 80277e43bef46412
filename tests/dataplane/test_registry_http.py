"""Clients of registries: marked before they connect, and plain about what failed."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from registry.base import RegistryError
from registry.http import client, failed

SO_MARK = 36
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def _answer(stream: trio.SocketStream) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive_some(4096)
    await stream.send_all(ANSWER)


@asynccontextmanager
async def _server() -> AsyncIterator[int]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, _answer, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_sockets_are_marked_before_they_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    connect = trio.socket.SocketType.connect
    made = trio.socket.socket

    def watched(*args: object) -> trio.socket.SocketType:
        sock = made(*args)  # type: ignore[arg-type]
        original = sock.connect

        async def noted(address: object) -> None:
            seen.append(("connect", sock.getsockopt(socket.SOL_SOCKET, SO_MARK)))
            await original(address)

        monkeypatch.setattr(sock, "connect", noted, raising=False)
        return sock

    assert connect is not None
    async with _server() as port:
        monkeypatch.setattr("registry.http.trio.socket.socket", watched)
        async with client(mark=0x4E500000, base_url=f"http://127.0.0.1:{port}") as http:
            assert (await http.get("/")).text == "ok"
    assert seen == [("connect", 0x4E500000)]


async def test_unix_sockets_are_reached(tmp_path: object) -> None:
    path = f"{tmp_path}/registry.sock"
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(path)
    sock.listen(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, _answer, [trio.SocketListener(sock)])
        async with client(unix_socket=path, base_url="http://registry") as http:
            assert (await http.get("/x")).status_code == 200
        nursery.cancel_scope.cancel()


async def test_failures_name_what_was_tried() -> None:
    async with client(base_url="http://127.0.0.1:9", connect_timeout=2) as http:
        with pytest.raises(httpx.ConnectError) as caught:
            await http.get("/v1")
    error = failed("reading http://127.0.0.1:9/v1", caught.value)
    assert isinstance(error, RegistryError)
    assert str(error).startswith("reading http://127.0.0.1:9/v1: 127.0.0.1:9: ")


async def test_a_silent_registry_is_a_time_out() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with listener, client(base_url=url, read_timeout=0.05) as http:
        with pytest.raises(httpx.ReadTimeout) as caught:
            await http.get("/")
    assert str(failed("reading", caught.value)) == "reading: no answer in time (ReadTimeout)"
