"""HTTP/1.1 on a connection: requests one after the other, each an exchange with an endpoint."""

from __future__ import annotations

from time import monotonic
from typing import Final

from nodeproxy.core.errors import (
    BadRequest,
    BadResponse,
    ClientGone,
    ClientTimeout,
    ConnectFailed,
    InvalidBackend,
    ProxyError,
    RouteNotFound,
    UnresolvedFilter,
    UpstreamClosed,
    UpstreamTimeout,
)
from nodeproxy.core.http1 import (
    CHUNKED,
    COUNTED,
    UNTIL_CLOSE,
    Chunked,
    RequestHead,
    ResponseHead,
    forget_claims,
    last_hop,
    parse_request,
    response_head,
)
from nodeproxy.core.record import UNSET
from nodeproxy.core.routing.table import HttpRules, RouteTable
from nodeproxy.dataplane.answers import answer_error, answer_here, answer_raw, blame, linger, refuse
from nodeproxy.dataplane.awaiting import answer_head
from nodeproxy.dataplane.bodies import body_end, check_size, stream_body, upload, wait_for_body
from nodeproxy.dataplane.connection import Connection
from nodeproxy.dataplane.course import Course, set_out
from nodeproxy.dataplane.lane import Companion
from nodeproxy.dataplane.pump import Bytes
from nodeproxy.dataplane.stream import GONE, PEER_CLOSED, Stream
from nodeproxy.dataplane.tcp import tunnel
from nodeproxy.dataplane.upstream import Lease, Upstream

