"""The back end ``nacos``.

The list of services is read page by page every now and then; a task for each service reads its
instances, as often as the server's ``cacheMillis`` asks for, within limits and at a limited rate
for all of them together.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec
import trio

from registry.base import Context, Problem, RegistryError, Sink
from registry.board import Board, Part, together
from registry.bucket import Bucket
from registry.fetch import server, tls_context
from registry.http import client
from registry.model import Endpoint, qualified_name
from registry.nacos.api import Api
from registry.nacos.options import Options
from registry.nacos.wire import page, read_host, settings_of
from registry.pieces import pieces
from registry.weights import whole

__all__ = ["NacosBackend", "Options"]

BITE: Final = 100
"""Instances that are decoded between two checkpoints (about 2 ms)."""
PAGE: Final = 500
"""Services in one page of the list."""
DEFAULT_CACHE: Final = 10.0
"""Seconds between two reads of a service whose answer has no cacheMillis."""


class NacosBackend:
    """See the module's text."""

    kind: ClassVar[str] = "nacos"
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options, context: Context) -> None:
        """Raises ValueError."""
        if not 1 <= options.list_interval <= 3600:
            raise ValueError("list_interval must be 1s to 1h")
        if not 0.1 <= options.min_interval <= options.max_interval:
            raise ValueError("min_interval must be 100ms or more, and not above max_interval")
        if not 0.1 <= options.timeout <= 300:
            raise ValueError("timeout must be 100ms to 5m")
        if (options.username is None) != (options.password_file is None):
            raise ValueError("`username` and `password_file` belong together")
        if options.key_file is not None and options.cert_file is None:
            raise ValueError("`key_file` needs `cert_file`")
        self.options = options
        self.servers = [server(text) for text in options.servers]
        self.page = PAGE
        self.list_interval: float = options.list_interval
        self._context = context
        self._settings = {
            qualified_name(name, options.namespace): value
            for name, value in options.services.items()
        }

    async def run(self, sink: Sink) -> None:
        """See :class:`registry.base.Backend`."""
        options, folder = self.options, self._context.base_dir
        tls = await trio.to_thread.run_sync(
            tls_context, folder, options.ca_file, options.cert_file, options.key_file
        )
        board = Board(sink, self._settings)
        async with client(mark=self._context.mark, tls=tls) as http, together() as nursery:
            api = Api(http, self.servers, options, folder)
            nursery.start_soon(board.run)
            nursery.start_soon(_Group(self, api, board, nursery).run)


class _Group:
    """One group's services. One for each run."""

    def __init__(
        self, backend: NacosBackend, api: Api, board: Board, nursery: trio.Nursery
    ) -> None:
        self._backend = backend
        self._options = backend.options
        self._api = api
        self._board = board
        self._nursery = nursery
        self._limit = trio.CapacityLimiter(self._options.max_queries)
        rate = self._options.rate
        self._pace = Bucket(1 / rate, burst=max(2, rate // 10))
        self._tasks: dict[str, trio.CancelScope] = {}
        self._refused: dict[str, str] = {}
        """Services whose last answer was none, and why."""
        self._where = {"groupName": self._options.group}
        if self._options.nacos_namespace:
            self._where["namespaceId"] = self._options.nacos_namespace

    async def run(self) -> None:
        """Until cancelled. Raises RegistryError."""
        if self._options.follow:
            self._follow(set(self._options.follow))
            return
        while True:
            self._follow(await self._list())
            await trio.sleep(self._backend.list_interval)

    # --- which services ---

    async def _list(self) -> set[str]:
        names: set[str] = set()
        number = 0
        while True:
            number += 1
            params = {"pageNo": str(number), "pageSize": str(self._backend.page)} | self._where
            try:
                body = await self._api.get("/ns/service/list", "the list of services", params)
                found = page(body, self._options.api)
            except ValueError as error:
                raise RegistryError(f"reading Nacos' list of services: {error}") from None
            names.update(found.names)
            if not found.names or number * self._backend.page >= found.total:
                return names

    def _follow(self, names: set[str]) -> None:
        for name in self._tasks.keys() - names:
            self._tasks.pop(name).cancel()
            self._refused.pop(name, None)
        namespace = self._options.namespace
        self._board.follow({name: qualified_name(name, namespace) for name in sorted(names)})
        for name in sorted(names - self._tasks.keys()):
            self._tasks[name] = scope = trio.CancelScope()
            self._nursery.start_soon(self._service, name, scope)

    # --- their instances ---

    async def _service(self, name: str, scope: trio.CancelScope) -> None:
        params = {"serviceName": name, "healthyOnly": "false"} | self._where
        if self._options.clusters:
            key = "clusters" if self._options.api == "v1" else "clusterName"
            params[key] = ",".join(self._options.clusters)
        first = True
        with scope:
            while True:
                if not first:
                    await trio.sleep(self._pace.take(trio.current_time()))
                first = False
                async with self._limit:
                    wait = await self._read(name, params)
                await trio.sleep(wait)

    async def _read(self, name: str, params: dict[str, str]) -> float:
        """Seconds after which it is to be read again. Raises RegistryError."""
        source = f"nacos {self._options.group}@@{name}"
        try:
            body = await self._api.get("/ns/instance/list", f"service {name}", params)
            await self._decode(name, body, source)
        except ValueError as error:
            self._refused[name] = str(error)
            if len(self._refused) == len(self._tasks):
                raise RegistryError(f"no service can be read from Nacos: {error}") from None
            self._board.unreadable(name, [Problem(str(error), source)])
            return self._options.max_interval
        self._refused.pop(name, None)
        return pause(self._options, settings_of(body)[0])

    async def _decode(self, name: str, body: bytes, source: str) -> None:
        """Raises ValueError."""
        found: list[tuple[Endpoint, float]] = []
        problems: list[Problem] = []
        count = 0
        path = ("hosts",) if self._options.api == "v1" else ("data", "hosts")
        for raw in pieces(body, path):
            count += 1
            if count % BITE == 0:
                await trio.lowlevel.checkpoint()
            try:
                host = read_host(raw, self._options)
            except ValueError as error:
                problems.append(Problem(str(error), source))
            else:
                if host is not None:
                    found.append(host)
        if problems and len(problems) == count:
            self._board.unreadable(name, problems)
            return
        if settings_of(body)[1]:
            message = "too few healthy instances: Nacos says that all are (protection threshold)"
            problems.append(Problem(message, source))
        weights = whole([weight for _, weight in found])
        endpoints = tuple(
            endpoint if weight == 1 else msgspec.structs.replace(endpoint, weight=weight)
            for (endpoint, _), weight in zip(found, weights, strict=True)
        )
        part: Part | None = None
        if count or not self._options.follow:
            # Nacos does not tell a service that is not there from one without instances.
            part = Part(qualified_name(name, self._options.namespace), endpoints, origin=source)
        self._board.answer(name, part, problems)


def pause(options: Options, cache: float | None) -> float:
    """Seconds until a service is read again that may be cached for so long."""
    wanted = DEFAULT_CACHE if cache is None else cache
    return min(max(wanted, options.min_interval), options.max_interval)
