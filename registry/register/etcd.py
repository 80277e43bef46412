"""Announcing to etcd: a key with a lease of its own.

The lease is kept alive three times in its lifetime, and the key is looked at each time: whoever
deletes it finds it again. A restart of the cluster keeps leases; where one is lost, or the whole
cluster is made anew, the next look writes it again.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
import trio

from registry.base import RegistryError
from registry.etcd.backend import EtcdBackend
from registry.etcd.gateway import Compacted, Gateway
from registry.etcd.options import Options
from registry.etcd.wire import Range
from registry.register.encode import Written
from registry.register.link import local_address

__all__ = ["EtcdLink", "connect"]

T = TypeVar("T")


class _Lease(msgspec.Struct):
    ID: str = "0"
    TTL: int = 0


class _KeptAlive(msgspec.Struct):
    result: _Lease = msgspec.field(default_factory=_Lease)


class _Done(msgspec.Struct):
    pass


@asynccontextmanager
async def connect(
    backend: EtcdBackend, options: Options, prefix: str, ttl: float, mark: int
) -> AsyncIterator[EtcdLink]:
    """Raises RegistryError for files that cannot be read."""
    async with backend.connect() as gateway:
        yield EtcdLink(gateway, options.endpoints, prefix, ttl, mark)


class EtcdLink:
    """See :class:`registry.register.link.Link`."""

    spent = True  # it keeps nothing alive by itself; credentials are read again

    def __init__(
        self, gateway: Gateway, endpoints: tuple[str, ...], prefix: str, ttl: float, mark: int
    ) -> None:
        self.gateway = gateway
        self.ttl = ttl
        self._endpoints = endpoints
        self._prefix = prefix
        self._mark = mark

    def holder(self, written: Written) -> _Key:
        return _Key(self, "/".join((self._prefix, *written.parts)), written.value)

    async def address(self) -> str:
        parts = [urlsplit(endpoint) for endpoint in self._endpoints]
        return await local_address(((p.hostname or "", p.port or 2379) for p in parts), self._mark)


class _Key:
    """One key. See :class:`registry.register.link.Holder`."""

    def __init__(self, link: EtcdLink, key: str, value: bytes) -> None:
        self.place = key
        self._link = link
        self._key = base64.b64encode(key.encode()).decode()
        self._raw = value
        self._lease = ""

    async def write(self) -> None:
        if not await self._alive():
            granted = await self._call("/v3/lease/grant", _Lease, TTL=round(self._link.ttl))
            self._lease = granted.ID
        value = base64.b64encode(self._raw).decode()
        await self._call("/v3/kv/put", _Done, key=self._key, value=value, lease=self._lease)

    async def hold(self) -> None:
        while True:
            await trio.sleep(self._link.ttl / 3)
            if not await self._alive():
                return
            found = await self._call("/v3/kv/range", Range, key=self._key)
            if not found.kvs or found.kvs[0].value != self._raw:
                return

    async def remove(self) -> None:
        await self._call("/v3/kv/deleterange", _Done, key=self._key)
        if self._lease and await self._alive():
            await self._call("/v3/lease/revoke", _Done, ID=self._lease)
        self._lease = ""

    async def _alive(self) -> bool:
        """Prolongs the lease. An answer without a time to live means that there is none."""
        if not self._lease:
            return False
        kept = await self._call("/v3/lease/keepalive", _KeptAlive, ID=self._lease)
        if kept.result.TTL <= 0:
            self._lease = ""
        return bool(self._lease)

    async def _call(self, path: str, type_: type[T], **body: str | int) -> T:
        try:
            answer, _ = await self._link.gateway.call(path, body, type_)
        except Compacted as error:
            raise RegistryError(f"{path}: {error}") from None
        return answer
