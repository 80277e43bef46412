"""The back end ``consul``.

For each service a long poll (a "blocking query") waits for its health to change. A fixed number of
workers takes the services from a queue. As long as there are no more services than workers, each
is waited for all the time and a change is seen at once; with more, they are read in turns,
without waiting, at a limited rate, and an answer whose index is that of the last one is not
looked at. One more long poll follows the list of services.

The rules of developer.hashicorp.com/consul/api-docs/features/blocking: an index that goes
backwards is forgotten, an index of 0 counts as 1, waking up is no proof of a change, and a token
bucket of two keeps a service that changes all the time from being read all the time.
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar, Final
from urllib.parse import quote

import trio

from registry.base import Context, Problem, RegistryError, Sink
from registry.board import Board, Part, together
from registry.bucket import Bucket
from registry.consul.api import Api, Reading
from registry.consul.options import Options
from registry.consul.wire import Rules, catalog_services, kv_entry, read_entry
from registry.fetch import read_secret, server, tls_context
from registry.http import client
from registry.layouts.entry import Entry, Unusable
from registry.layouts.registrator import Registrator
from registry.model import Endpoint, qualified_name
from registry.pieces import pieces

__all__ = ["ConsulBackend", "Options"]

BITE: Final = 100
"""Entries that are decoded between two checkpoints (about 2 ms)."""


class ConsulBackend:
    """See the module's text."""

    kind: ClassVar[str] = "consul"
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options, context: Context) -> None:
        """Raises ValueError."""
        if not 1 <= options.wait <= 600:
            raise ValueError("wait must be 1s to 10m")
        if options.token is not None and options.token_file is not None:
            raise ValueError("`token` and `token_file` exclude one another")
        if options.key_file is not None and options.cert_file is None:
            raise ValueError("`key_file` needs `cert_file`")
        if options.follow and (options.prefix or options.layout != "catalog"):
            raise ValueError("`follow` excludes `prefix` and the layout registrator-kv")
        self._options = options
        self._context = context
        self._place = server(options.address)
        self._settings = {
            qualified_name(name, options.namespace): value
            for name, value in options.services.items()
        }
        self.reads = 0
        """Answers that were decoded, for tests."""

    async def run(self, sink: Sink) -> None:
        """See :class:`registry.base.Backend`."""
        options, folder = self._options, self._context.base_dir
        token = options.token or ""
        if options.token_file is not None:
            token = await trio.to_thread.run_sync(read_secret, folder, options.token_file)
        tls = await trio.to_thread.run_sync(
            tls_context, folder, options.ca_file, options.cert_file, options.key_file
        )
        board = Board(sink, self._settings)

        def leader(known: bool) -> None:
            message = "the server knows no leader: its answers may be old"
            board.trouble("leader", [] if known else [Problem(message, self._place.url)])

        async with (
            client(mark=self._context.mark, unix_socket=self._place.unix_socket, tls=tls) as http,
            together() as nursery,
        ):
            api = Api(http, self._place, options, token, leader=leader)
            nursery.start_soon(board.run)
            if options.layout == "registrator-kv":
                nursery.start_soon(_Keys(self, api, board).run)
            else:
                _Catalog(self, api, board).start(nursery)


