"""The CORS filter (gep-1767; the protocol is the Fetch standard's, section 3.2).

A preflight (OPTIONS with Origin and Access-Control-Request-Method) is answered here and never
forwarded. To other requests with an Origin the endpoint's answer gets the fields that let the
browser show it to the script. An origin that is not allowed gets none of the fields: the browser
then refuses.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from nodeproxy.core.http1 import RequestHead
from nodeproxy.core.routing.httproute import CorsFilter

__all__ = ["Cors", "cors"]

_SAFELISTED: Final = ("GET", "HEAD", "POST")
_OURS: Final = re.compile(
    rb"\nAccess-Control-(?:Allow-Origin|Allow-Credentials|Expose-Headers):[^\r]*\r", re.IGNORECASE
)
_VARIES: Final = re.compile(rb"\nVary:[^\r]*\b(?:Origin\b|\*)", re.IGNORECASE)
_TOKENS: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z, \t]*")


class Cors(msgspec.Struct, frozen=True):
    any_origin: bool
    origins: frozenset[bytes]
    """In lower case."""
    wildcards: tuple[tuple[bytes, bytes], ...]
    """``https://*.example.com`` -> what is before and behind the star."""
    credentials: bool
    any_method: bool
    methods: bytes
    any_header: bool
    headers: bytes
    expose: bytes
    max_age: int

    def allows(self, origin: bytes) -> bool:
        if self.any_origin:
            return True
        origin = origin.lower()
        if origin in self.origins:
            return True
        return any(
            len(origin) > len(before) + len(behind)
            and origin.startswith(before)
            and origin.endswith(behind)
            and origin[len(before) : -len(behind)].strip(b".") != b""
            for before, behind in self.wildcards
        )

    def _origin(self, origin: bytes) -> bytes:
        # A star does not go with credentials, so the origin itself is named.
        if self.any_origin and not self.credentials:
            return b"Access-Control-Allow-Origin: *\r\n"
        return b"Access-Control-Allow-Origin: %b\r\n" % origin

    def preflight(self, head: RequestHead) -> bytes | None:
        """Field lines of the 204 with which a preflight is answered; None: it is none."""
        if head.method != b"OPTIONS":
            return None
        origin = head.header(b"origin")
        method = head.header(b"access-control-request-method")
        if origin is None or method is None:
            return None
        vary = b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
        if not self.allows(origin):
            return vary
        lines = [self._origin(origin)]
        if self.credentials:
            lines.append(b"Access-Control-Allow-Credentials: true\r\n")
        methods = self.methods
        if self.any_method:
            methods = method if self.credentials else b"*"
        if methods and _TOKENS.fullmatch(methods):
            lines.append(b"Access-Control-Allow-Methods: %b\r\n" % methods)
        headers = self.headers
        if self.any_header:
            wanted = head.header(b"access-control-request-headers") or b""
            headers = wanted if self.credentials else b"*"
        if headers and _TOKENS.fullmatch(headers):
            lines.append(b"Access-Control-Allow-Headers: %b\r\n" % headers)
        lines.append(b"Access-Control-Max-Age: %d\r\n" % self.max_age)
        lines.append(vary)
        return b"".join(lines)

    def answer(self, head: RequestHead, fields: bytes) -> bytes:
        """The fields of an endpoint's answer to ``head`` as the client gets them. What the
        endpoint says of the same matter is replaced: two answers are none for a browser."""
        fields = _OURS.sub(b"", b"\n" + fields).replace(b"\n", b"", 1)
        origin = head.header(b"origin")
        lines: list[bytes] = []
        if origin is not None and self.allows(origin):
            lines.append(self._origin(origin))
            if self.credentials:
                lines.append(b"Access-Control-Allow-Credentials: true\r\n")
            if self.expose:
                lines.append(b"Access-Control-Expose-Headers: %b\r\n" % self.expose)
        if not (self.any_origin and not self.credentials) and not _VARIES.search(b"\n" + fields):
            lines.append(b"Vary: Origin\r\n")
        return fields + b"".join(lines)


def cors(filter_: CorsFilter) -> Cors:
    plain = [o.lower().encode() for o in filter_.allow_origins if o != "*"]
    wildcards = []
    for origin in plain:
        before, star, behind = origin.partition(b"://*")
        if star:
            wildcards.append((before + b"://", behind))
    methods = [m for m in filter_.allow_methods if m != "*"]
    headers = [h for h in filter_.allow_headers if h != "*"]
    return Cors(
        "*" in filter_.allow_origins,
        frozenset(o for o in plain if b"*" not in o),
        tuple(wildcards),
        filter_.allow_credentials,
        "*" in filter_.allow_methods,
        ", ".join(dict.fromkeys((*methods, *_SAFELISTED))).encode(),
        "*" in filter_.allow_headers,
        ", ".join(headers).encode(),
        ", ".join(filter_.expose_headers).encode(),
        filter_.max_age,
    )
