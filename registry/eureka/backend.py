"""The back end ``eureka``.

The first answer is everything, those that follow are changes (``/apps/delta``), which a server
keeps for three minutes. Whether some were missed shows in the hash code, a count of instances by
status; then everything is asked for again, as it is after every failure and from every other
server: their replication is not in step.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import nullcontext
from typing import ClassVar, Final

import httpx
import msgspec
import trio

from registry.base import Context, Problem, RegistryError, Sink
from registry.board import Board, Part, together
from registry.bulk import bulk
from registry.eureka.options import Options
from registry.eureka.wire import Instance, app_name, hash_code, hash_of, read_instance
from registry.fetch import Answer, Server, fetch, read_secret, server, tls_context
from registry.http import client
from registry.model import Endpoint, qualified_name
from registry.pieces import pieces
from registry.weights import whole

__all__ = ["EurekaBackend", "Options"]

BITE: Final = 50
"""Instances that are decoded between two checkpoints (about 1 ms)."""
LARGE: Final = 1024 * 1024
"""Bytes from which on an answer is a load, not a change."""
JITTER: Final = 0.1
"""Part of the interval that is drawn anew each time, so that nodes do not ask together."""


class EurekaBackend:
    """See the module's text."""

    kind: ClassVar[str] = "eureka"
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options, context: Context) -> None:
        """Raises ValueError."""
        if not 1 <= options.poll <= 600:
            raise ValueError("poll must be 1s to 10m")
        if not 0.1 <= options.timeout <= 300:
            raise ValueError("timeout must be 100ms to 5m")
        if (options.username is None) != (options.password_file is None):
            raise ValueError("`username` and `password_file` belong together")
        if options.key_file is not None and options.cert_file is None:
            raise ValueError("`key_file` needs `cert_file`")
        self.options = options
        self.context = context
        self.servers = [server(text) for text in options.servers]
        self.current = 0
        """The server that answered last."""
        self.interval: float = options.poll
        self.settings = {
            qualified_name(name, options.namespace): value
            for name, value in options.services.items()
        }
        self.rng = random.Random()

    async def run(self, sink: Sink) -> None:
        """See :class:`registry.base.Backend`."""
        options, folder = self.options, self.context.base_dir
        tls = await trio.to_thread.run_sync(
            tls_context, folder, options.ca_file, options.cert_file, options.key_file
        )
        auth = None
        if options.username is not None and options.password_file is not None:
            secret = await trio.to_thread.run_sync(read_secret, folder, options.password_file)
            auth = httpx.BasicAuth(options.username, secret)
        board = Board(sink, self.settings)
        async with client(mark=self.context.mark, tls=tls) as http, together() as nursery:
            nursery.start_soon(board.run)
            nursery.start_soon(_Poller(self, http, auth, board).run)


