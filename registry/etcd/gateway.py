"""Requests to a cluster: which member is asked, with which token.

A member that cannot be reached, or says that it cannot serve now, is passed over for the next one.
When all have failed in a row, that is an error. Credentials stay in here.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import httpx
import msgspec
import trio

from registry.base import RegistryError
from registry.etcd.wire import COMPACTED, Bad, GatewayError, Token, decode

__all__ = ["Compacted", "Gateway", "Login", "Unavailable", "tls_context"]

T = TypeVar("T")

_UNAVAILABLE: Final = frozenset((1, 4, 8, 14))
"""gRPC's CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE: another member may do."""
_AUTH: Final = ("auth token", "auth store", "user name is empty")
"""What etcd says when a token is missing, unknown to it, or older than the last change of users."""
_OFF: Final = "authentication is not enabled"
MAX_BODY: Final = 256 << 20


class Unavailable(Exception):
    """A member cannot serve now."""


class Compacted(Exception):
    """The revision that was asked for is compacted."""


class _TokenRefused(Exception):
    pass


class Login(msgspec.Struct, frozen=True):
    """A user. ``repr`` does not show the password."""

    name: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.name!r})"


class _Body(httpx.AsyncByteStream):
    """A body in one piece. httpx's own is a generator, which a request that is cancelled leaves to
    the garbage collector."""

    def __init__(self, data: bytes) -> None:
        self._left = [data]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


class Gateway:
    """The members of one cluster."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        endpoints: Sequence[str],
        login: Login | None,
        timeout: float,
        rng: random.Random,
    ) -> None:
        self._http = http
        self._endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        self._at = rng.randrange(len(endpoints))
        self._login = login
        self._token: str | None = None
        self.timeout = timeout

    @property
    def members(self) -> int:
        return len(self._endpoints)

    @property
    def member(self) -> str:
        """The URL of the one that is asked next."""
        return self._endpoints[self._at]

    def turn(self) -> None:
        """Ask another member from now on."""
        self._at = (self._at + 1) % len(self._endpoints)

    def forget_token(self) -> None:
        self._token = None

    async def call(self, path: str, body: dict[str, Any], type_: type[T]) -> tuple[T, int]:
        """The answer of the first member that has one, and its size in bytes. Raises Compacted, and
        RegistryError when all fail or one refuses."""
        failures: list[str] = []
        renewed = False
        while True:
            try:
                data = await self._post(path, body)
                return decode(data, type_), len(data)
            except _TokenRefused as error:
                if renewed or self._login is None:
                    raise RegistryError(f"{self.member}: {error}") from None
                renewed = True
                self.forget_token()
            except (Unavailable, Bad) as error:
                failures.append(f"{self.member}: {error}")
                self.turn()
                if len(failures) >= self.members:
                    raise RegistryError("; ".join(failures)) from None

    @asynccontextmanager
    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        """A stream from the current member. Raises Unavailable, and RegistryError if refused."""
        headers = await self._headers(require_leader=True)
        request = self._request(path, body, headers)
        try:
            with trio.fail_after(self.timeout):
                response = await self._http.send(request, stream=True)
        except trio.TooSlowError:
            raise Unavailable(f"no answer within {self.timeout:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(_reason(error)) from None
        try:
            if response.status_code != 200:
                with trio.move_on_after(self.timeout):
                    _refused(response.status_code, await response.aread())
                raise Unavailable(f"status {response.status_code}")
            yield response
        except _TokenRefused as error:
            self.forget_token()
            raise Unavailable(str(error)) from None
        except httpx.HTTPError as error:
            raise Unavailable(_reason(error)) from None
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await response.aclose()

    # --- inside ---

    async def _post(self, path: str, body: dict[str, Any], anonymous: bool = False) -> bytes:
        headers = {} if anonymous else await self._headers()
        try:
            with trio.fail_after(self.timeout):
                response = await self._http.send(self._request(path, body, headers))
        except trio.TooSlowError:
            raise Unavailable(f"no answer within {self.timeout:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(_reason(error)) from None
        if response.status_code != 200:
            _refused(response.status_code, response.content)
        return response.content

    def _request(
        self, path: str, body: dict[str, Any], headers: Mapping[str, str]
    ) -> httpx.Request:
        data = msgspec.json.encode(body)
        request = self._http.build_request(
            "POST",
            self.member + path,
            content=data,
            headers={**headers, "Content-Type": "application/json"},
        )
        request.stream = _Body(data)
        return request

    async def _headers(self, require_leader: bool = False) -> dict[str, str]:
        headers = {}
        # gRPC metadata: a watch ends when its member has lost the cluster.
        if require_leader:
            headers["Grpc-Metadata-hasleader"] = "true"
        if self._login is not None:
            if self._token is None:
                self._token = await self._authenticate(self._login)
            if self._token:
                headers["Authorization"] = self._token
        return headers

    async def _authenticate(self, login: Login) -> str:
        """A token; empty where the cluster wants none."""
        body = {"name": login.name, "password": login.password}
        try:
            data = await self._post("/v3/auth/authenticate", body, anonymous=True)
            return decode(data, Token).token
        except (RegistryError, _TokenRefused) as error:
            if _OFF in str(error):
                return ""
            raise RegistryError(
                f"{self.member}: user {login.name!r} cannot log in: {error}"
            ) from None


def _refused(status: int, body: bytes) -> None:
    """Raises what an answer that is not 200 means."""
    try:
        told = decode(body, GatewayError)
    except Bad:
        raise Unavailable(f"status {status}, not by etcd's JSON gateway") from None
    code, message = told.code or told.grpc_code, told.message or told.error
    if code == COMPACTED:
        raise Compacted(message)
    if any(words in message for words in _AUTH):
        raise _TokenRefused(message)
    if status >= 500 or status == 404 or code in _UNAVAILABLE:
        raise Unavailable(message or f"status {status}")
    raise RegistryError(message or f"status {status}")


def _reason(error: Exception) -> str:
    """What an operator can use of it: of a failed handshake only the cause has words."""
    found: BaseException | None = error
    while found is not None:
        if str(found):
            return str(found).splitlines()[0][:300]
        found = found.__cause__ or found.__context__
    return type(error).__name__


def tls_context(ca: str | None, certificate: str | None, key: str | None) -> ssl.SSLContext:
    """From files. Raises RegistryError that names the file. Blocks."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise RegistryError(f"ca_file {ca}: {_why(error)}") from None
    if certificate is not None:
        try:
            # An encrypted key must not make OpenSSL ask on the terminal.
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError, ssl.SSLError) as error:
            raise RegistryError(
                f"certificate_file {certificate}, key_file {key or certificate}: {_why(error)}"
            ) from None
    return context


def _why(error: Exception) -> str:
    return (
        getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
    )
