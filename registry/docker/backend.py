"""The back end ``docker``.

Containers: the stream of events is opened first, then everything is listed and inspected, then
each event has its container inspected again. What events missed is found by listing again.
Swarm: services, tasks and nodes are listed again and again, for tasks have no events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, TypeVar

import msgspec
import trio

from registry.base import Context, Problem, RegistryError, Sink
from registry.board import together
from registry.docker import wire
from registry.docker.api import Api
from registry.docker.labels import Facts
from registry.docker.members import of_container, of_task, service_facts
from registry.docker.options import Options
from registry.docker.table import BITE, Table
from registry.fetch import server, tls_context
from registry.http import client
from registry.model import NOWHERE, Locality, qualified_name

__all__ = ["DockerBackend", "Options"]

T = TypeVar("T")
CONTAINER_EVENTS: Final = {
    "type": ["container", "network"],
    "event": [
        "start", "die", "pause", "unpause", "rename", "health_status", "connect", "disconnect",
    ],
}  # fmt: skip
SERVICE_EVENTS: Final = {"type": ["service", "node"]}
RUNNING: Final = {"desired-state": ["running"]}
AT_ONCE: Final = 8
"""Inspections at a time."""
SETTLE: Final = 0.005
"""Seconds in which events of one container are gathered."""


class DockerBackend:
    """See the module's text."""

    kind: ClassVar[str] = "docker"
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options, context: Context) -> None:
        """Raises ValueError."""
        for name in ("resync", "poll"):
            if not 0.1 <= getattr(options, name) <= 3600:
                raise ValueError(f"{name} must be 100ms to 1h")
        if not 0.1 <= options.timeout <= 300:
            raise ValueError("timeout must be 100ms to 5m")
        if options.key_file is not None and options.cert_file is None:
            raise ValueError("`key_file` needs `cert_file`")
        if options.host_address is not None and options.mode == "swarm":
            raise ValueError("a Swarm's nodes have addresses of their own: no `host_address`")
        self.options = options
        self._context = context
        self._server = server(options.endpoint)
        self.place = self._server.unix_socket or self._server.url
        self.settings = {
            qualified_name(name, options.namespace): found
            for name, found in options.services.items()
        }
        # Containers of an engine behind a network are somewhere else.
        local = bool(self._server.unix_socket) and options.mode == "containers"
        self.where = Locality("", context.zone, context.node) if local else NOWHERE
        self.inspected = 0
        """Containers that were inspected, for tests."""

    async def run(self, sink: Sink) -> None:
        """See :class:`registry.base.Backend`."""
        options = self.options
        tls = await trio.to_thread.run_sync(
            tls_context, self._context.base_dir, options.ca_file, options.cert_file,
            options.key_file,
        )  # fmt: skip
        async with client(
            mark=self._context.mark,
            base_url=self._server.url,
            unix_socket=self._server.unix_socket,
            auth=self._server.auth,
            tls=tls,
        ) as http:
            api = Api(http, self.place, options.timeout)
            await api.negotiate()
            table = Table(sink, self.settings, f"docker {self.place}")
            follower = (_Swarm if options.mode == "swarm" else _Containers)(self, api, table, sink)
            async with api.events(follower.events) as follow, together() as nursery:
                nursery.start_soon(follow, follower.event)
                nursery.start_soon(follower.run)


class _Follower:
    """What both modes share: events wake, and a clock does."""

    events: ClassVar[dict[str, list[str]]] = {}

    def __init__(self, backend: DockerBackend, api: Api, table: Table, sink: Sink) -> None:
        self.backend = backend
        self.options = backend.options
        self.api = api
        self.table = table
        self.sink = sink
        self.wake = trio.Event()

    def event(self, line: bytes) -> None:
        """An event, as JSON."""
        raise NotImplementedError

    async def run(self) -> None:
        """Until cancelled. Raises RegistryError."""
        raise NotImplementedError

    async def rest(self, seconds: float) -> bool:
        """Until an event, or so long. True for an event."""
        with trio.move_on_after(max(0.0, seconds)):
            await self.wake.wait()
            await trio.sleep(SETTLE)
            self.wake = trio.Event()
            return True
        return False


