"""The back end ``kubernetes``.

A reflector (:mod:`registry.kubernetes.reflector`) for each collection keeps its table, one task
publishes the services that changed. Tables and positions are kept between runs: after an outage of
the API server the watches go on where they stood, and thousands of nodes do not list everything
at once.
"""

from __future__ import annotations

import os
import random
from contextlib import nullcontext
from typing import ClassVar, Final
from urllib.parse import quote

import msgspec
import trio

from registry.base import Context, Problem, RegistryError, Sink
from registry.bulk import bulk
from registry.dirty import tell
from registry.http import client
from registry.kubernetes import wire
from registry.kubernetes.access import Access, access
from registry.kubernetes.api import Api, Collection, Gone, Refused
from registry.kubernetes.objects import OUR_PROXY_NAME, PROXY_NAME, ZONE
from registry.kubernetes.options import IN_CLUSTER, Options
from registry.kubernetes.reflector import BITE, LARGE, Reflector
from registry.kubernetes.tables import Decode, ServiceDecoder, Table, View, decode_slice
from registry.model import Service

__all__ = ["KubernetesBackend", "Options"]

NODE_PATIENCE: Final = 15.0
"""Seconds that the first publication waits for the Node at most."""
_HEADLESS: Final = "!service.kubernetes.io/headless"
_CORE: Final = "/api/v1"
_DISCOVERY: Final = "/apis/discovery.k8s.io/v1"


class KubernetesBackend:
    """See the module's text."""

    kind: ClassVar[str] = "kubernetes"
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options, context: Context) -> None:
        """Raises ValueError."""
        if not 1 <= options.watch_timeout <= 1800:
            raise ValueError("watch_timeout must be 1s to 30m")
        if options.context is not None and options.kubeconfig is None:
            raise ValueError("`context` needs `kubeconfig`")
        self._options = options
        self._context = context
        self._rng = random.Random()
        self._server = ""
        self.pod = IN_CLUSTER
        """Where a pod's credentials are."""
        self.node = options.node or os.environ.get("NODE_NAME", "") or context.node
        """This node's name in Kubernetes."""
        self.zone = ""
        """This node's zone as its Node object has it; empty as long as that is not known."""
        self.lists = 0
        """Lists that replaced a table, for tests."""
        self._start_over()

    def _start_over(self) -> None:
        handed_over = self._options.services == "handed-over"
        self._view = View()
        selector = f"{PROXY_NAME}={OUR_PROXY_NAME},{_HEADLESS}" if handed_over else _HEADLESS
        decode = ServiceDecoder(
            external_ips=self._options.external_ips,
            load_balancer_ips=self._options.load_balancer_ips,
        )
        self._tables: list[tuple[Collection, Table]] = []
        for namespace in dict.fromkeys(self._options.namespaces) or ("",):
            inside = f"/namespaces/{namespace}" if namespace else ""
            kinds: list[tuple[str, str, str, Decode]] = [
                ("Service", _CORE, "services", decode),
                ("EndpointSlice", _DISCOVERY, "endpointslices", decode_slice),
            ]
            for kind, root, plural, decoder in kinds:
                group = "" if root == _CORE else ".discovery.k8s.io"
                collection = Collection(
                    f"{root}{inside}/{plural}", f"{plural}{group}", namespace, selector
                )
                on_change = self._view.service if kind == "Service" else self._view.slice
                self._tables.append((collection, Table(kind, decoder, on_change)))

    async def run(self, sink: Sink) -> None:
        """See :class:`registry.base.Backend`."""
        found = await trio.to_thread.run_sync(self._access)
        if found.server != self._server:
            self._start_over()
            self._server = found.server
        tls = await trio.to_thread.run_sync(found.tls)
        failures: list[RegistryError] = []
        async with (
            client(mark=self._context.mark, base_url=found.server, tls=tls) as http,
            trio.open_nursery() as nursery,
        ):
            publisher = _Publisher(self, sink)
            api = Api(http, found, tell=publisher.waiting, rng=self._rng)
            publisher.reflectors = [
                Reflector(
                    api,
                    collection,
                    table,
                    page=self._options.page,
                    watch_timeout=self._options.watch_timeout,
                    changed=publisher.wake,
                    lock=publisher.lock,
                    rng=self._rng,
                )
                for collection, table in self._tables
            ]

            async def reflect(reflector: Reflector) -> None:
                try:
                    await reflector.run()
                except RegistryError as error:
                    # The first tells why; an outage ends them all.
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            for reflector in publisher.reflectors:
                nursery.start_soon(reflect, reflector)
            nursery.start_soon(publisher.run, api)
        if failures:
            raise failures[0]

    def _access(self) -> Access:
        return access(self._options, self._context.base_dir, pod=self.pod)


