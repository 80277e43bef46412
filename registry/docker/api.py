"""The Docker Engine API: version, lists, inspections and events. Thin I/O.

Reference: https://docs.docker.com/reference/api/engine/. The version is negotiated as the client
of Docker does it: the newest that both know.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import httpx
import msgspec
import trio

from registry.base import RegistryError
from registry.docker import wire
from registry.fetch import Answer, Body, fetch
from registry.http import failed
from registry.pieces import pieces

__all__ = ["Api", "chosen_version"]

OLDEST: Final = (1, 24)
NEWEST: Final = (1, 51)
"""Of the versions of the API, the range whose fields are those that are read here."""
MAX_LINE: Final = 1 << 20
"""Bytes of an event that are accepted."""


def chosen_version(server: wire.Version) -> str:
    """Raises RegistryError."""
    newest, oldest = _numbers(server.api_version), _numbers(server.min_api_version)
    chosen = min(newest, NEWEST)
    if chosen < OLDEST or chosen < oldest:
        raise RegistryError(
            f"the engine speaks the versions {server.min_api_version} to {server.api_version} of"
            f" the API; {_text(OLDEST)} to {_text(NEWEST)} are known here"
        )
    return _text(chosen)


def _numbers(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    if not all(part.isascii() and part.isdecimal() and len(part) < 6 for part in (major, minor)):
        raise RegistryError(f"the engine's version of the API is {version!r}")
    return int(major), int(minor)


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


class Api:
    """One engine. Every method raises RegistryError."""

    def __init__(self, http: httpx.AsyncClient, place: str, timeout: float) -> None:
        """``place``: the engine, for messages."""
        self._http = http
        self._place = place
        self._timeout = timeout
        self._prefix = ""

    async def negotiate(self) -> None:
        """Before anything else."""
        answer = await self._get("/version", {})
        try:
            version = wire.decode_version(answer.body)
        except msgspec.MsgspecError as error:
            raise RegistryError(f"{self._place} is no Docker engine: {error}") from None
        self._prefix = f"/v{chosen_version(version)}"

    async def listing(self, path: str, filters: Mapping[str, list[str]]) -> list[bytes]:
        """The elements of a list, each as JSON."""
        answer = await self._get(path, _filters(filters))
        found: list[bytes] = []
        try:
            for i, piece in enumerate(pieces(answer.body)):
                found.append(piece)
                if i % 100 == 99:
                    await trio.lowlevel.checkpoint()
        except ValueError as error:
            raise RegistryError(f"{self._place}{path}: not a list in JSON: {error}") from None
        return found

    async def inspect(self, container: str) -> bytes | None:
        """None: there is no such container (any more)."""
        answer = await self._get(f"/containers/{container}/json", {}, missing=True)
        return None if answer.status == 404 else answer.body

    @asynccontextmanager
    async def events(
        self, filters: Mapping[str, list[str]]
    ) -> AsyncIterator[Callable[[Callable[[bytes], None]], Awaitable[None]]]:
        """When the block begins the engine tells. Gives a coroutine function that calls back for
        each event until the stream ends, which raises RegistryError."""
        path = f"{self._prefix}/events"
        doing = f"{self._place}{path}"
        request = self._http.build_request(
            "GET", path, params=_filters(filters), timeout=httpx.Timeout(self._timeout, read=None)
        )
        request.stream = Body(b"")
        try:
            # The engine sends the head at once; only then may it be silent.
            with trio.fail_after(self._timeout):
                response = await self._http.send(request, stream=True)
        except trio.TooSlowError:
            raise RegistryError(f"{doing}: no answer in time") from None
        except httpx.HTTPError as error:
            raise failed(doing, error) from None
        stream = response.aiter_raw()

        async def follow(tell: Callable[[bytes], None]) -> None:
            if response.status_code != 200:
                raise RegistryError(f"{doing}: {response.status_code}")
            rest = b""
            try:
                async for chunk in stream:
                    *lines, rest = (rest + chunk).split(b"\n")
                    if len(rest) > MAX_LINE:
                        raise RegistryError(f"{doing}: an event has no end")
                    for line in lines:
                        if line.strip():
                            tell(line)
            except httpx.HTTPError as error:
                raise failed(doing, error) from None
            raise RegistryError(f"{doing}: the engine ended the stream of events")

        try:
            yield follow
        finally:
            with trio.CancelScope(shield=True):
                assert isinstance(stream, AsyncGenerator)
                await stream.aclose()
                await response.aclose()

    async def _get(self, path: str, params: Mapping[str, str], *, missing: bool = False) -> Answer:
        doing = f"{self._place}{path}"
        answer = await fetch(
            self._http,
            self._prefix + path,
            doing=doing,
            params=params,
            read_timeout=self._timeout,
        )
        if answer.status == 200 or (missing and answer.status == 404):
            return answer
        raise RegistryError(f"{doing}: {answer.status} {answer.said()}")


def _filters(filters: Mapping[str, list[str]]) -> dict[str, str]:
    return {"filters": msgspec.json.encode(filters).decode()} if filters else {}
