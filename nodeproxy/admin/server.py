"""A small HTTP/1.1 server: h11 over trio, for the admin socket and the metrics port.

It has few clients, which are all local, and it must never harm the traffic that runs on the
same loop: heads, bodies, times and the number of connections are bounded, long answers are
sent in slices with a checkpoint after each, and whatever a client does ends with its own
connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, Sequence
from http import HTTPStatus
from typing import Any

import h11
import msgspec
import structlog
import trio

from nodeproxy.admin.messages import BadTarget, Handler, Response, error, request

__all__ = ["Limits", "serve"]

log: Any = structlog.get_logger("nodeproxy.admin")

_READ = 16 * 1024
_LINGER = 1.0


class Limits(msgspec.Struct, frozen=True):
    """Bounds on what one client may cost. Sizes in bytes, times in seconds."""

    head: int = 32 * 1024
    body: int = 64 * 1024
    connections: int = 64
    idle: float = 120.0
    """Between two requests of a connection."""
    read: float = 10.0
    """From the first byte of a request to the last byte of its body."""
    handle: float = 60.0
    """Until the handler has decided on its answer."""
    write: float = 15.0
    """For each slice of an answer."""


async def serve(
    listeners: Sequence[trio.SocketListener],
    handler: Handler,
    *,
    limits: Limits | None = None,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests until cancelled. Closes the listeners at the end.

    An exception of the handler is logged and answered with 500; it ends nothing else.
    """
    bounds = limits or Limits()
    places = trio.CapacityLimiter(bounds.connections)

    async def connection(stream: trio.SocketStream) -> None:
        client = _Connection(stream, handler, bounds)
        try:
            try:
                places.acquire_nowait()
            except trio.WouldBlock:
                await client.refuse(503, "too many connections to this socket at once")
                return
            try:
                await client.run()
            finally:
                places.release()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the client left or does not read: nobody is there to be told
        except Exception:
            log.exception("admin connection failed")
        finally:
            # A graceful close would wait for nothing here; close at once, also when cancelled.
            await trio.aclose_forcefully(stream)

    await trio.serve_listeners(connection, list(listeners), task_status=task_status)


class _Refused(Exception):
    """The request cannot be read; the connection ends after this answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Connection:
    """One client, from its first byte to the last."""

    def __init__(self, stream: trio.SocketStream, handler: Handler, limits: Limits) -> None:
        self.stream = stream
        self.handler = handler
        self.limits = limits
        self.protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head)

    async def run(self) -> None:
        while await self._ready():
            try:
                received = await self._request()
            except _Refused as refused:
                await self.refuse(refused.status, str(refused))
                return
            if received is None:
                return
            head, body = received
            await self._answer(head, await self._handled(head, body))
            if self.protocol.our_state is not h11.DONE:
                return
            self.protocol.start_next_cycle()

    async def _ready(self) -> bool:
        """Wait for the first byte of a request; False when the client has gone or is idle."""
        if self.protocol.trailing_data[0]:
            return True
        with trio.move_on_after(self.limits.idle):
            data = await self.stream.receive_some(_READ)
            self.protocol.receive_data(data)
            return bool(data)
        return False

    async def _request(self) -> tuple[h11.Request, bytes] | None:
        """The next request, or None when the client left before it was complete."""
        body = bytearray()
        try:
            with trio.fail_after(self.limits.read):
                head = await self._event()
                if not isinstance(head, h11.Request):
                    return None
                while isinstance(part := await self._event(), h11.Data):
                    body += part.data
                    if len(body) > self.limits.body:
                        raise _Refused(413, f"the body exceeds {self.limits.body} bytes")
        except trio.TooSlowError:
            raise _Refused(408, f"no complete request within {self.limits.read:g} s") from None
        except h11.RemoteProtocolError as exc:
            raise _Refused(exc.error_status_hint, str(exc)) from None
        return head, bytes(body)

    async def _event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self.protocol.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # h11 types its sentinels loosely
            if self.protocol.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            data = await self.stream.receive_some(_READ)
            self.protocol.receive_data(data)

    async def _handled(self, head: h11.Request, body: bytes) -> Response:
        try:
            # A HEAD request is a GET whose body stays here.
            method = "GET" if head.method == b"HEAD" else head.method.decode("ascii")
            asked = request(method, head.target.decode("ascii"), body)
        except (BadTarget, UnicodeDecodeError) as exc:
            return error(400, str(exc))
        try:
            with trio.fail_after(self.limits.handle):
                return await self.handler(asked)
        except trio.TooSlowError:
            log.warning("admin request took too long", path=asked.path)
            return error(503, f"no answer to {asked.path} within {self.limits.handle:g} s")
        except Exception as exc:
            log.exception("admin request failed", path=asked.path)
            return error(500, f"{type(exc).__name__}: {exc}", "the daemon's log has the traceback")

    async def _answer(self, head: h11.Request, response: Response) -> None:
        body = response.body
        headers = [("content-type", response.content_type), ("cache-control", "no-store")]
        headers += response.headers
        if isinstance(body, bytes):
            headers.append(("content-length", str(len(body))))
        await self._send(h11.Response(**_status(response.status), headers=headers))
        try:
            if head.method == b"HEAD":
                pass
            elif isinstance(body, bytes):
                await self._send(h11.Data(data=body))
            elif isinstance(body, AsyncIterable):
                async for piece in body:
                    await self._send(h11.Data(data=piece))
            else:
                for piece in body:
                    await self._send(h11.Data(data=piece))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            raise
        except Exception:
            # Half of the answer is out: only an aborted connection can say that it is not whole.
            log.exception("admin answer failed midway", target=head.target.decode("ascii"))
            self.protocol.send_failed()
            return
        finally:
            await _close(body)
        await self._send(h11.EndOfMessage())

    async def refuse(self, status: int, message: str) -> None:
        """Answer a request that was not (completely) read, and let the client read that."""
        response = error(status, message)
        assert isinstance(response.body, bytes)
        if self.protocol.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [
                ("content-type", response.content_type),
                ("content-length", str(len(response.body))),
                ("connection", "close"),
            ]
            await self._send(h11.Response(**_status(status), headers=headers))
            await self._send(h11.Data(data=response.body))
            await self._send(h11.EndOfMessage())
        # Closing with unread input resets the connection, which may destroy the answer in
        # flight: tell that no more comes, and discard what the client still sends for a moment.
        with trio.move_on_after(_LINGER):
            await self.stream.send_eof()
            while await self.stream.receive_some(_READ):
                pass

    async def _send(self, event: h11.Event) -> None:
        data = self.protocol.send(event)
        if data:
            with trio.fail_after(self.limits.write):
                await self.stream.send_all(data)
        await trio.lowlevel.checkpoint()


def _status(code: int) -> dict[str, Any]:
    try:
        reason = HTTPStatus(code).phrase
    except ValueError:
        reason = ""
    return {"status_code": code, "reason": reason.encode("ascii")}


async def _close(body: object) -> None:
    """End an abandoned generator now, not when the collector finds it."""
    if hasattr(body, "aclose"):
        deadline = trio.current_time() + 1
        with trio.CancelScope(shield=True, deadline=deadline), contextlib.suppress(Exception):
            await body.aclose()
    elif hasattr(body, "close"):
        body.close()
