"""What becomes of a request whose rule is known: one function for traffic and for ``explain``."""

from __future__ import annotations

from typing import NamedTuple

from nodeproxy.core.destination import Found
from nodeproxy.core.errors import InvalidBackend
from nodeproxy.core.http1 import RequestHead
from nodeproxy.core.routing.backends import target
from nodeproxy.core.routing.forward import direct_answer, draw
from nodeproxy.core.routing.rules import Backend, Decision
from nodeproxy.core.routing.table import TcpRule
from registry.catalog import Catalog

__all__ = ["Way", "tcp_target", "way"]


class Way(NamedTuple):
    """Either an answer, or a backend with its service port."""

    backend: Backend | None
    found: Found | None
    answer: bytes | None = None
    """The whole answer of the proxy's own: a redirect or a CORS preflight."""


def way(decision: Decision, head: RequestHead, catalog: Catalog, drawn: float, port: int) -> Way:
    """``drawn``: a random number in [0, 1). ``port``: that the client dialled, for redirects.
    Raises InvalidBackend and UnresolvedFilter (500)."""
    rule = decision.rule
    if not rule.plain:
        answer = direct_answer(head, rule.filters, decision.prefix, scheme=b"http", port=port)
        if answer is not None:
            return Way(None, None, answer)
    backend = draw(decision, drawn)
    if not rule.plain:
        answer = direct_answer(head, backend.filters, decision.prefix, scheme=b"http", port=port)
        if answer is not None:
            return Way(backend, None, answer)
    return Way(backend, target(catalog, backend))


def tcp_target(rule: TcpRule, catalog: Catalog, drawn: float) -> Found:
    """Where a connection goes by a rule of a TCPRoute. Raises InvalidBackend: it is reset."""
    backend = rule.backends.draw(drawn)
    if backend is None:
        raise InvalidBackend(f"rule {rule.label} has no backend with a weight")
    return target(catalog, backend, http=False)