__all__ = ["serve_http"]

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110, 9.2.2."""
BY_ROUTES: Final = (RouteNotFound, InvalidBackend, UnresolvedFilter)
RETRIABLE_STATUS: Final = "retriable_status"
"""The reason of a retry after an answer."""


async def serve_http(
    connection: Connection, upstream: Upstream, data: bytes, lease: Lease | None
) -> None:
    """Serve requests until the connection ends. ``data``: bytes that were read already.
    ``lease``: an open connection for the first request."""
    node, client = connection.node, connection.client
    client.owner, client.on_idle = client.reactor.lane, _left
    try:
        while True:
            if not data:
                # An idle connection keeps nothing of its last request: there are many.
                head, given, started = None, None, 0.0
                data = await client.recv(node.settings.keep_alive_timeout)
                connection.idle = False
                if not data:
                    return
            started = monotonic()
            head = parse_request(data, node.limits)
            while head is None:
                seen = len(data)
                data += await _more(client, started + node.settings.header_timeout)
                if len(data) == seen:
                    return
                head = parse_request(data, node.limits, seen=seen)
            given, lease = lease, None  # from here on it is the exchange that ends it
            data, goes_on, unread = await exchange(connection, upstream, head, data, started, given)
            if not goes_on:
                if unread or data:
                    await linger(client)
                return
            connection.idle = not data
    except (BadRequest, ClientTimeout) as error:
        if data:  # else it was silent between requests, which is no error
            method = b"HEAD" if data.lstrip(b"\r\n").startswith(b"HEAD ") else b""
            await refuse(connection, upstream, started, error, method)
    except ClientGone:
        pass  # between two requests
    finally:
        if lease is not None:
            upstream.discard(lease[0], lease[1])


async def exchange(
    connection: Connection,
    upstream: Upstream,
    head: RequestHead,
    data: bytes,
    started: float,
    lease: Lease | None,
) -> tuple[bytes, bool, bool]:
    """One request and its answer.

    ``data`` begins with the request's head. Returns what the client has sent beyond the request,
    whether the connection can serve another, and whether the client may be sending what nobody
    will read. Never raises a ProxyError: the client is answered, or its connection reset where an
    answer had begun.
    """
    node, client = connection.node, connection.client
    record = connection.record(started, "HTTP/1.1" if head.minor else "HTTP/1.0", upstream)
    record.head = head
    sending: Companion[bytes | None] | None = None
    received, sent = Bytes(), Bytes()
    begun = False  # the client has been sent a byte of the answer
    goes_on = False  # the connection can serve another request
    unread = True  # the client may be sending what nobody will read
    rest = b""
    provider = upstream  # whose endpoints answer
    course: Course | None = None  # what routes say
    if lease is not None:
        record.tries = 1
    try:
        # The request, with as much of its body as has come.
        rest = data[head.end :]
        chunks = Chunked() if head.framing == CHUNKED else None
        end = 0
        if head.framing:
            end = body_end(head.framing, rest, chunks, BadRequest)
            received.value = len(rest) if end < 0 else end
            check_size(head.framing, received.value, node.settings.max_body)
        # What needs no endpoint.
        if head.method in COUNTED and (own := last_hop(head, data)) is not None:
            unread = end < 0
            keep = head.keep_alive and not unread and not node.draining
            await answer_here(connection, record, head, (200, *own), keep)
            sent.value = len(own[1])
            goes_on = keep
            return rest[max(end, 0) :], goes_on, unread
        # By the routes of the service that was dialled, if it has any.
        onward = head
        trusted = connection.trusted
        if node.routes.services and (rules := _rules(node.routes, upstream)) is not None:
            course = set_out(connection, upstream, rules, head, record)
            provider = course.provider
            if lease is not None and (provider is not upstream or course.answer is not None):
                upstream.discard(lease[0], lease[1])
                lease, record.tries = None, 0
            if course.answer is not None:
                unread = end < 0
                goes_on = await answer_raw(connection, record, head, course.answer, not unread)
                return rest[max(end, 0) :], goes_on, unread
            if end < 0 <= head.framing <= course.body_limit() and not head.expect_continue:
                rest = await wait_for_body(connection, record, head.framing, rest, received)
                end = head.framing
            if not trusted:
                forget_claims(head)  # before filters say something else
                trusted = True
            onward = course.head(head)
        request = node.onward.request(onward, connection.forwarded_for, trusted)
        if onward is not head:
            head.request_id = onward.request_id
        if head.framing:
            request += rest if end < 0 else rest[:end]
        # An endpoint, and its answer's head. A connection that was kept may have been closed
        # just now: then the request was not processed, and goes out once more on a fresh one.
        # What must not be processed twice is only sent where the kernel knows of no end yet.
        # Where routes allow retries, what failed otherwise goes out again, too.
        if course is not None and end >= 0 and not head.upgrade:
            course.copy(request, head.method)
        while True:
            try:
                if lease is None:
                    tried = () if course is None else course.tried
                    lease = await provider.lease(record, fresh=record.tries > 0, avoid=tried)
                target, stream, reused = lease
                record.upstream = target.name
                if reused and head.method not in IDEMPOTENT and stream.ended():
                    provider.discard(target, stream)
                    lease = None
                    upstream.series.retry(UpstreamClosed.reason)
                    continue
                if course is not None:
                    course.begin(target)
                await stream.send(request, node.settings.body_timeout)
                record.sent = monotonic()
                if end < 0:
                    left = head.framing - len(rest)
                    body = upload(connection, stream, record, left, chunks, received)
                    sending = Companion(client.reactor, node.lanes, body)
                response, answer = await answer_head(
                    connection, provider, stream, record, sending, received
                )
                if course is None or sending is not None or not course.again(response.status):
                    break
                provider.answered(target, response.status)
                provider.discard(target, stream)
                lease = None
                upstream.series.retry(RETRIABLE_STATUS)
                await course.pause()
            except (UpstreamClosed, UpstreamTimeout, ConnectFailed) as error:
                unseen = (
                    isinstance(error, UpstreamClosed)
                    and lease is not None
                    and lease[2]
                    and head.method in IDEMPOTENT
                )
                if sending is not None:
                    raise
                if not unseen and (course is None or not course.again(error)):
                    raise
                if lease is not None:
                    if not unseen:
                        provider.failed(lease[0], error)
                    provider.discard(lease[0], lease[1])
                    lease = None
                upstream.series.retry(error.reason)
                if course is not None and not unseen:
                    await course.pause()
        record.responded = monotonic()
        target.series.waited.value += record.responded - record.sent
        record.status = response.status
        switched = response.status == 101  # to a protocol that the client has asked for
        # The answer, with as much of its body as has come. Where the request has not come to
        # its end yet, it may never do so, and nobody would know where the next one begins.
        keep = (
            head.keep_alive
            and response.framing != UNTIL_CLOSE
            and not switched
            and not node.draining
            and (sending is None or sending.result is not None)
        )
        if course is not None:
            course.respond(head, response)
            if switched:
                course.end_limits()
        via = node.onward.answer_via
        if response.clean and keep and via is None:
            out = answer
        else:
            extra = b"" if via is None else via[response.minor]
            close = not keep and not switched
            out = response_head(response, close=close, extra=extra) + answer[response.end :]
        have = len(answer) - response.end
        surplus = b""
        begun = True
        if have == response.framing or switched:
            sent.value = have
            await client.send(out, provider.policy.body_timeout)
        else:
            timeout = provider.policy.body_timeout
            surplus = await _long_answer(stream, client, response, have, out, timeout, sent)
        provider.answered(target, response.status)
        # What remains of both connections.
        unread = sending is not None and sending.result is None
        if switched:
            await tunnel(connection, stream, record, rest, received, sent)
            rest = b""
        elif response.keep_alive and not unread and not surplus:
            provider.checkin(target, stream)
            lease = None
        rest = rest[end:] if sending is None else sending.result or b""
        goes_on = keep
    except ProxyError as error:
        if course is not None:
            course.end_limits()
        blame(record, error)
        if lease is not None:
            if not isinstance(error, (ClientGone, ClientTimeout, BadRequest)):
                provider.failed(lease[0], error)
            elif record.responded != UNSET and record.status < 500:
                provider.succeeded(lease[0])
        if begun:
            client.reset()  # an orderly end could be taken for a complete answer
        elif not isinstance(error, ClientGone):
            if sending is not None:
                sending.cancel()
            # What routes refuse is no fault of the connection.
            if isinstance(error, BY_ROUTES) and end >= 0 and head.keep_alive and not node.draining:
                goes_on, unread, rest = True, False, rest[end:]
            await answer_error(connection, error, head.method, keep=goes_on)
    finally:
        if course is not None:
            course.end_limits()
        if sending is not None:
            sending.cancel()
        if lease is not None:
            provider.discard(lease[0], lease[1])
        record.bytes_received, record.bytes_sent = received.value, sent.value
        record.ended = monotonic()
        node.emit(record, upstream.series)
    return rest, goes_on, unread


def _rules(routes: RouteTable, upstream: Upstream) -> HttpRules | None:
    """What HTTPRoutes say of a service port. Of which namespace the client is nobody knows yet, so
    consumers' routes do not apply."""
    found = routes.find(upstream.service.name, upstream.port.port)
    return None if found is None else found.http


