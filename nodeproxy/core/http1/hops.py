"""Max-Forwards (RFC 9110 section 7.6.2): TRACE and OPTIONS count the hops that they may go.

All other methods pass the field on untouched, as the RFC allows.
"""

from __future__ import annotations

from typing import Final

from nodeproxy.core.errors import BadRequest
from nodeproxy.core.http1.grammar import without
from nodeproxy.core.http1.request import RequestHead

__all__ = ["COUNTED", "last_hop"]

COUNTED: Final = frozenset((b"TRACE", b"OPTIONS"))
"""Methods for which ``last_hop`` has to be asked."""

_MAX_FORWARDS: Final = frozenset((b"max-forwards",))
_SECRET: Final = frozenset(
    (b"authorization", b"proxy-authorization", b"cookie", b"x-api-key", b"x-auth-token")
)
"""Never reflected (RFC 9110 section 9.3.8)."""


def last_hop(head: RequestHead, raw: bytes) -> tuple[bytes, bytes] | None:
    """Fields and body of our own answer (200), when a request with a method in ``COUNTED`` ends
    here; else None, and the count in ``head.fields`` has been lowered by this hop. ``raw`` begins
    with the head as it came. Raises BadRequest."""
    if head.framing and head.method == b"TRACE":
        raise BadRequest("TRACE with a body")
    value = head.header(b"max-forwards")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 9:
        raise BadRequest("Max-Forwards is not one decimal number")
    left = int(value)
    if left:
        lowered = b"Max-Forwards: %d\r\n" % (left - 1)
        head.fields = without(head.fields, _MAX_FORWARDS) + lowered
        return None
    if head.method == b"OPTIONS":
        return b"", b""
    line, _, fields = raw[: head.end - 2].removeprefix(b"\r\n").partition(b"\r\n")
    seen = b"%b\r\n%b\r\n" % (line, without(fields, _SECRET))
    return b"Content-Type: message/http\r\n", seen
