"""Requests: reading a head in one strict reading, and writing the head that is sent on.

The decisions (and what RFC they follow) are listed in docs/design/http1.md. The fast path is a
head that arrives whole: one match of the whole head, one ``findall`` for the fields that mean
something to a proxy, and the raw field lines travel on untouched unless one of them may not.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final

import msgspec

from nodeproxy.core.errors import BadRequest, HeadTooLarge, Unsupported
from nodeproxy.core.http1.diagnosis import EARLY, unfinished_request
from nodeproxy.core.http1.grammar import (
    CHUNKED,
    END_OF_FIELDS,
    HOP_BY_HOP,
    Malformed,
    UnknownCoding,
    collect,
    connection,
    content_length,
    cut,
    field_expression,
    is_protocol,
    only_chunked,
    without,
)
from nodeproxy.core.http1.limits import DEFAULT, Limits

__all__ = ["RequestHead", "parse_request", "request_head"]

_find: Final = field_expression(
    rb"host|con(?:nection|tent-length)|keep-alive|proxy-connection"
    rb"|t(?:e|ra(?:nsfer-encoding|ceparent))|upgrade|expect|forwarded"
    rb"|x-(?:request-id|forwarded-(?:for|proto))"
).findall


class RequestHead(msgspec.Struct, gc=False):
    """One request's head. Optional values are ``b""`` when the request has none.

    A struct without a dict, filled in one call and unknown to the garbage collector.
    """

    method: bytes
    target: bytes
    """In origin-form or ``*``, as it is sent on."""
    path: bytes
    """The target up to the first ``?``."""
    minor: int
    """Minor version of the client's HTTP/1.x."""
    host: bytes
    """Authority in lower case, with its port if it was sent; empty only for HTTP/1.0."""
    framing: int
    """Content-Length, 0 without a body, or ``CHUNKED``."""
    keep_alive: bool
    """Whether the client's connection may serve another request."""
    fields: bytes
    """Field lines that may be forwarded, each with its CRLF."""
    end: int
    """Offset of the first byte after the head."""
    expect_continue: bool = False
    """The client waits for ``100 Continue`` before it sends its body."""
    upgrade: bytes = b""
    """Protocols that the client would change to, and that may be passed on: when Connection says
    so too, in HTTP/1.1, without a body; not those that would hide requests from us."""
    x_forwarded_for: bytes = b""
    """Values that came with the request, joined; not part of ``fields``."""
    x_forwarded_proto: bytes = b""
    request_id: bytes = b""
    traceparent: bytes = b""
    forwarded: bool = False
    """There is a Forwarded field (RFC 7239), which is part of ``fields``."""

    @property
    def user_agent(self) -> bytes:
        """Looked up when asked for: only the access log does."""
        return collect(self.fields, b"user-agent") or b""

    def header(self, name: bytes) -> bytes | None:
        """Value of the forwarded field ``name`` (lower case), several joined by ``, ``."""
        if name == b"x-forwarded-for":
            return self.x_forwarded_for or None
        return collect(self.fields, name)


def parse_request(data: bytes, limits: Limits = DEFAULT, *, seen: int = 0) -> RequestHead | None:
    """Read the head at the start of ``data``; None when more bytes are needed.

    ``data`` may go on with the body and with further requests. ``seen`` is the number of bytes
    for which an earlier call said None: they are not searched again. Raises BadRequest,
    HeadTooLarge or Unsupported as soon as no further byte could make a head that we accept.
    """
    if len(data) > EARLY and data.find(END_OF_FIELDS, max(0, seen - 3)) < 0:
        unfinished_request(data, limits, -1)
        return None
    match = limits.match_request(data)
    if match is None:
        unfinished_request(data, limits, data.find(END_OF_FIELDS))
        return None
    method, target, version, fields = match.groups()
    start, stop = match.span(4)
    if stop + 2 > limits.head:
        raise HeadTooLarge(f"the request's head exceeds {limits.head} bytes")
    host = coding = expect = request_id = traceparent = upgrade = b""
    hosts = 0
    forwarded = False
    forwarded_for = forwarded_proto = b""
    options: list[bytes] | None = None
    lengths: list[bytes] | None = None
    drop: list[bytes] | None = None
    for line, name, value in _find(data, start - 1, stop):
        name = name.lower()
        if name == b"host":
            hosts += 1
            host = value
        elif name == b"content-length":
            if lengths is None:
                lengths = [value]
            else:
                lengths.append(value)
        elif name == b"transfer-encoding":
            # An empty or second field makes a value that is refused below.
            coding = coding + b"," + value if coding else value or b","
        elif name == b"traceparent":
            traceparent = traceparent or value.rstrip()
        elif name == b"x-request-id":
            request_id = request_id or value.rstrip()
        elif name == b"x-forwarded-proto":
            forwarded_proto = forwarded_proto or value.rstrip()
        elif name == b"expect":
            expect = value.rstrip().lower()
        elif name == b"forwarded":
            forwarded = True
        else:
            if drop is None:
                drop = [line]
            else:
                drop.append(line)
            if name == b"connection":
                if options is None:
                    options = [value]
                else:
                    options.append(value)
            elif name == b"x-forwarded-for":
                value = value.rstrip()
                if value:
                    forwarded_for = forwarded_for + b", " + value if forwarded_for else value
            elif name == b"upgrade":
                upgrade = upgrade + b", " + value if upgrade else value
    keep_alive = version == b"1"
    try:
        if hosts == 1:
            host = authority(host.rstrip()[:262])
        elif hosts or keep_alive:
            raise Malformed("more than one Host field" if hosts else "no Host field")
        framing = 0
        if coding:
            if not keep_alive:
                raise Malformed("Transfer-Encoding in HTTP/1.0")
            if lengths is not None:
                raise Malformed("both Transfer-Encoding and Content-Length")
            only_chunked(coding)
            framing = CHUNKED
        elif lengths is not None:
            length = lengths[0].rstrip()
            if len(lengths) == 1 and len(length) < 19 and length.isdigit():
                framing = int(length)
            else:
                framing = content_length(lengths)
                fields = without(fields, _CONTENT_LENGTH) + b"Content-Length: %d\r\n" % framing
        if drop is not None:
            names = _NONE
            if options is None:
                upgrade = b""
            else:
                said = connection(options)
                if said.close:
                    keep_alive = False
                if upgrade:
                    usable = said.upgrade and version == b"1" and not framing
                    upgrade = _tunnels(upgrade) if usable else b""
                names = said.nominated
            fields = cut(fields, drop, names, _REMOVED)
        if target[0] != 47:  # "/"
            target, named = _other_form(method, target)
            if named:
                host = authority(named[:262])
                fields = b"Host: %b\r\n%b" % (named, without(fields, _HOST))
    except UnknownCoding as error:
        raise Unsupported(str(error)) from None
    except Malformed as error:
        raise BadRequest(str(error)) from None
    if method == b"CONNECT":
        raise Unsupported("CONNECT is not supported")
    return RequestHead(
        method,
        target,
        target.partition(b"?")[0] if b"?" in target else target,
        1 if version == b"1" else 0,
        host,
        framing,
        keep_alive,
        fields,
        stop + 2,
        expect == b"100-continue" and framing != 0 and version == b"1",
        upgrade,
        forwarded_for,
        forwarded_proto,
        request_id,
        traceparent,
        forwarded,
    )