class _Containers(_Follower):
    events = CONTAINER_EVENTS

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._changed: dict[str, None] = {}
        self._fingerprints: dict[str, object] = {}
        self._list_again = False

    def event(self, line: bytes) -> None:
        try:
            event = wire.decode_event(line)
        except msgspec.MsgspecError:
            # Whatever it was to say, the list says it, too.
            self._list_again = True
            self.wake.set()
            return
        if event.action == "pause":
            # Said at once: an engine may not answer about a container that was paused while its
            # health was being checked.
            self.table.pause(event.container)
            self._changed.pop(event.container, None)
            self.wake.set()
        elif event.container:
            self._changed[event.container] = None
            self.wake.set()

    async def run(self) -> None:
        while True:
            await self._list()
            due = trio.current_time() + self.options.resync
            while trio.current_time() < due:
                if not await self.rest(due - trio.current_time()):
                    break
                if self._list_again:
                    self._list_again = False
                    break
                changed, self._changed = self._changed, {}
                await self._inspect(changed)
                await self.table.publish(whole=False)
                self.sink.synced()

    async def _list(self) -> None:
        found: dict[str, object] = {}
        stale: dict[str, None] = {}
        for i, piece in enumerate(await self.api.listing("/containers/json", {})):
            if i % BITE == BITE - 1:
                await trio.lowlevel.checkpoint()
            try:
                listed = wire.decode_listed(piece)
            except msgspec.MsgspecError as error:
                key = f"entry {i}"
                found[key] = None
                source = f"{self.backend.place}/containers/json"
                self.table.bad(key, Problem(f"[{i}]: {error}", source))
                continue
            print_ = listed.fingerprint()
            if self._fingerprints.get(listed.id) != print_ or listed.id not in self.table:
                stale[listed.id] = None
            found[listed.id] = print_
        self.table.keep_only(found)
        self._fingerprints = found
        await self._inspect(stale)
        await self.table.publish(whole=True)
        self.sink.synced()

    async def _inspect(self, containers: dict[str, None]) -> None:
        limit = trio.CapacityLimiter(AT_ONCE)

        async def one(container: str) -> None:
            try:
                async with limit:
                    body = await self.api.inspect(container)
            except RegistryError as error:
                if container not in self.table:
                    raise
                # It stays as it was, and is asked for again with the next list.
                self._fingerprints.pop(container, None)
                self.table.bad(container, Problem(str(error), f"container {container[:12]}"))
                return
            self.backend.inspected += 1
            self._take(container, body)

        async with together() as nursery:
            for container in containers:
                nursery.start_soon(one, container)

    def _take(self, key: str, body: bytes | None) -> None:
        if body is None:
            self.table.remove(key)
            return
        try:
            container = wire.decode_container(body)
        except msgspec.MsgspecError as error:
            self.table.bad(key, Problem(str(error), f"container {key[:12]}"))
            return
        if not container.state.running:
            self.table.remove(key)
            return
        name = f"container {container.name.lstrip('/')} ({key[:12]})"
        self.table.put(key, name, of_container(container, self.options, self.backend.where))


class _Swarm(_Follower):
    events = SERVICE_EVENTS

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._facts: dict[str, Facts] = {}
        """By service, as of the last list."""
        self._bad: dict[str, None] = {}
        """Entries of the lists of this round that cannot be decoded."""

    def event(self, line: bytes) -> None:
        self.wake.set()

    async def run(self) -> None:
        while True:
            await self._list()
            await self.rest(self.options.poll)

    async def _list(self) -> None:
        self._bad = {}
        nodes = {node.id: node for node in await self._decoded("/nodes", {}, wire.decode_node)}
        services = await self._decoded("/services", {}, wire.decode_service)
        # A service that cannot be read now is what it was.
        facts = dict(self._facts) if self._bad else {}
        facts.update((service.id, service_facts(service, self.options)) for service in services)
        self._facts = facts
        found: dict[str, None] = {}
        for i, task in enumerate(await self._decoded("/tasks", RUNNING, wire.decode_task)):
            if i % BITE == BITE - 1:
                await trio.lowlevel.checkpoint()
            of = facts.get(task.service_id)
            if of is None:
                continue  # a service that is younger than its list
            found[task.id] = None
            name = f"task {task.id} of service {of.name}"
            self.table.put(task.id, name, of_task(task, of, nodes, self.options))
        self.table.keep_only(found | self._bad)
        await self.table.publish(whole=True)
        self.sink.synced()

    async def _decoded(
        self, path: str, filters: dict[str, list[str]], decode: Callable[[bytes], T]
    ) -> list[T]:
        """What can be decoded of a list."""
        found: list[T] = []
        for i, piece in enumerate(await self.api.listing(path, filters)):
            if i % BITE == BITE - 1:
                await trio.lowlevel.checkpoint()
            try:
                found.append(decode(piece))
            except msgspec.MsgspecError as error:
                key = f"{path}[{i}]"
                self._bad[key] = None
                self.table.bad(key, Problem(str(error), f"{self.backend.place}{key}"))
        return found
