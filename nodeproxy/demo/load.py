"""The demo's client: requests at a steady rate, and one JSON line for what became of each.

``python -m nodeproxy.demo.load --name pod1-1 --rate 100 10.96.0.10:80 [fd00:96::10]:80``

The rate is kept whatever the answers do (an open loop): a proxy that is dead for two seconds
must show as two seconds' worth of requests, not as one that waited. Requests go to the targets
in turn; every second round opens a connection for one request, the others keep theirs open for
a number of requests, as an HTTP client's pool does. Nothing is tried again: each line is what
an application without retries would have seen. When standard input ends, no more requests are
sent, those in flight end or time out, and a last line says how many were sent.
"""

from __future__ import annotations

import argparse
import errno
import select
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
import trio

from nodeproxy.core.destination import host_port
from nodeproxy.demo.backend import split_address

__all__ = ["Done", "Outcome", "Result", "Shape", "main", "outcome_of", "read_answer", "shape"]

Outcome = Literal["ok", "status", "refused", "reset", "closed", "timeout", "unreachable", "error"]
Address = tuple[str, int]
KEPT_FOR: Final = 20
"""Requests on one kept connection."""
MOST_IDLE: Final = 2
"""Idle connections that a client keeps to one target, as Go's client does."""
MOST_IN_FLIGHT: Final = 500
"""Requests of one client; above it, requests are skipped (and counted), not sent."""


FAILURES: Final = (OSError, trio.TooSlowError, EOFError, ValueError, msgspec.MsgspecError)


