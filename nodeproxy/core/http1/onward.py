"""What one node adds to the messages that it sends on, and which claims of clients it believes.

Via (RFC 9110, 7.6.3), X-Forwarded-For and its like, Forwarded (RFC 7239), X-Request-Id, and
traceparent (W3C Trace Context).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Final

from nodeproxy.core.http1.grammar import without
from nodeproxy.core.http1.request import RequestHead, request_head

__all__ = ["Onward", "forget_claims"]

_CLAIMS: Final = frozenset(
    b"forwarded x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-prefix"
    b" x-forwarded-proto x-real-ip".split()
)
"""Fields in which earlier hops say for whom they ask."""
CLIENTS: Final = 4096
"""Addresses for which the end of a head is kept."""
_TRACESTATE: Final = frozenset((b"tracestate",))


class Onward:
    """Writes the heads of the requests that go on. One for a node.

    ``via``, ``via_answers``: say that we were there, upstream and downstream. ``request_id``: give
    an X-Request-Id to requests without one. ``traceparent``: begin a trace for requests without
    one. ``random``: so many random bits.
    """

    __slots__ = (
        "_counter",
        "_ends",
        "_id",
        "_random",
        "_short",
        "_traces",
        "_via",
        "_via_id",
        "answer_via",
    )

    def __init__(
        self,
        *,
        via: bool,
        via_answers: bool,
        request_id: bool,
        traceparent: bool,
        random: Callable[[int], int],
    ) -> None:
        # By the minor version of the message that came in.
        lines = (b"Via: 1.0 nodeproxy\r\n", b"Via: 1.1 nodeproxy\r\n")
        self._via = lines if via else (b"", b"")
        self.answer_via: tuple[bytes, bytes] | None = lines if via_answers else None
        """Field lines for answers, by the minor version in which they came; None: none."""
        # Shaped like a random UUID: the process's part is random, the rest counts. Drawing all of
        # it for each request would cost three times as much and be no more unique.
        own = b"X-Request-Id: %08x-%04x-4%03x-%04x-" % (
            random(32),
            random(16),
            random(12),
            0x8000 | random(14),
        )
        self._via_id: tuple[bytes, ...] = ()
        if request_id:
            self._via_id = tuple(line + own + b"%012x\r\n" for line in self._via)
        self._id = slice(len(self._via[0]) + 14, -2)
        self._counter = count(random(47))
        self._traces = traceparent
        self._short = request_id and not traceparent
        self._ends: dict[bytes, bytes] = {}
        self._random = random

    def request(self, head: RequestHead, peer: bytes, trusted: bool) -> bytes:
        """The head to send on for the client with the address ``peer``; ``trusted``: what it says
        of earlier hops is believed. The request id that was given is left in ``head``."""
        if not trusted:
            forget_claims(head)
        if (
            head.minor
            and not head.x_forwarded_for
            and not head.x_forwarded_proto
            and not head.request_id
            and not head.upgrade
            and not head.forwarded
            and self._short
        ):
            # Nothing but what every request of this client gets: one text, but for the count.
            end = (self._ends.get(peer) or self._end(peer)) % next(self._counter)
            head.request_id = end[-40:-4]
            return b"".join((head.method, b" ", head.target, b" HTTP/1.1\r\n", head.fields, end))
        if head.request_id or not self._via_id:
            extra = self._via[head.minor]
        else:
            extra = self._via_id[head.minor] % next(self._counter)
            head.request_id = extra[self._id]
        if self._traces and not head.traceparent:
            extra += self._trace(head)
        if head.forwarded:
            extra += _element(peer)
        return request_head(head, forwarded_for=peer, extra=extra)

    def _end(self, peer: bytes) -> bytes:
        """How heads of a client's requests end, with a place for the count."""
        own = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: http\r\n" % peer
        if len(self._ends) >= CLIENTS:
            self._ends.clear()
        end = self._ends[peer] = own.replace(b"%", b"%%") + self._via_id[1] + b"\r\n"
        return end

    def _trace(self, head: RequestHead) -> bytes:
        """A trace begins here. It is marked as sampled: SDKs that follow their caller's decision
        would else record nothing of it."""
        if b"tracestate" in head.fields.lower():
            head.fields = without(head.fields, _TRACESTATE)  # of a trace that nobody named
        parent = b"00-%032x-%016x-01" % (self._random(128) or 1, self._random(64) or 1)
        head.traceparent = parent
        return b"traceparent: %b\r\n" % parent


def forget_claims(head: RequestHead) -> None:
    """Remove what the client says of earlier hops: as if it had come to us directly."""
    lowered = head.fields.lower()
    if any(b"\n%b:" % name in lowered or lowered.startswith(b"%b:" % name) for name in _CLAIMS):
        head.fields = without(head.fields, _CLAIMS)
    head.x_forwarded_for = head.x_forwarded_proto = b""
    head.forwarded = False


def _element(peer: bytes) -> bytes:
    node = b'"[%b]"' % peer if b":" in peer else peer
    return b"Forwarded: for=%b;proto=http\r\n" % node
