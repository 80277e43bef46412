"""One check of one service: http, tcp or a command.

Each returns what is wrong, or an empty text. Nothing that a service does raises; time is limited
by the caller's deadline in :func:`perform`. Sockets carry the node's mark, so that a check reaches
the service itself whatever is intercepted. A command runs without a shell in a process group of its
own, which is killed as a whole: it leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from typing import Final

import h11
import trio

from registry.register.encode import Instance
from registry.register.options import Check

__all__ = ["OUTPUT", "perform"]

_SO_MARK: Final = 36  # asm-generic/socket.h
OUTPUT: Final = 400
"""Bytes of a command's output that are kept for the status; the rest is read and dropped."""
MAX_HEAD: Final = 65536


async def perform(check: Check, instance: Instance, mark: int) -> str:
    """What is wrong with the service now; empty if it is well."""
    if check.kind == "command":
        return await _command(check, instance)
    address = check.address or instance.address or "127.0.0.1"
    port = check.port or instance.port
    with trio.move_on_after(check.timeout) as limit:
        try:
            async with _connect(address, port, mark) as stream:
                if check.kind == "tcp":
                    return ""
                return await _http(check, stream, address, port)
        except trio.BrokenResourceError as error:
            return f"the connection broke: {error.__cause__ or error}"
        except OSError as error:
            # trio's own text repeats the address.
            return os.strerror(error.errno) if error.errno else str(error)
    assert limit.cancelled_caught
    what = "answer" if check.kind == "http" else "connection"
    return f"no {what} within {float(check.timeout):g} s"


@contextlib.asynccontextmanager
async def _connect(address: str, port: int, mark: int) -> AsyncIterator[trio.SocketStream]:
    """A trio.SocketStream, closed at once in the end: nobody waits for a good-bye."""
    sock = trio.socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
        await sock.connect((address, port))
        yield trio.SocketStream(sock)
    finally:
        sock.close()


async def _http(check: Check, stream: trio.SocketStream, address: str, port: int) -> str:
    """The head of the answer tells; its body is not read."""
    host = check.host or (f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    head = h11.Request(
        method="GET",
        target=check.path,
        headers=[
            ("Host", host),
            ("User-Agent", "nodeproxy"),
            ("Accept", "*/*"),
            ("Connection", "close"),
        ],
    )
    await stream.send_all((http.send(head) or b"") + (http.send(h11.EndOfMessage()) or b""))
    try:
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                data = bytes(await stream.receive_some(65536))
                if not data:
                    return "the connection was closed without an answer"
                http.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
                fine = status in check.status if check.status else 200 <= status < 400
                return "" if fine else f"status {status}"
    except h11.RemoteProtocolError as error:
        return f"not an answer of HTTP/1.1: {error}"


async def _command(check: Check, instance: Instance) -> str:
    environment = {
        **os.environ,
        "NODEPROXY_SERVICE": instance.service,
        "NODEPROXY_ADDRESS": instance.address,
        "NODEPROXY_PORT": str(instance.port),
    }
    # Its credentials are its own; what systemd told us is for us.
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        environment.pop(name, None)
    try:
        # Not to be cancelled between the fork and the moment from which on it can be killed.
        with trio.CancelScope(shield=True):
            process = await trio.lowlevel.open_process(
                list(check.run),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )
    except (OSError, ValueError) as error:
        return f"{check.run[0]}: {getattr(error, 'strerror', None) or error}"
    output = _Output()
    assert process.stdout is not None
    ended = False
    try:
        with trio.move_on_after(check.timeout):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(output.read, process.stdout)
                await _end(process.pid)
                ended = True
                # What it started may hold the pipe open for ever.
                with trio.move_on_after(0.05):
                    await output.complete.wait()
                nursery.cancel_scope.cancel()
    finally:
        # Before it is waited for, its number cannot be anybody else's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()
    if not ended:
        return f"no end within {float(check.timeout):g} s{output.said()}"
    code = process.returncode
    assert code is not None
    if not code:
        return ""
    how = f"ended with {code}" if code > 0 else f"killed by signal {-code}"
    return f"{how}{output.said()}"


async def _end(pid: int) -> None:
    """Until the process has ended; it is left to be waited for."""
    descriptor = os.pidfd_open(pid)
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


class _Output:
    """The beginning of what a command prints."""

    def __init__(self) -> None:
        self.complete = trio.Event()
        self._kept = b""

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        while data := await stream.receive_some(65536):
            self._kept = (self._kept + data)[: OUTPUT + 1]
        self.complete.set()

    def said(self) -> str:
        """``: No such host``; on one line."""
        text = " ".join(self._kept[:OUTPUT].decode("utf-8", "replace").split())
        text = "".join(c for c in text if c.isprintable())
        more = "..." if len(self._kept) > OUTPUT else ""
        return f": {text}{more}" if text else ""