class _Publisher:
    """Tells the sink what changed. One for each run: the sink has forgotten what it was told."""

    def __init__(self, backend: KubernetesBackend, sink: Sink) -> None:
        self._backend = backend
        self._view = backend._view
        self._tables = [table for _, table in backend._tables]
        self._sink = sink
        self._published: dict[str, Service] = {}
        self._news = trio.Event()
        self._told: tuple[Problem, ...] | None = None
        self._kept: frozenset[str] = frozenset()
        self._node_problem: Problem | None = None
        self._waiting = ""
        self.lock = trio.Lock()
        self.reflectors: list[Reflector] = []

    def wake(self) -> None:
        self._news.set()

    def waiting(self, why: str) -> None:
        """The API server asks for patience."""
        self._waiting = why
        self._report()

    async def run(self, api: Api) -> None:
        """Until cancelled."""
        await self._learn_node(api)
        first = True
        while True:
            self._news = trio.Event()
            if all(reflector.ready for reflector in self.reflectors):
                # A collection that is being replaced is not looked at half way.
                async with self.lock:
                    if first:
                        self._view.dirty.update(dict.fromkeys(self._view))
                        first = False
                    with bulk() if len(self._view.dirty) >= LARGE else nullcontext():
                        await self._publish()
            await self._news.wait()

    async def _learn_node(self, api: Api) -> None:
        """Nothing of this is needed to serve, but for services that stay on their node."""
        name, configured = self._backend.node, self._backend._context.zone
        self._view.node = ""
        if not name:
            return
        place = f"{_CORE}/nodes/{quote(name, safe='')}"
        problem = ""
        trusted = True
        with trio.move_on_after(NODE_PATIENCE) as late:
            try:
                body = await api.get(place, {}, "get", Collection(place, "nodes"))
                labels = wire.named(body).metadata.labels or {}
                self._backend.zone = labels.get(ZONE, "")
            except Refused as error:
                trusted = error.code != 404
                problem = str(error)
                if not trusted:
                    problem = f"there is no node of this name: set NODE_NAME or `node` ({error})"
            except (RegistryError, Gone, msgspec.MsgspecError) as error:
                problem = f"cannot be read: {error}"
        if late.cancelled_caught:
            problem = "cannot be read: no answer in time"
        zone = self._backend.zone
        if not problem and configured and zone and configured != zone:
            problem = f"its zone is {zone!r}, the daemon's configuration says {configured!r}"
        self._view.node = name if trusted else ""
        self._node_problem = Problem(problem, f"Node {name}") if problem else None

    async def _publish(self) -> None:
        batch, removals = await tell(
            self._sink, self._view.dirty, self._view.build, self._published, BITE
        )
        if batch:
            self._sink.upsert(batch)
        relisted = any(reflector.relisted for reflector in self.reflectors)
        if removals and relisted and not self._published:
            # Not one by one: that all services are gone at once is for the supervisor to judge.
            self._sink.replace([])
        elif removals:
            self._sink.remove(removals)
        self._report()
        kept = frozenset(self._view.unreadable)
        if kept != self._kept:
            self._kept = kept
            self._sink.keep(kept)
        for reflector in self.reflectors:
            self._backend.lists += reflector.relisted
            reflector.relisted = False
        if all(reflector.confirmed for reflector in self.reflectors):
            for reflector in self.reflectors:
                reflector.confirmed = False
            self._sink.synced()

    def _report(self) -> None:
        problems: list[Problem] = []
        if self._waiting:
            problems.append(Problem(self._waiting, self._backend._server))
        if self._node_problem is not None:
            problems.append(self._node_problem)
        if self._view.left_out:
            count = len(self._view.left_out)
            message = (
                f"{count} service(s) with internalTrafficPolicy Local are left to the kernel:"
                " this node's name is not known"
            )
            problems.append(Problem(message, next(iter(self._view.left_out))))
        for table in self._tables:
            problems.extend(table.problems())
        told = tuple(problems)
        if told != self._told:
            self._told = told
            self._sink.problems(told)