class _Catalog:
    """Services with their health. One for each run."""

    def __init__(self, backend: ConsulBackend, api: Api, board: Board) -> None:
        options = backend._options
        self._backend = backend
        self._options = options
        self._api = api
        self._board = board
        self._rules = Rules(frozenset(options.statuses), options.zone_meta, options.allow_loopback)
        self._params: dict[str, str | list[str]] = {}
        if options.tags:
            self._params["tag"] = list(options.tags)
        if options.filter is not None:
            self._params["filter"] = options.filter
        if options.statuses == ("passing",):
            self._params["passing"] = "1"
        if options.datacenter is not None:
            self._params["dc"] = options.datacenter
        self._workers = options.max_queries - (0 if options.follow else 1)
        self._wanted: frozenset[str] = frozenset()
        self._followed = False
        self._queue: deque[str] = deque()
        self._held: set[str] = set()
        """In the queue, or with a worker."""
        self._polls: dict[str, trio.CancelScope] = {}
        """Queries that wait for a change now."""
        self._index: dict[str, int] = {}
        self._buckets: dict[str, Bucket] = {}
        self._turns = False
        self._pace = Bucket(1 / options.rate, burst=max(2, options.rate // 10))
        self._idle = trio.lowlevel.ParkingLot()

    def start(self, nursery: trio.Nursery) -> None:
        if self._options.follow:
            self._follow(frozenset(self._options.follow))
        else:
            nursery.start_soon(self._list)
        for _ in range(self._workers):
            nursery.start_soon(self._worker)

    # --- which services ---

    async def _list(self) -> None:
        bucket = Bucket(self._options.interval)
        index = 0
        centre = self._options.datacenter
        params: dict[str, str | list[str]] = {"dc": centre} if centre is not None else {}
        what = "the list of services"
        while True:
            await trio.sleep(bucket.take(trio.current_time()))
            answer = await self._api.read("/v1/catalog/services", what, params, index)
            index = _next(index, answer.position)
            try:
                found, wrong = catalog_services(answer.body)
            except ValueError as error:
                raise RegistryError(
                    f"reading {what} from Consul at {self._api.shown}:"
                    f" the answer is not Consul's: {error}"
                ) from None
            self._board.trouble(
                "list", [Problem(message, self._source(name)) for name, message in wrong]
            )
            names = {n for n, tags in found.items() if self._is_wanted(n, tags)}
            names |= {n for n, _ in wrong if self._is_wanted(n, frozenset(self._options.tags))}
            self._follow(frozenset(names))

    def _is_wanted(self, name: str, tags: frozenset[str]) -> bool:
        return (
            name.startswith(self._options.prefix)
            and name not in self._options.exclude
            and tags.issuperset(self._options.tags)
        )

    def _follow(self, wanted: frozenset[str]) -> None:
        if wanted == self._wanted and self._followed:
            self._board.unchanged()
            return
        self._followed = True
        gone, self._wanted = self._wanted - wanted, wanted
        for name in gone:
            self._index.pop(name, None)
            self._buckets.pop(name, None)
            if name in self._polls:
                self._polls[name].cancel()
        namespace = self._options.namespace
        self._board.follow({name: qualified_name(name, namespace) for name in sorted(wanted)})
        turns = len(wanted) > self._workers
        if turns and not self._turns:
            # Those who wait for a change would keep the others from being read at all.
            for scope in self._polls.values():
                scope.cancel()
        self._turns = turns
        for name in sorted(wanted - self._held):
            self._enqueue(name)

    # --- their health ---

    def _enqueue(self, name: str) -> None:
        self._held.add(name)
        self._queue.append(name)
        self._idle.unpark()

    async def _worker(self) -> None:
        while True:
            while not self._queue:
                await self._idle.park()
            name = self._queue.popleft()
            if name in self._wanted:
                await self._read(name)
            self._held.discard(name)
            if name in self._wanted:
                self._enqueue(name)

    async def _read(self, name: str) -> None:
        index = self._index.get(name, 0)
        bucket = self._buckets.setdefault(name, Bucket(self._options.interval))
        if self._turns and index:
            await trio.sleep(self._pace.take(trio.current_time()))
        with trio.CancelScope() as scope:
            self._polls[name] = scope
            try:
                await trio.sleep(bucket.take(trio.current_time()))
                answer = await self._api.read(
                    f"/v1/health/service/{quote(name, safe='')}",
                    f"service {name}",
                    self._params,
                    0 if self._turns else index,
                )
            finally:
                del self._polls[name]
        if scope.cancelled_caught or name not in self._wanted:
            return
        self._index[name] = _next(index, answer.position)
        if index == answer.position:
            self._board.confirm(name)
        else:
            await self._decode(name, answer)

    async def _decode(self, name: str, answer: Reading) -> None:
        source = self._source(name)
        self._backend.reads += 1
        endpoints: list[Endpoint] = []
        problems: list[Problem] = []
        count = 0
        try:
            for raw in pieces(answer.body):
                count += 1
                if count % BITE == 0:
                    await trio.lowlevel.checkpoint()
                try:
                    endpoint = read_entry(raw, self._rules)
                except ValueError as error:
                    problems.append(Problem(str(error), source))
                else:
                    if endpoint is not None:
                        endpoints.append(endpoint)
        except ValueError as error:
            # A proxy's error page, or a bug: not worth losing all other services.
            problems = [Problem(f"the answer is not Consul's: {error}", source)]
            self._board.unreadable(name, problems)
            return
        if problems and len(problems) == count:
            self._board.unreadable(name, problems)
            return
        part: Part | None = Part(
            qualified_name(name, self._options.namespace), tuple(endpoints), origin=source
        )
        if not count and self._options.follow:
            # Consul does not tell a service that is not there from one without instances.
            part = None
        self._board.answer(name, part, problems)

    def _source(self, name: str) -> str:
        centre = self._options.datacenter
        return f"consul {centre}/{name}" if centre is not None else f"consul {name}"


class _Keys:
    """registrator's keys. One for each run."""

    def __init__(self, backend: ConsulBackend, api: Api, board: Board) -> None:
        self._backend = backend
        self._options = backend._options
        self._api = api
        self._board = board
        self._prefix = self._options.kv_prefix.strip("/")
        self._layout = Registrator()

    async def run(self) -> None:
        """Until cancelled."""
        bucket = Bucket(self._options.interval)
        index = 0
        params: dict[str, str | list[str]] = {"recurse": ""}
        if self._options.datacenter is not None:
            params["dc"] = self._options.datacenter
        path = f"/v1/kv/{quote(self._prefix)}/"
        what = f"the keys below {self._prefix}/"
        while True:
            await trio.sleep(bucket.take(trio.current_time()))
            answer = await self._api.read(path, what, params, index, missing=True)
            if index == answer.position:
                self._board.confirm_all()
            else:
                self._backend.reads += 1
                await self._decode(answer.body if answer.status == 200 else b"[]")
            index = _next(index, answer.position)

    async def _decode(self, body: bytes) -> None:
        found: dict[str, list[Endpoint]] = {}
        wrong: dict[str, list[Problem]] = {}
        strays: list[Problem] = []
        count = 0
        try:
            for raw in pieces(body):
                count += 1
                if count % BITE == 0:
                    await trio.lowlevel.checkpoint()
                self._key(raw, found, wrong, strays)
        except ValueError as error:
            raise RegistryError(
                f"reading the keys below {self._prefix}/ from Consul at {self._api.shown}:"
                f" the answer is not Consul's: {error}"
            ) from None
        self._board.trouble("keys", strays)
        names = sorted({*found, *wrong})
        self._board.follow({name: name for name in names})
        for i, name in enumerate(names):
            if i % BITE == 0:
                await trio.lowlevel.checkpoint()
            problems = wrong.get(name, [])
            if name in found:
                origin = f"consul {self._prefix}/ {name}"
                part = Part(name, tuple(found[name]), origin=origin)
                self._board.answer(name, part, problems)
            else:
                self._board.unreadable(name, problems)

    def _key(
        self,
        raw: bytes,
        found: dict[str, list[Endpoint]],
        wrong: dict[str, list[Problem]],
        strays: list[Problem],
    ) -> None:
        try:
            entry = kv_entry(raw, self._prefix)
        except ValueError as error:
            strays.append(Problem(str(error), f"consul {self._prefix}/"))
            return
        if entry is None:
            return
        source = f"consul {self._prefix}/{'/'.join(entry.parts)}"
        try:
            service = self._layout.service(entry.parts)
        except Unusable as error:
            strays.append(Problem(str(error), source))
            return
        if service is None:
            return
        name = qualified_name(service, self._options.namespace)
        said = self._layout.read(source, entry.parts, entry.value)
        if isinstance(said, Entry):
            found.setdefault(name, []).extend(said.endpoints)
        elif said is not None:
            wrong.setdefault(name, []).append(said)


def _next(last: int, new: int) -> int:
    """The index for the next query: 0, to read at once, where it went backwards."""
    return 0 if new < last else new
