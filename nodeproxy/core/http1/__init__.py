"""HTTP/1.1 on bytes: heads, framing and the proxy's own answers; no sockets, no clock.

``parse_request`` and ``parse_response`` read a head in one strict reading or refuse it,
``request_head`` and ``response_head`` write what is sent on, ``Chunked`` finds the end of a
chunked body, ``error_response`` answers for the proxy. What is accepted, refused and changed,
after which section of which RFC, and what each step costs, is told in docs/design/http1.md.
"""

from __future__ import annotations

from nodeproxy.core.http1.answer import error_response, own_response
from nodeproxy.core.http1.body import BadChunk, Chunked
from nodeproxy.core.http1.grammar import CHUNKED, UNTIL_CLOSE
from nodeproxy.core.http1.hops import COUNTED, last_hop
from nodeproxy.core.http1.limits import DEFAULT, Limits
from nodeproxy.core.http1.onward import Onward, forget_claims
from nodeproxy.core.http1.request import RequestHead, parse_request, request_head
from nodeproxy.core.http1.response import ResponseHead, parse_response, response_head

__all__ = [
    "CHUNKED",
    "COUNTED",
    "DEFAULT",
    "UNTIL_CLOSE",
    "BadChunk",
    "Chunked",
    "Limits",
    "Onward",
    "RequestHead",
    "ResponseHead",
    "error_response",
    "forget_claims",
    "last_hop",
    "own_response",
    "parse_request",
    "parse_response",
    "request_head",
    "response_head",
]
