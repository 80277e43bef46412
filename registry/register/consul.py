"""Announcing to a Consul agent: a service with a TTL check that this node keeps passing.

A node that dies lets the check run out: it turns critical, and Consul removes the service some time
later. An agent that was restarted without its state does not know the check any more, and is told
the service again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import httpx
import trio

from registry.base import Context, RegistryError
from registry.consul.options import Options
from registry.fetch import Answer, Server, fetch, read_secret, server, tls_context
from registry.http import client
from registry.register.encode import Written

__all__ = ["ConsulLink", "connect"]


@asynccontextmanager
async def connect(options: Options, context: Context, ttl: float) -> AsyncIterator[ConsulLink]:
    """Raises RegistryError for files that cannot be read."""
    place = server(options.address)
    token = options.token or ""
    if options.token_file is not None:
        token = await trio.to_thread.run_sync(read_secret, context.base_dir, options.token_file)
    tls = await trio.to_thread.run_sync(
        tls_context, context.base_dir, options.ca_file, options.cert_file, options.key_file
    )
    async with client(mark=context.mark, unix_socket=place.unix_socket, tls=tls) as http:
        yield ConsulLink(http, place, options, token, ttl)


class ConsulLink:
    """See :class:`registry.register.link.Link`."""

    spent = True  # the token is read again

    def __init__(
        self, http: httpx.AsyncClient, place: Server, options: Options, token: str, ttl: float
    ) -> None:
        self.ttl = ttl
        self._http = http
        self._place = place
        self._shown = options.address if place.unix_socket else place.url
        self._headers = {"X-Consul-Token": token} if token else {}
        common: dict[str, str | list[str]] = {}
        if options.consul_namespace:
            common["ns"] = options.consul_namespace
        if options.partition:
            common["partition"] = options.partition
        self._common = common

    def holder(self, written: Written) -> _Service:
        return _Service(self, written.parts[-1], written.value)

    async def address(self) -> str:
        """Consul knows the address of its node."""
        return ""

    async def put(self, path: str, doing: str, body: bytes, *, missing: bool = False) -> Answer:
        """``missing``: the answer that there is no such thing is one. Raises RegistryError."""
        doing = f"{doing} Consul at {self._shown}"
        answer = await fetch(
            self._http,
            self._place.url + path,
            doing=doing,
            params=self._common,
            headers=self._headers,
            content=body,
            method="PUT",
            auth=self._place.auth,
            read_timeout=min(10.0, self.ttl),
        )
        if answer.status == 200 or (missing and _unknown(answer)):
            return answer
        hint = " (the token needs service:write)" if answer.status == 403 else ""
        raise RegistryError(f"{doing}: {answer.status}{hint}: {answer.said()}")


def _unknown(answer: Answer) -> bool:
    """Consul says 404; before 1.12 it said 500 and this."""
    if answer.status == 404:
        return True
    said = answer.said().lower()
    return answer.status == 500 and ("unknown" in said or "does not have associated ttl" in said)


class _Service:
    """One service. See :class:`registry.register.link.Holder`."""

    def __init__(self, link: ConsulLink, identity: str, body: bytes) -> None:
        self.place = identity
        self._link = link
        self._body = body

    async def write(self) -> None:
        path = "/v1/agent/service/register"
        await self._link.put(path, f"registering {self.place} with", self._body)

    async def hold(self) -> None:
        check = quote(f"service:{self.place}", safe=":")
        while True:
            await trio.sleep(self._link.ttl / 3)
            path = f"/v1/agent/check/pass/{check}"
            doing = f"keeping {self.place} alive in"
            if (await self._link.put(path, doing, b"", missing=True)).status != 200:
                return

    async def remove(self) -> None:
        path = f"/v1/agent/service/deregister/{quote(self.place, safe=':')}"
        await self._link.put(path, f"deregistering {self.place} from", b"", missing=True)
