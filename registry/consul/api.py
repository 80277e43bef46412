"""Requests to Consul: parameters that all of them have, and its errors in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import httpx

from registry.base import RegistryError
from registry.consul.options import Options
from registry.consul.wire import index_of
from registry.fetch import Answer, Server, fetch

__all__ = ["Api", "Reading"]

PATIENCE: Final = 10.0
"""Seconds beyond the time that a query may wait at most."""


class Reading(NamedTuple):
    """An answer of status 200, or 404 where that says "nothing there"."""

    status: int
    position: int
    """X-Consul-Index."""
    body: bytes


class Api:
    """One agent."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        place: Server,
        options: Options,
        token: str,
        *,
        leader: Callable[[bool], None],
    ) -> None:
        """``leader`` is told with each answer whether its server knew a leader."""
        self._http = http
        self._place = place
        self._wait = options.wait
        self._headers = {"X-Consul-Token": token} if token else {}
        self._leader = leader
        common: dict[str, str | list[str]] = {}
        if options.consul_namespace:
            common["ns"] = options.consul_namespace
        if options.partition:
            common["partition"] = options.partition
        if options.consistency != "default":
            common[options.consistency] = ""
        self._common = common
        self.shown = options.address if place.unix_socket else place.url

    async def read(
        self,
        path: str,
        what: str,
        params: Mapping[str, str | list[str]],
        index: int,
        *,
        missing: bool = False,
    ) -> Reading:
        """``index``: wait until there is something newer; 0: do not wait. ``missing``: 404 is an
        answer. Raises RegistryError."""
        query = {**self._common, **params}
        timeout = PATIENCE
        if index:
            query |= {"index": str(index), "wait": f"{round(self._wait * 1000)}ms"}
            # The server adds up to a sixteenth, so that not all queries end at once.
            timeout += self._wait + self._wait / 16
        doing = f"reading {what} from Consul at {self.shown}"
        answer = await fetch(
            self._http,
            self._place.url + path,
            doing=doing,
            params=query,
            headers=self._headers,
            auth=self._place.auth,
            read_timeout=timeout,
        )
        if answer.status != 200 and not (missing and answer.status == 404):
            raise RegistryError(f"{doing}: {_refusal(answer)}")
        position = index_of(answer.headers)
        if position is None:
            raise RegistryError(f"{doing}: the answer has no X-Consul-Index: is this Consul?")
        self._leader(answer.headers.get("x-consul-knownleader", "true") != "false")
        return Reading(answer.status, position, answer.body)


def _refusal(answer: Answer) -> str:
    if answer.status == 403:
        return (
            "the token is not known, or lacks service:read and node:read (key:read for"
            f" registrator-kv) (403): {answer.said()}"
        )
    if answer.status == 429:
        return f"too many connections (429): lower max_queries: {answer.said()}"
    return f"{answer.status}: {answer.said()}"