class Result(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """What became of one request. Times are of ``time.monotonic``, which all processes of a
    machine share."""

    client: str
    started: float
    ended: float
    target: str
    kept: bool
    """The client keeps connections (and may have used one that was open)."""
    outcome: Outcome
    """``reset``: by RST; ``closed``: ended by FIN before the answer was whole."""
    status: int = 0
    backend: str = ""
    via: bool = False
    """The back end saw the proxy's Via field."""
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    @property
    def seconds(self) -> float:
        return self.ended - self.started


class Done(msgspec.Struct, frozen=True, tag=True):
    """The last line: how many results there must have been."""

    client: str
    sent: int
    skipped: int


class Shape(NamedTuple):
    """What kind of request the n-th is."""

    target: int
    kept: bool


def shape(number: int, targets: int) -> Shape:
    """Each target in turn, once with a connection of its own and once with a kept one."""
    return Shape(number % targets, number // targets % 2 == 1)


def outcome_of(error: BaseException) -> Outcome:
    """What a failed connection or exchange is called."""
    match error:
        case ConnectionRefusedError():
            return "refused"
        case ConnectionResetError() | BrokenPipeError():
            return "reset"
        case trio.TooSlowError():
            return "timeout"
        case EOFError():
            return "closed"
        case OSError(errno=errno.ENETUNREACH | errno.EHOSTUNREACH):
            return "unreachable"
    return "error"


class Answer(NamedTuple):
    status: int
    backend: str
    via: bool
    reusable: bool
    """The connection stays open, and nothing follows on it."""


class _Body(msgspec.Struct):
    backend: str = ""
    via: str | None = None


def read_answer(data: bytes) -> Answer | None:
    """A whole response; None while bytes are missing. Knows only what the demo's back end and
    the proxy's own error responses need. Raises ValueError for anything else."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return None
    status_line, *lines = head.split(b"\r\n")
    fields = {
        name.strip().lower(): value.strip().lower()
        for name, _, value in (line.partition(b":") for line in lines)
    }
    if b"content-length" not in fields:
        raise ValueError("a response without Content-Length")
    length = int(fields[b"content-length"])
    if len(body) < length:
        return None
    status = int(status_line.split(b" ", 2)[1])
    content = msgspec.json.decode(body[:length], type=_Body) if status == 200 else _Body()
    return Answer(
        status=status,
        backend=content.backend,
        via="nodeproxy" in (content.via or ""),
        reusable=fields.get(b"connection") != b"close" and len(body) == length,
    )


class Connection:
    """One TCP connection and the number of requests that it has carried."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self.requests = 0

    @classmethod
    async def open(cls, address: Address) -> Connection:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def usable(self) -> bool:
        """The server has not closed it: there is nothing to read before a request."""
        return self.requests < KEPT_FOR and not select.select([self.sock], [], [], 0)[0]

    async def exchange(self, request: bytes) -> Answer:
        self.requests += 1
        await self.sock.send(request)  # small enough for every socket buffer
        data = b""
        while (answer := read_answer(data)) is None:
            piece = await self.sock.recv(65536)
            if not piece:
                raise EOFError("closed before the answer was whole")
            data += piece
        return answer


class Load:
    """One client. ``run`` returns when it was told to stop and every request has a result."""

    def __init__(self, name: str, targets: Sequence[Address], rate: float, timeout: float) -> None:
        self.name = name
        self.targets = targets
        self.rate = rate
        self.timeout = timeout
        self.stopping = False
        self.in_flight = self.sent = self.skipped = 0
        self._idle: list[list[Connection]] = [[] for _ in targets]
        self._encode = msgspec.json.Encoder().encode

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_stdin)
            began = trio.current_time()
            number = 0
            while not self.stopping:
                if self.in_flight < MOST_IN_FLIGHT:
                    self.sent += 1
                    self.in_flight += 1
                    nursery.start_soon(self._request, shape(number, len(self.targets)))
                else:
                    self.skipped += 1
                number += 1
                await trio.sleep_until(began + number / self.rate)
        self._print(Done(self.name, self.sent, self.skipped))

    async def _watch_stdin(self) -> None:
        stream = trio.lowlevel.FdStream(sys.stdin.fileno())
        while await stream.receive_some(4096):
            pass
        self.stopping = True

    async def _request(self, form: Shape) -> None:
        target = self.targets[form.target]
        started = time.monotonic()
        answer: Answer | None = None
        outcome: Outcome
        detail = ""
        try:
            with trio.fail_after(self.timeout):
                answer = await self._exchange(form)
            outcome = "ok" if answer.status == 200 else "status"
        except FAILURES as error:
            outcome, detail = outcome_of(error), str(error)
        finally:
            self.in_flight -= 1
        self._print(
            Result(
                client=self.name,
                started=started,
                ended=time.monotonic(),
                target=host_port(target),
                kept=form.kept,
                outcome=outcome,
                status=answer.status if answer else 0,
                backend=answer.backend if answer else "",
                via=answer.via if answer else False,
                detail=detail,
            )
        )

    async def _exchange(self, form: Shape) -> Answer:
        address, idle = self.targets[form.target], self._idle[form.target]
        request = (
            f"GET / HTTP/1.1\r\nHost: {host_port(address)}\r\nUser-Agent: {self.name}\r\n"
            + ("" if form.kept else "Connection: close\r\n")
            + "\r\n"
        ).encode()
        connection = None
        while form.kept and idle and connection is None:
            connection = idle.pop()
            if not connection.usable():
                connection.sock.close()
                connection = None
        if connection is None:
            connection = await Connection.open(address)
        try:
            answer = await connection.exchange(request)
        except BaseException:
            connection.sock.close()
            raise
        if form.kept and answer.reusable and len(idle) < MOST_IDLE:
            idle.append(connection)
        else:
            connection.sock.close()
        return answer

    def _print(self, value: Any) -> None:
        sys.stdout.buffer.write(self._encode(value) + b"\n")
        sys.stdout.buffer.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="nodeproxy.demo.load", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds, per request")
    parser.add_argument("targets", nargs="+", type=split_address)
    given = parser.parse_args(arguments)
    trio.run(Load(given.name, given.targets, given.rate, given.timeout).run)


if __name__ == "__main__":
    main()
