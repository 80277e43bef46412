"""Requests to Nacos: login, and the next server where one fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import httpx
import trio

from registry.base import RegistryError
from registry.fetch import Answer, Server, fetch, read_secret
from registry.nacos.options import Options
from registry.nacos.wire import Refused, login, unwrapped

__all__ = ["Api"]

RENEW: Final = 0.8
"""Part of a token's life after which we log in again."""


class Api:
    """A cluster of servers that say the same."""

    def __init__(
        self, http: httpx.AsyncClient, servers: list[Server], options: Options, folder: str
    ) -> None:
        self._http = http
        self._servers = servers
        self._options = options
        self._folder = folder
        self._current = 0
        self._token = ""
        self._until = -math.inf
        self._login = trio.Lock()

    async def get(self, path: str, what: str, params: Mapping[str, str]) -> bytes:
        """``path``: below the version. Raises Refused for this question, RegistryError if no
        server can be used."""
        said: dict[str, None] = {}
        first = self._current
        for turn in range(len(self._servers)):
            number = (first + turn) % len(self._servers)
            try:
                body = await self._one(self._servers[number], path, what, params)
            except RegistryError as error:
                said[str(error)] = None
                continue
            self._current = number
            return body
        raise RegistryError("; ".join(said))

    async def _one(self, place: Server, path: str, what: str, params: Mapping[str, str]) -> bytes:
        """Raises Refused, RegistryError."""
        doing = f"reading {what} from Nacos at {place.url}"
        answer = await self._send(place, path, params, doing)
        if answer.status in (401, 403) and self._options.username is not None:
            # The server may have been restarted with another key for its tokens.
            self._until = -math.inf
            answer = await self._send(place, path, params, doing)
        if answer.status in (401, 403):
            raise RegistryError(f"{doing}: not allowed ({answer.status}): {answer.said()}")
        if 400 <= answer.status < 500 and answer.status not in (404, 405, 429):
            raise Refused(f"{answer.status}: {answer.said()}")
        if answer.status != 200:
            raise RegistryError(f"{doing}: {answer.status}: {answer.said()}")
        unwrapped(answer.body, self._options.api)
        return answer.body

    async def _send(
        self, place: Server, path: str, params: Mapping[str, str], doing: str
    ) -> Answer:
        headers = {}
        token = await self._access(place)
        if token:
            # The parameter accessToken would do the same, and stand in every log on the way.
            headers["Authorization"] = f"Bearer {token}"
        return await fetch(
            self._http,
            f"{place.url}/{self._options.api}{path}",
            doing=doing,
            params=params,
            headers=headers,
            auth=place.auth,
            read_timeout=self._options.timeout,
        )

    async def _access(self, place: Server) -> str:
        """The token; empty where none is needed. Raises RegistryError."""
        user, file = self._options.username, self._options.password_file
        if user is None or file is None:
            return ""
        async with self._login:
            if trio.current_time() < self._until:
                return self._token
            password = await trio.to_thread.run_sync(read_secret, self._folder, file)
            doing = f"logging in to Nacos at {place.url}"
            answer = await fetch(
                self._http,
                f"{place.url}/v1/auth/login",
                doing=doing,
                form={"username": user, "password": password},
                read_timeout=self._options.timeout,
            )
            if answer.status != 200:
                # Not what it said: it may repeat what was sent.
                raise RegistryError(f"{doing}: refused ({answer.status})")
            try:
                found = login(answer.body)
            except ValueError:
                raise RegistryError(f"{doing}: the answer has no accessToken") from None
            self._token = found.token
            self._until = trio.current_time() + found.ttl * RENEW
            return self._token