def _tunnels(upgrade: bytes) -> bytes:
    """Those of the protocols of an Upgrade field that we would relay after a 101.

    HTTP/2 in clear text (h2c) and other versions of HTTP are left out: requests within such a
    tunnel would never be seen by whoever decides about requests. So is TLS (RFC 2817).
    """
    protocols = [protocol.strip(b" \t") for protocol in upgrade.split(b",")]
    if not all(map(is_protocol, filter(None, protocols))):
        raise Malformed("Upgrade is not a list of protocols")
    names = ((protocol, protocol.partition(b"/")[0].lower()) for protocol in protocols)
    return b", ".join([protocol for protocol, name in names if name and name not in _NO_TUNNEL])


_NO_TUNNEL: Final = frozenset((b"h2", b"h2c", b"h3", b"http", b"tls"))


_NONE: Final[frozenset[bytes]] = frozenset()
_HOST: Final = frozenset((b"host",))
_CONTENT_LENGTH: Final = frozenset((b"content-length",))
_REMOVED: Final = HOP_BY_HOP | {b"x-forwarded-for"}


_ABSOLUTE = re.compile(rb"http://([^/?]*+)(.*+)", re.IGNORECASE | re.DOTALL).fullmatch


def _other_form(method: bytes, target: bytes) -> tuple[bytes, bytes]:
    """``(target to send on, authority that the target names or b"")`` of a target that does not
    begin with a slash (RFC 9112 section 3.2)."""
    if method == b"CONNECT":
        return target, b""
    if target == b"*":
        if method != b"OPTIONS":
            raise Malformed("the target * is for OPTIONS alone")
        return target, b""
    match = _ABSOLUTE(target)
    if match is None:
        raise Malformed("the target is neither a path nor an http:// URL")
    named, rest = match.groups()
    if not named:
        raise Malformed("the target's URL names no host")
    if not rest:
        return b"*" if method == b"OPTIONS" else b"/", named
    return rest if rest[0] == 47 else b"/" + rest, named


_AUTHORITY = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|(?>(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+))"
    rb"(?>(?::([0-9]{0,5}))?)"
).fullmatch


@lru_cache(maxsize=1024)
def authority(value: bytes) -> bytes:
    """``value`` of Host or of a target, checked (RFC 3986 section 3.2) and in lower case.

    User information, a comma (a list in disguise) and an empty host are refused.
    """
    match = _AUTHORITY(value) if len(value) <= 261 else None
    if match is None:
        raise Malformed("Host is not a host with an optional port")
    address, port = match.groups()
    if port and int(port) > 65535:
        raise Malformed("the port of Host is out of range")
    if address is not None:
        try:
            ipaddress.IPv6Address(address.decode())
        except ValueError:
            raise Malformed("Host is not an IPv6 address in brackets") from None
    return value.lower()


def request_head(
    head: RequestHead, *, forwarded_for: bytes, proto: bytes = b"http", extra: bytes = b""
) -> bytes:
    """The head to send to the endpoint.

    ``forwarded_for`` is the client's address, appended to X-Forwarded-For (no field when both
    are empty); ``proto`` is stated when no earlier hop did; ``extra`` holds whole field lines
    of the caller (Via, X-Request-Id, traceparent), each with its CRLF. The client's minor
    version is kept: an HTTP/1.0 client must not be answered with a chunked body. An upgrade that
    the client asks for is asked for again, on this hop.
    """
    earlier = head.x_forwarded_for
    if earlier:
        forwarded_for = earlier + b", " + forwarded_for if forwarded_for else earlier
    return b"".join(
        (
            head.method,
            b" ",
            head.target,
            b" HTTP/1.1\r\n" if head.minor else b" HTTP/1.0\r\n",
            head.fields,
            b"X-Forwarded-For: %b\r\n" % forwarded_for if forwarded_for else b"",
            b"" if head.x_forwarded_proto or not proto else b"X-Forwarded-Proto: %b\r\n" % proto,
            b"Connection: upgrade\r\nUpgrade: %b\r\n" % head.upgrade if head.upgrade else b"",
            extra,
            b"\r\n",
        )
    )
