"""What the endpoint gets to see of a request, and the client of the answer.

Filters of the rule come first, then those of the backend that was chosen. A rule without filters
costs one test (:attr:`Rule.plain`).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec

from nodeproxy.core.errors import InvalidBackend, UnresolvedFilter
from nodeproxy.core.http1 import RequestHead
from nodeproxy.core.routing.edits import Edits
from nodeproxy.core.routing.paths import Rewrite
from nodeproxy.core.routing.rules import (
    Backend,
    Decision,
    Filtering,
    Mirror,
)

__all__ = ["answer_fields", "direct_answer", "draw", "mirrors", "outgoing"]


def draw(decision: Decision, drawn: float) -> Backend:
    """The backend for a random number in [0, 1). Raises InvalidBackend (500) for the share of
    one that can't be used, and where there is none. Whether the registry knows the service
    (else 500 as well) and has a ready endpoint (else 503) is seen when it is looked up."""
    backend = decision.rule.backends.draw(drawn)
    if backend is None:
        raise InvalidBackend(
            f"rule {decision.rule.label} has no backend"
            if not decision.rule.backends.entries
            else f"the weights of rule {decision.rule.label} sum to 0"
        )
    if backend.problem:
        raise InvalidBackend(backend.problem)
    return backend


def direct_answer(
    head: RequestHead, filters: Filtering, matched: bytes, *, scheme: bytes, port: int
) -> bytes | None:
    """The whole answer of our own, if a filter gives one: a CORS preflight or a redirect. None:
    forward. Raises UnresolvedFilter (500). ``matched``: :attr:`Decision.prefix`."""
    if filters.failure:
        raise UnresolvedFilter(filters.failure)
    if filters.cors is not None:
        lines = filters.cors.preflight(head)
        if lines is not None:
            return _answer(204, lines + _edited(filters.response, b""), head)
    if filters.redirect is not None:
        place = filters.redirect.location(head, matched, scheme=scheme, port=port)
        lines = _edited(filters.response, b"Location: %b\r\n" % place)
        return _answer(filters.redirect.status, lines, head)
    return None


_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


def _answer(status: int, lines: bytes, head: RequestHead) -> bytes:
    """Without a body. 204 must not have a Content-Length (RFC 9110 section 8.6)."""
    length = b"" if status == 204 else b"Content-Length: 0\r\n"
    # A request's body is not read: the connection can't serve another one behind it.
    close = b"" if head.keep_alive and head.framing == 0 else b"Connection: close\r\n"
    return b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (status, _PHRASES[status], lines, length, close)


def _edited(edits: Edits | None, fields: bytes) -> bytes:
    return fields if edits is None else edits.apply(fields)


def outgoing(head: RequestHead, decision: Decision, backend: Backend) -> RequestHead:
    """The head to send on: the same object where no filter changes it, else a new one."""
    first, second = decision.rule.filters, backend.filters
    changed = head
    for filters in (first, second):
        if filters.request is not None:
            changed = _modified(changed, filters.request)
    # A backend's own rewrite counts instead of the rule's: it is the more precise one.
    rewrite = second.rewrite or first.rewrite
    if rewrite is not None:
        changed = _rewritten(changed, rewrite, decision.prefix)
    return changed


def _modified(head: RequestHead, edits: Edits) -> RequestHead:
    fields = edits.apply(head.fields)
    changes: dict[str, object] = {"fields": fields}
    names = edits.names
    for name, field in _KEPT:
        if name in names:
            line = edits.set.get(name)
            old = getattr(head, field)
            if line is not None:
                changes[field] = line.partition(b":")[2].strip()
            elif name in edits.remove:
                changes[field] = b""
            elif name in edits.add:
                value = edits.add[name][1]
                changes[field] = old + b"," + value if old else value
    if b"x-forwarded-for" in names:
        # Not among the fields: it is written anew with the client's address behind it.
        changes["fields"] = _without_forwarded(fields)
    return msgspec.structs.replace(head, **changes)


_KEPT: Final = (
    (b"host", "host"),
    (b"x-forwarded-for", "x_forwarded_for"),
    (b"x-forwarded-proto", "x_forwarded_proto"),
    (b"x-request-id", "request_id"),
    (b"traceparent", "traceparent"),
)
"""Fields of which the head knows the value."""


def _without_forwarded(fields: bytes) -> bytes:
    return b"".join(
        line
        for line in fields.splitlines(keepends=True)
        if line[: line.index(b":")].lower() != b"x-forwarded-for"
    )


def _rewritten(head: RequestHead, rewrite: Rewrite, matched: bytes) -> RequestHead:
    changes: dict[str, object] = {}
    if rewrite.host:
        lines = head.fields.splitlines(keepends=True)
        changes["host"] = rewrite.host
        changes["fields"] = b"Host: %b\r\n%b" % (
            rewrite.host,
            b"".join(line for line in lines if line[:5].lower() != b"host:"),
        )
    if rewrite.path is not None:
        target = rewrite.path.apply(head.target, head.path, matched)
        changes["target"] = target
        changes["path"] = target.partition(b"?")[0]
    return msgspec.structs.replace(head, **changes)


def answer_fields(
    head: RequestHead, decision: Decision, backend: Backend | None, fields: bytes
) -> bytes:
    """The fields of an endpoint's answer as the client gets them. ``head``: the client's
    request. A backend's filters are nearer to it and come first."""
    for filters in (backend.filters if backend is not None else None, decision.rule.filters):
        if filters is None:
            continue
        if filters.response is not None:
            fields = filters.response.apply(fields)
        if filters.cors is not None:
            fields = filters.cors.answer(head, fields)
    return fields


def mirrors(decision: Decision, backend: Backend) -> tuple[Mirror, ...]:
    """All that may get a copy; each is asked by :meth:`Mirror.wants`."""
    return (*decision.rule.filters.mirrors, *backend.filters.mirrors)
