"""Which protocol does a client speak? Decided from its first bytes, for ports that do not say.

HTTP/1 is recognised by a method of capitals, a space, and the beginning of a target that is a
path, ``*`` or ``http:``. The target matters: SSH, SMTP, Redis, RTSP and SIP also begin with a word
and a space. At most ``UNDECIDED_BYTES`` bytes stay undecided.
"""

from __future__ import annotations

import re
from typing import Final, Literal

__all__ = ["UNDECIDED_BYTES", "Protocol", "sniff"]

Protocol = Literal["http", "http2", "tls", "tcp"]

UNDECIDED_BYTES: Final = 32
"""With this many bytes ``sniff`` always knows."""

_PREFACE: Final = b"PRI * HTTP/2.0"  # RFC 9113 section 3.4: enough of the preface to be sure

# The methods that nearly all requests have; the rest is left to the expressions.
_COMMON: Final = (b"GET /", b"POST /", b"HEAD /", b"PUT /", b"DELETE /", b"PATCH /", b"OPTIONS /")

# A method of up to 26 bytes leaves room for " http:" within UNDECIDED_BYTES.
_HTTP: Final = re.compile(rb"[A-Z][A-Z_-]{0,25}+ (?:/|\*|[Hh][Tt][Tt][Pp]:)|CONNECT [!-~]").match
_HTTP_PREFIX: Final = re.compile(
    rb"[A-Z][A-Z_-]{0,25}+(?: (?:[Hh](?:[Tt](?:[Tt](?:[Pp])?+)?+)?+)?+)?+"
).fullmatch
# A TLS record of type handshake, version 3.x, and the ClientHello in it (RFC 8446 section 5.1).
_TLS: Final = re.compile(rb"\x16\x03[\x00-\x04][\x00-\x40].\x01", re.DOTALL).match
_TLS_PREFIX: Final = re.compile(
    rb"\x16(?:\x03(?:[\x00-\x04](?:[\x00-\x40](?:.)?+)?+)?+)?+", re.DOTALL
).fullmatch


def sniff(prefix: bytes) -> Protocol | None:
    """The protocol that ``prefix`` begins, or None while it may still become more than one.

    ``http2`` is the preface of HTTP/2 with prior knowledge; who does not speak it relays it as
    TCP. ``tcp`` is everything that is nothing else.
    """
    if prefix.startswith(_COMMON):
        return "http"
    if prefix.startswith(_PREFACE):
        return "http2"
    if _TLS(prefix):
        return "tls"
    if len(prefix) < UNDECIDED_BYTES and (
        not prefix or _PREFACE.startswith(prefix) or _HTTP_PREFIX(prefix) or _TLS_PREFIX(prefix)
    ):
        return None
    return "http" if _HTTP(prefix) else "tcp"