async def _long_answer(
    stream: Stream,
    client: Stream,
    response: ResponseHead,
    have: int,
    out: bytes,
    timeout: float,
    sent: Bytes,
) -> bytes:
    """Send on an answer whose body has not come whole, or is more than that. ``out`` ends with the
    ``have`` bytes after the head. Returns what the endpoint sent beyond the answer."""
    framing = response.framing
    begin = len(out) - have
    chunks = Chunked() if framing == CHUNKED else None
    cut = body_end(framing, out[begin:], chunks, BadResponse)
    if cut >= 0:
        sent.value = cut
        await client.send(out[: begin + cut], timeout)
        return out[begin + cut :]
    sent.value = have
    await client.send(out, timeout)
    return await stream_body(stream, client, framing - have, chunks, timeout, sent)


async def _more(client: Stream, until: float) -> bytes:
    """More of a head that has to be complete at ``until``; empty: the client has closed."""
    return await client.recv(max(0.0, until - monotonic()))


def _left(client: Stream, events: int) -> None:
    """The client closed while its answer was awaited: whoever works for it may stop.

    A client that only ends its own sending looks the same, and is treated the same, as other
    proxies do: nobody would answer those who left if it were not.
    """
    if events & (GONE | PEER_CLOSED):
        client.tell_owner("the client closed before it was answered")
