"""Session persistence (gep-1619): a client stays with the endpoint that it was given first.

The client carries a token in a cookie or a header: when the session began, when it was last used,
and digests of the backend and of the endpoint. Addresses are not told, and a digest that no ready
endpoint has means a new choice and a new token, so a token that somebody makes up can choose among
the endpoints of the route and nothing else.

Token: ``1.BEGAN.USED.BACKEND.ENDPOINT``: times in hexadecimal seconds, digests of 8 and 16 digits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, TypeVar

import msgspec

from nodeproxy.core.http1 import RequestHead
from nodeproxy.core.routing.httproute import SessionPersistence

__all__ = ["Session", "Token", "backend_digest", "endpoint_digest", "session"]

T = TypeVar("T")
EndpointKey = tuple[str, int, str]

_TOKEN: Final = re.compile(rb"1\.([0-9a-f]{1,12})\.([0-9a-f]{1,12})\.([0-9a-f]{8})\.([0-9a-f]{16})")


class Token(msgspec.Struct, frozen=True, gc=False):
    began: int
    """Seconds since 1970."""
    used: int
    backend: bytes
    endpoint: bytes

    def encode(self) -> bytes:
        return b"1.%x.%x.%b.%b" % (self.began, self.used, self.backend, self.endpoint)


def backend_digest(service: str, port: int) -> bytes:
    """Eight hexadecimal digits."""
    return hashlib.blake2b(f"{service}:{port}".encode(), digest_size=4).hexdigest().encode()


@lru_cache(maxsize=65536)
def endpoint_digest(key: EndpointKey) -> bytes:
    """Sixteen hexadecimal digits of :attr:`registry.model.Endpoint.key`."""
    text = f"{key[0]}|{key[1]}|{key[2]}".encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest().encode()


class Session(msgspec.Struct, frozen=True):
    """Compiled settings of one rule or service."""

    name: bytes
    """Of the cookie, or of the header in lower case."""
    header: bool
    absolute: float = 0.0
    """Seconds; 0: no limit."""
    idle: float = 0.0
    permanent: bool = False
    path: bytes = b"/"

    def read(self, head: RequestHead, now: float) -> Token | None:
        """The session that a request belongs to, if it is still valid at ``now`` (seconds since
        1970)."""
        value = head.header(self.name) if self.header else self._cookie(head)
        match = _TOKEN.fullmatch(value) if value else None
        if match is None:
            return None
        token = Token(int(match[1], 16), int(match[2], 16), match[3], match[4])
        if token.began > now + 60 or (self.absolute and now - token.began >= self.absolute):
            return None
        if self.idle and now - token.used >= self.idle:
            return None
        return token

    def _cookie(self, head: RequestHead) -> bytes | None:
        cookies = head.header(b"cookie")
        if cookies is None or self.name not in cookies:
            return None
        for part in cookies.replace(b",", b";").split(b";"):
            name, _, value = part.strip().partition(b"=")
            if name == self.name:
                return value.strip(b'"')
        return None

    def begin(self, service: str, port: int, key: EndpointKey, now: float) -> Token:
        """A new session with the endpoint that was chosen."""
        return Token(int(now), int(now), backend_digest(service, port), endpoint_digest(key))

    def field(self, token: Token, now: float, *, fresh: bool) -> bytes:
        """The field line for the answer; empty where the client needs no new one."""
        if not fresh:
            if not self.idle or int(now) == token.used:
                return b""
            token = Token(token.began, int(now), token.backend, token.endpoint)
        value = token.encode()
        if self.header:
            return b"%b: %b\r\n" % (self.name, value)
        age = b""
        if self.permanent:
            age = b"; Max-Age=%d" % max(0, int(token.began + self.absolute - now))
        return b"Set-Cookie: %b=%b; Path=%b; HttpOnly; SameSite=Lax%b\r\n" % (
            self.name,
            value,
            self.path,
            age,
        )


def choose(token: Token, candidates: Iterable[tuple[EndpointKey, T]]) -> T | None:
    """The endpoint of a session among those that may take traffic; None: it is gone."""
    wanted = token.endpoint
    for key, candidate in candidates:
        if endpoint_digest(key) == wanted:
            return candidate
    return None


def session(settings: SessionPersistence | None, default_name: str) -> Session | None:
    if settings is None:
        return None
    header = settings.type == "Header"
    name = (settings.session_name or default_name).encode()
    cookie = settings.cookie_config
    return Session(
        name.lower() if header else name,
        header,
        float(settings.absolute_timeout or 0),
        float(settings.idle_timeout or 0),
        cookie is not None and cookie.lifetime_type == "Permanent",
    )
