"""Requests to the API server: credentials, its errors in words, and its wish to be left alone."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import msgspec
import trio

from registry.base import RegistryError
from registry.http import failed
from registry.kubernetes import wire
from registry.kubernetes.access import Access, read_token

__all__ = ["Api", "Collection", "Gone", "Refused", "each_chunk"]

READ_TIMEOUT: Final = 30.0
"""Seconds without a byte of an answer."""
MAX_WAIT: Final = 60.0
"""The longest that one Retry-After is followed, in seconds."""
MAX_RETRIES: Final = 5
MAX_ERROR: Final = 64 * 1024
"""Bytes of an error that are read."""


class Gone(Exception):
    """410: the resourceVersion or the continue token is too old; list again."""


class Refused(RegistryError):
    """The API server answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Collection(msgspec.Struct, frozen=True):
    """What can be listed and watched."""

    path: str
    """``/api/v1/services``"""
    resource: str
    """As RBAC and people write it: ``endpointslices.discovery.k8s.io``."""
    namespace: str = ""
    label_selector: str = ""

    @property
    def place(self) -> str:
        return f" in namespace {self.namespace}" if self.namespace else ""


class Api:
    """One API server."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        access: Access,
        *,
        tell: Callable[[str], None],
        rng: random.Random,
    ) -> None:
        """``tell`` is given what is waited for, and an empty text when the wait is over."""
        self._http = http
        self._access = access
        self._tell = tell
        self._rng = rng

    async def get(self, path: str, params: Mapping[str, str], verb: str, of: Collection) -> bytes:
        """The whole answer. Raises Gone and RegistryError."""
        async with self.open(path, params, verb, of, READ_TIMEOUT) as response:
            body = bytearray()
            try:
                await each_chunk(response, body.extend)
            except httpx.HTTPError as error:
                raise failed(self._doing(verb, of), error) from None
            return bytes(body)

    @asynccontextmanager
    async def open(
        self,
        path: str,
        params: Mapping[str, str],
        verb: str,
        of: Collection,
        read_timeout: float,
    ) -> AsyncIterator[httpx.Response]:
        """An answer of status 200 whose body is not read yet. Raises Gone and RegistryError.
        Too many requests and passing errors are tried again as the server wishes."""
        refused = False
        for attempt in range(MAX_RETRIES + 1):
            token = await trio.to_thread.run_sync(read_token, self._access)
            response = await self._send(path, params, verb, of, read_timeout, token)
            try:
                if response.status_code == 200:
                    yield response
                    return
                error = await self._error(response, verb, of)
            finally:
                with trio.CancelScope(shield=True):
                    await response.aclose()
            if error.code == 401 and not refused:
                refused = True
                # It may have been rotated in between.
                if await trio.to_thread.run_sync(read_token, self._access) != token:
                    continue
            wait = _retry_after(response, error.code)
            if wait is None or attempt == MAX_RETRIES:
                raise error
            self._tell(f"{error}; waiting {wait:.0f} s as it asks")
            # Not all nodes at the same moment.
            await trio.sleep(wait * (1 + 0.2 * self._rng.random()))
            self._tell("")

    async def _send(
        self,
        path: str,
        params: Mapping[str, str],
        verb: str,
        of: Collection,
        read_timeout: float,
        token: str,
    ) -> httpx.Response:
        # Lists are large and the network is near: compressing them costs both ends more.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        extensions: dict[str, Any] = {}
        if self._access.server_name:
            extensions["sni_hostname"] = self._access.server_name
        timeout = httpx.Timeout(5.0, read=read_timeout)
        request = self._http.build_request(
            "GET",
            self._access.server + path,
            params=params,
            headers=headers,
            timeout=timeout,
            extensions=extensions | {"timeout": timeout.as_dict()},
        )
        try:
            return await self._http.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise failed(self._doing(verb, of), error) from None

    async def _error(self, response: httpx.Response, verb: str, of: Collection) -> Refused:
        """What an answer other than 200 means. Raises Gone."""
        body = bytearray()

        def take(chunk: bytes) -> None:
            body.extend(chunk)
            if len(body) > MAX_ERROR:
                raise ValueError

        with contextlib.suppress(httpx.HTTPError, ValueError):
            await each_chunk(response, take)
        code = response.status_code
        message = wire.status(bytes(body)).message[:300]
        doing = self._doing(verb, of)
        if code == 410:
            raise Gone(message)
        if code == 401:
            source = self._access.token_file or "the kubeconfig"
            return Refused(code, f"{doing}: the credentials of {source} are not accepted (401)")
        if code == 403:
            return Refused(
                code,
                f"{doing}: RBAC does not allow `{verb}` on `{of.resource}`{of.place} (403):"
                f" {message}",
            )
        if code == 404 and "/discovery.k8s.io/" in of.path:
            return Refused(
                code, f"{doing}: no discovery.k8s.io/v1 there: Kubernetes 1.21 or newer is needed"
            )
        return Refused(code, f"{doing}: {code}: {message}")

    def _doing(self, verb: str, of: Collection) -> str:
        return f"{verb} {of.resource}{of.place} at {self._access.server}"


async def each_chunk(response: httpx.Response, take: Callable[[bytes], object]) -> None:
    """Give ``take`` the body as it arrives. Raises httpx.HTTPError and what ``take`` raises.

    httpx reads through generators within generators. Left half way, the inner ones would be
    closed by the garbage collector some time later; so the only way out is through their end, or
    by an exception that is raised inside of them.
    """
    failure: Exception | None = None
    with trio.CancelScope() as scope:
        async for chunk in response.aiter_raw():
            if failure is None:
                try:
                    take(chunk)
                except Exception as error:
                    failure = error
                    scope.cancel()
    if failure is not None:
        raise failure


def _retry_after(response: httpx.Response, code: int) -> float | None:
    """Seconds to wait before the same request may be sent again; None: do not."""
    if code != 429 and code < 500:
        return None
    text = response.headers.get("retry-after", "")
    if not (text.isascii() and text.isdecimal() and len(text) < 9):
        return None
    return min(max(float(text), 1.0), MAX_WAIT)
