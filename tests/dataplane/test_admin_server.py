"""The admin server on real sockets: what clients may do to it, and whose socket it is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from nodeproxy.admin.client import AdminError, Client, NoDaemon
from nodeproxy.admin.messages import Request, Response
from nodeproxy.admin.server import Limits, serve
from nodeproxy.admin.sockets import SocketBusy, tcp_listener, unix_listener

QUICK = Limits(head=2048, body=1000, connections=8, idle=5, read=0.3, handle=5, write=0.5)
DEADLINE = 10.0


async def echo(request: Request) -> Response:
    if request.path == "/boom":
        raise RuntimeError("on purpose")
    if request.path == "/forever":
        return Response(200, endless())
    if request.path == "/broken":
        return Response(200, breaking())
    return Response(200, f"{request.method} {request.path} {len(request.body)}".encode())


closed: list[str] = []


def endless() -> Iterator[bytes]:
    try:
        while True:
            yield b"x" * 65536
    finally:
        closed.append("endless")


async def breaking() -> AsyncIterator[bytes]:
    yield b"half"
    raise RuntimeError("on purpose")


@contextlib.asynccontextmanager
async def serving(path: Path, limits: Limits = QUICK, handler: Any = echo) -> AsyncIterator[Any]:
    with unix_listener(path) as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: _serve(listener, handler, limits, task_status))

            async def connect() -> trio.SocketStream:
                return await trio.open_unix_socket(path)

            yield connect
            nursery.cancel_scope.cancel()


async def _serve(listener: Any, handler: Any, limits: Limits, task_status: Any) -> None:
    await serve([listener], handler, limits=limits, task_status=task_status)


async def read_all(stream: trio.SocketStream) -> bytes:
    data = b""
    with trio.fail_after(DEADLINE):
        while more := await stream.receive_some(65536):
            data += more
    return data


async def read_until(stream: trio.SocketStream, end: bytes) -> bytes:
    data = b""
    with trio.fail_after(DEADLINE):
        while not data.endswith(end):
            more = await stream.receive_some(65536)
            assert more, data
            data += more
    return data


async def alive(connect: Any) -> bool:
    stream = await connect()
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(b"GET /alive HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return (await read_all(stream)).endswith(b"GET /alive 0")


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(DEADLINE):
        while not condition():
            await trio.lowlevel.checkpoint()


def head(data: bytes) -> tuple[int, dict[str, Any]]:
    lines, _, body = data.partition(b"\r\n\r\n")
    return int(lines.split()[1]), json.loads(body)


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as connect:
        stream = await connect()
        async with stream:
            await stream.send_all(
                b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
                b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
                b"HEAD /c HTTP/1.1\r\nHost: x\r\n\r\n"
                b"GET /d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )
            data = await read_all(stream)
        places = [data.index(part) for part in (b"GET /a 0", b"POST /b 3", b"GET /d 0")]
        assert places == sorted(places)
        assert data.count(b"HTTP/1.1 200") == 4
        assert b"/c" not in data


async def test_a_request_in_single_bytes_and_keep_alive(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", Limits(read=DEADLINE)) as connect:
        stream = await connect()
        async with stream:
            for _ in range(2):
                for byte in b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n":
                    await stream.send_all(bytes([byte]))
                await read_until(stream, b"GET /slow 0")


async def test_expect_continue(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as connect:
        stream = await connect()
        async with stream:
            await stream.send_all(
                b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
            )
            assert (await read_until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            await stream.send_all(b"ab")
            await read_until(stream, b"POST /b 2")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 300_000, 431),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n" + b"b" * 5000, 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: never comes", 408),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf", 408),
        (b"GET /boom HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 500),
    ],
)
async def test_errors_are_json_and_end_nothing_else(
    tmp_path: Path, sent: bytes, status: int
) -> None:
    async with serving(tmp_path / "s") as connect:
        stream = await connect()
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(sent)
            found, body = head(await read_all(stream))
        assert found == status
        assert body["error"]
        assert await alive(connect)


async def test_a_client_that_leaves_or_does_not_read_costs_a_bounded_time(tmp_path: Path) -> None:
    closed.clear()
    async with serving(tmp_path / "s") as connect:
        gone = await connect()
        await gone.send_all(b"GET /forever HTTP/1.1\r\nHost: x\r\n\r\n")
        await gone.receive_some(100)
        await gone.aclose()
        deaf = await connect()
        await deaf.send_all(b"GET /forever HTTP/1.1\r\nHost: x\r\n\r\n")
        half = await connect()
        await half.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab")
        await half.aclose()
        # Both generators are ended, and not left to the collector.
        await until(lambda: len(closed) == 2)
        assert await alive(connect)
        await deaf.aclose()


async def test_an_answer_that_breaks_midway_is_never_whole(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as connect:
        stream = await connect()
        async with stream:
            await stream.send_all(b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n")
            data = await read_all(stream)
        assert b"half" in data
        assert not data.endswith(b"0\r\n\r\n")  # the last chunk never came
        assert await alive(connect)


async def test_too_many_connections_are_refused_and_recover(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as connect:
        idle = [await connect() for _ in range(QUICK.connections)]
        for stream in idle:  # each is being served before the next one comes
            await stream.send_all(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            await read_until(stream, b"GET /x 0")
        extra = await connect()
        async with extra:
            status, body = head(await read_all(extra))
        assert status == 503
        assert "too many" in body["error"]
        for stream in idle:
            await stream.aclose()
        with trio.fail_after(DEADLINE):
            while not await alive(connect):
                await trio.lowlevel.checkpoint()


async def test_slices_let_the_loop_breathe(tmp_path: Path) -> None:
    turns = 0
    seen: list[int] = []

    def body() -> Iterator[bytes]:
        for _ in range(50):
            seen.append(turns)
            yield b"x"

    async def handler(request: Request) -> Response:
        return Response(200, body())

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with serving(tmp_path / "s", handler=handler) as connect, trio.open_nursery() as nursery:
        nursery.start_soon(other)
        stream = await connect()
        async with stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await read_all(stream)
        nursery.cancel_scope.cancel()
    # Another task ran between any two slices.
    assert len(set(seen)) == 50


async def test_tcp_listener_serves_http_clients(tmp_path: Path) -> None:
    listener = tcp_listener("127.0.0.1", 0)
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: _serve(listener, echo, QUICK, task_status))
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/metrics")
            assert answer.text == "GET /metrics 0"
        with pytest.raises(SocketBusy, match=f"127.0.0.1:{port} is taken"):
            tcp_listener("127.0.0.1", port)
        nursery.cancel_scope.cancel()


# --- whose socket it is ---------------------------------------------------------------------


def test_socket_is_private_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "made" / "too" / "admin.sock"
    with unix_listener(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_ISSOCK(path.stat().st_mode)
    assert list(path.parent.iterdir()) == []


def test_a_living_daemons_socket_is_never_taken(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with unix_listener(path):
        before = path.stat().st_ino
        with pytest.raises(SocketBusy, match="another nodeproxy serves"), unix_listener(path):
            pass
        assert path.stat().st_ino == before
    with unix_listener(path):
        pass


def test_a_foreign_living_socket_is_not_taken_either(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as foreign:
        foreign.bind(str(path))
        foreign.listen(0)
        with pytest.raises(SocketBusy), unix_listener(path):
            pass
        # Also not when its backlog is full, which looks like nobody at all.
        with contextlib.ExitStack() as clients:
            full = False
            while not full:
                client = clients.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                client.setblocking(False)
                full = client.connect_ex(str(path)) != 0
            with pytest.raises(SocketBusy), unix_listener(path):
                pass
    with unix_listener(path):  # now it is a dead one's
        assert path.exists()


def test_the_socket_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    program = (
        "import sys; from nodeproxy.admin.sockets import unix_listener\n"
        "with unix_listener(sys.argv[1]): print('up', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(SocketBusy), unix_listener(path):  # it hangs, but it lives
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)
        assert path.exists()
    with pytest.raises(NoDaemon, match="left behind"), Client(path) as client:
        client.status()
    with unix_listener(path) as listener:
        assert listener.socket.fileno() > 0
    assert not path.exists()


def test_what_is_no_socket_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="not a socket"), unix_listener(path):
        pass
    assert path.read_text() == "mine"


def test_another_socket_in_our_place_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with unix_listener(path):
        path.unlink()
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"


def test_a_path_that_is_too_long_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="103 bytes"), unix_listener(tmp_path / ("x" * 120)):
        pass


def test_client_says_when_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="no socket") as caught, Client(tmp_path / "s") as client:
        client.status()
    assert "systemctl status nodeproxy" in caught.value.hint
    assert "--socket" in caught.value.hint


async def test_client_reads_errors_of_the_daemon(tmp_path: Path) -> None:
    async def handler(request: Request) -> Response:
        return Response(404, b'{"error": "no", "hint": "do"}')

    def ask() -> AdminError:
        with pytest.raises(AdminError) as caught, Client(tmp_path / "s") as client:
            client.status()
        return caught.value

    async with serving(tmp_path / "s", handler=handler):
        error = await trio.to_thread.run_sync(ask)
    assert (str(error), error.hint, error.status) == ("no", "do", 404)