class _Poller:
    """One for each run."""

    def __init__(
        self,
        backend: EurekaBackend,
        http: httpx.AsyncClient,
        auth: httpx.BasicAuth | None,
        board: Board,
    ) -> None:
        self._backend = backend
        self._options = backend.options
        self._wanted = {name.upper() for name in backend.options.follow}
        self._http = http
        self._auth = auth
        self._board = board
        self._apps: dict[str, dict[str, Instance]] = {}
        """All that is known, of all applications: the hash code is about all of them."""
        self._followed: frozenset[str] | None = None
        self._source = -1
        """The server that it is known from; -1: nothing is known."""
        self._delta = backend.options.delta

    async def run(self) -> None:
        """Until cancelled. Raises RegistryError when no server answers."""
        while True:
            if not (self._delta and self._source >= 0 and await self._changes()):
                await self._everything()
            jitter = 1 + JITTER * (self._backend.rng.random() - 0.5)
            await trio.sleep(self._backend.interval * jitter)

    # --- asking ---

    async def _changes(self) -> bool:
        """Ask for a delta; False if it does not lead to what the server has."""
        place = self._backend.servers[self._source]
        try:
            answer = await self._ask(place, "/apps/delta")
        except RegistryError:
            return False  # the whole will tell, perhaps from another server
        if answer.status in (403, 404, 405):
            self._delta = False
        if answer.status != 200:
            return False
        try:
            changed = await self._apply(answer.body)
        except ValueError:
            self._source = -1
            return False
        if hash_code(answer.body) != await self._hash():
            return False
        await self._tell(changed)
        return True

    async def _everything(self) -> None:
        """Raises RegistryError with what each server said."""
        said = []
        count = len(self._backend.servers)
        for turn in range(count):
            number = (self._backend.current + turn) % count
            place = self._backend.servers[number]
            try:
                answer = await self._ask(place, "/apps")
                if answer.status != 200:
                    raise RegistryError(f"reading {place.url}/apps: {_refusal(answer)}")
                with bulk() if len(answer.body) > LARGE else nullcontext():
                    await self._replace(place, answer.body)
            except RegistryError as error:
                said.append(str(error))
                continue
            self._backend.current = self._source = number
            return
        self._source = -1
        raise RegistryError("; ".join(said))

    async def _ask(self, place: Server, path: str) -> Answer:
        """Raises RegistryError."""
        return await fetch(
            self._http,
            place.url + path,
            doing=f"reading {place.url}{path}",
            auth=place.auth or self._auth,
            read_timeout=self._options.timeout,
        )

    # --- understanding ---

    async def _replace(self, place: Server, body: bytes) -> None:
        """Raises RegistryError."""
        strays: list[Problem] = []
        try:
            apps = await self._decode(body, strays)
        except ValueError as error:
            raise RegistryError(
                f"reading {place.url}/apps: the answer is not Eureka's: {error}"
            ) from None
        changed = await self._take(apps)
        theirs = hash_code(body)
        ours = await self._hash()
        if self._delta and theirs != ours and not strays:
            # No delta could ever be checked.
            self._delta = False
            message = f"its hash code is {theirs!r}, its instances are {ours!r}: no deltas"
            strays.append(Problem(message, place.url))
        self._board.trouble("instances", strays)
        self._follow()
        await self._tell(changed)

    async def _take(self, apps: dict[str, dict[str, Instance]]) -> set[str]:
        """These are all applications; those that changed. Empties ``apps`` one by one: freeing a
        hundred thousand instances at once would hold the loop."""
        changed: set[str] = set()
        for gone in self._apps.keys() - apps.keys():
            del self._apps[gone]
        work = 0
        while apps:
            name, instances = apps.popitem()
            if self._apps.get(name) != instances:
                self._apps[name] = instances
                changed.add(name)
            work += 1 + len(instances)
            if work >= BITE:
                work = 0
                await trio.lowlevel.checkpoint()
        return changed

    async def _apply(self, body: bytes) -> set[str]:
        """A delta; the applications that changed. Raises ValueError."""
        strays: list[Problem] = []
        changes = await self._decode(body, strays)
        if strays:
            raise ValueError(str(strays[0]))
        for app, instances in changes.items():
            known = self._apps.setdefault(app, {})
            for key, instance in instances.items():
                if instance.deleted:
                    known.pop(key, None)
                else:
                    known[key] = instance
            if not known:
                del self._apps[app]
        self._follow()
        return set(changes)

    async def _decode(self, body: bytes, strays: list[Problem]) -> dict[str, dict[str, Instance]]:
        """``strays``: what cannot be read, not even whose it is. Raises ValueError."""
        apps: dict[str, dict[str, Instance]] = {}
        count = 0
        for raw in pieces(body, ("applications", "application")):
            try:
                name = app_name(raw)
            except ValueError as error:
                strays.append(Problem(f"an application cannot be read: {error}", "eureka"))
                continue
            instances = apps.setdefault(name, {})
            for one in pieces(raw, ("instance",)):
                count += 1
                if count % BITE == 0:
                    await trio.lowlevel.checkpoint()
                try:
                    instance = read_instance(one, self._options)
                except ValueError as error:
                    strays.append(Problem(str(error), f"eureka {name}"))
                else:
                    instances[instance.key] = instance
            count += 1
        return apps

    async def _hash(self) -> str:
        """Of all instances that are known."""
        counts: Counter[str] = Counter()
        for i, app in enumerate(self._apps.values()):
            counts.update(instance.status for instance in app.values())
            if i % BITE == 0:
                await trio.lowlevel.checkpoint()
        return hash_of(counts)

    # --- telling ---

    def _follow(self) -> None:
        if self._apps.keys() == self._followed:
            self._board.unchanged()
            return
        self._followed = frozenset(self._apps)
        namespace = self._options.namespace
        self._board.follow(
            {
                app: qualified_name(app.lower(), namespace)
                for app in sorted(self._apps)
                if not self._wanted or app in self._wanted
            }
        )

    async def _tell(self, changed: set[str]) -> None:
        work = 0
        for app in sorted(changed):
            work += 1 + len(self._apps.get(app, ()))
            if work >= BITE:
                work = 0
                await trio.lowlevel.checkpoint()
            instances = [i for _, i in sorted(self._apps.get(app, {}).items())]
            problems = [
                Problem(f"instance {i.key}: {i.wrong}", f"eureka {app}")
                for i in instances
                if i.wrong
            ]
            if problems and len(problems) == len(instances):
                self._board.unreadable(app, problems)
                continue
            used = [(i.endpoint, i.weight) for i in instances if i.endpoint is not None]
            weights = whole([weight for _, weight in used])
            endpoints = tuple(
                endpoint if weight == 1 else _weighted(endpoint, weight)
                for (endpoint, _), weight in zip(used, weights, strict=True)
            )
            name = qualified_name(app.lower(), self._options.namespace)
            self._board.answer(app, Part(name, endpoints, origin=f"eureka {app}"), problems)
        self._board.confirm_all()


def _weighted(endpoint: Endpoint, weight: int) -> Endpoint:
    return msgspec.structs.replace(endpoint, weight=weight)


def _refusal(answer: Answer) -> str:
    if answer.status in (401, 403):
        return f"the credentials are not accepted ({answer.status})"
    return f"{answer.status}: {answer.said()}"
