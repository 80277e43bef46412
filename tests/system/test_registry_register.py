"""Announcing to real servers: what one node announces the read side of another one reads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from registry.base import Context
from registry.duration import Duration
from registry.etcd.backend import EtcdBackend
from registry.etcd.backend import Options as EtcdOptions
from registry.plugins import Spec
from registry.register.machine import State
from registry.testing import Observer, observe
from registry.zookeeper.backend import Options as ZookeeperOptions
from registry.zookeeper.backend import ZookeeperBackend
from tests.dataplane.registering import Events, Patient, announcing, entry, only, until
from tests.system.etcd_server import EtcdServer
from tests.system.zookeeper_server import ZookeeperServer

pytestmark = pytest.mark.system

PATIENCE = 30.0
QUICK = {"kind": "http", "interval": "100ms", "timeout": "2s", "rise": 2, "fall": 2}
LAYOUTS = ["etcd-skydns", "etcd-grpc", "zookeeper-nerve", "zookeeper-curator"]


class Store:
    """A server and how it is read and written."""

    def __init__(self, folder: Path, kind: str, layout: str) -> None:
        self.kind = kind
        self.options: dict[str, Any] = {"layout": layout}
        self.server: EtcdServer | ZookeeperServer
        if kind == "etcd":
            self.server = EtcdServer(folder)
            self.options |= {"endpoints": [self.server.url], "prefix": "/mesh", "timeout": "1s"}
        else:
            self.server = ZookeeperServer(folder)
            self.options |= {"servers": [self.server.address], "path": "/mesh"}

    @property
    def spec(self) -> Spec:
        return Spec("main", self.kind, self.options)

    def backend(self) -> EtcdBackend | ZookeeperBackend:
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in self.options.items()}
        if self.kind == "etcd":
            options["timeout"] = Duration("1s")
            return EtcdBackend(EtcdOptions(**options), Context("main"))
        return ZookeeperBackend(ZookeeperOptions(**options), Context("main"))

    def keys(self) -> list[str]:
        """Of the service ``web``."""
        if isinstance(self.server, EtcdServer):
            return self.server.keys("/mesh/")
        with self.server.hands() as hands:
            if hands.exists("/mesh/web") is None:
                return []
            return [f"/mesh/web/{name}" for name in hands.get_children("/mesh/web")]

    def delete(self, key: str) -> None:
        """Somebody's slip."""
        if isinstance(self.server, EtcdServer):
            self.server.delete(key)
        else:
            with self.server.hands() as hands:
                hands.delete(key)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Store]]:
    """A server of each kind for all layouts; tests leave them running."""
    made: dict[str, Store] = {}
    servers: dict[str, Any] = {}
    for name in LAYOUTS:
        kind, _, layout = name.partition("-")
        store = Store(tmp_path_factory.mktemp(name), kind, layout)
        if kind not in servers:
            servers[kind] = store.server
            store.server.start()
        elif isinstance(store.server, EtcdServer):
            store.server.close()
            store.options["endpoints"] = [servers[kind].url]
        else:
            store.options["servers"] = [servers[kind].address]
        store.server = servers[kind]
        made[name] = store
    yield made
    for server in servers.values():
        server.close()


@pytest.fixture(params=LAYOUTS)
def store(shared: dict[str, Store], request: pytest.FixtureRequest) -> Store:
    found = shared[request.param]
    found.server.thaw()
    if found.server.process is None:
        found.server.start()
    if isinstance(found.server, EtcdServer):
        found.server.delete_all("/mesh/")
    else:
        with found.server.hands() as hands:
            hands.delete("/mesh", recursive=True)
            hands.ensure_path("/mesh")
    return found


@pytest.fixture
async def patient() -> AsyncIterator[Patient]:
    async with Patient().running() as running:
        yield running


def seen(observer: Observer, *ports: int) -> Any:
    """That the service ``web`` has endpoints at these ports."""
    wanted = frozenset(("127.0.0.1", port) for port in ports)
    return lambda: observer.view.get("default/web", frozenset()) == wanted


def web(port: int, **keys: Any) -> Any:
    keys = {"service": "web", "registry": "main", "address": "127.0.0.1", "ttl": "2s"} | keys
    return entry(port=port, **keys)


async def test_it_follows_the_health_of_the_service(store: Store, patient: Patient) -> None:
    events = Events()
    checked = web(patient.port, checks=[QUICK], ttl="30s")
    async with (
        observe(store.backend()) as observer,
        announcing(checked, registries=(store.spec,), events=events) as made,
    ):
        await observer.until(seen(observer, patient.port), "announced", PATIENCE)
        patient.stop()
        await observer.until(seen(observer), "withdrawn after fall", PATIENCE)
        await until(lambda: only(made).state is State.WITHDRAWN)
        assert only(made).checks[0].error == "Connection refused"
        await patient.start()
        await observer.until(seen(observer, patient.port), "back after rise", PATIENCE)
        await made.withdraw(10)
        await observer.until(seen(observer), "withdrawn", PATIENCE)
        assert only(made).state is State.LEFT
    assert await trio.to_thread.run_sync(store.keys) == []
    assert not events.named("registering failed")


async def test_its_lease_ends_when_nobody_keeps_it(store: Store) -> None:
    async with observe(store.backend()) as observer:
        async with trio.open_nursery() as nursery:

            async def live() -> None:
                async with announcing(web(80), registries=(store.spec,)) as made:
                    await until(lambda: only(made).announced)
                    # Longer than the lease: it is kept alive.
                    await until(lambda: only(made).since_seconds > 2.5)
                    assert only(made).losses == 0
                nursery.cancel_scope.cancel()

            nursery.start_soon(live)
        await observer.until(seen(observer), "run out", PATIENCE)


async def test_what_somebody_deletes_is_written_again(store: Store) -> None:
    async with (
        observe(store.backend()) as observer,
        announcing(web(80), registries=(store.spec,)) as made,
    ):
        await observer.until(seen(observer, 80), "announced", PATIENCE)
        await until(lambda: only(made).announced)
        await trio.to_thread.run_sync(store.delete, only(made).place)
        await until(lambda: only(made).writes == 2 and only(made).announced)
        await observer.until(seen(observer, 80), "written again", PATIENCE)


async def test_a_restart_of_the_registry_is_outlived(store: Store) -> None:
    two = web(81, field="register[1]")
    async with announcing(web(80), two, registries=(store.spec,)) as made:
        await until(lambda: all(s.announced for s in made.statuses()), made.statuses)
        await trio.to_thread.run_sync(store.server.kill)
        await until(lambda: not any(s.announced for s in made.statuses()), made.statuses)
        # It comes back without anything that it knew.
        store.server.wipe()
        await trio.to_thread.run_sync(store.server.start)
        async with observe(store.backend()) as observer:
            await observer.until(seen(observer, 80, 81), "announced again", PATIENCE)
        await until(lambda: all(s.announced for s in made.statuses()), made.statuses)
        await made.withdraw(10)
    keys = await trio.to_thread.run_sync(store.keys)
    assert keys == []


async def test_a_registry_that_is_down_at_the_start_is_waited_for(store: Store) -> None:
    await trio.to_thread.run_sync(store.server.kill)
    async with announcing(web(80), registries=(store.spec,)) as made:
        await until(lambda: only(made).error != "")
        assert only(made).state is State.ANNOUNCING
        await trio.to_thread.run_sync(store.server.start)
        await until(lambda: only(made).announced, made.statuses)
        assert only(made).error == ""
        await made.withdraw(10)


async def test_a_frozen_registry_loses_the_lease_and_gets_it_again(store: Store) -> None:
    async with announcing(web(80), registries=(store.spec,)) as made:
        await until(lambda: only(made).announced)
        store.server.freeze()
        await until(lambda: not only(made).announced)
        store.server.thaw()
        await until(lambda: only(made).announced, made.statuses)
        async with observe(store.backend()) as observer:
            await observer.until(seen(observer, 80), "announced again", PATIENCE)
        keys = await trio.to_thread.run_sync(store.keys)
        assert len(keys) == 1, "an uncertain write leaves nothing behind"


async def test_a_node_that_died_and_came_back_takes_over_what_it_left(store: Store) -> None:
    async with observe(store.backend()) as observer:
        async with announcing(web(80, ttl="30s"), registries=(store.spec,)) as made:
            await until(lambda: only(made).announced)
            if store.kind == "zookeeper":
                # A session that nobody ends: as after kill -9.
                link = made._members[0]._link
                link.session._client._stopped.set()
                link.session._handler.cut()
        async with announcing(web(80), registries=(store.spec,)) as made:
            await until(lambda: only(made).announced, made.statuses)
            await observer.until(seen(observer, 80), "announced", PATIENCE)
            if store.options["layout"] != "nerve":
                assert len(await trio.to_thread.run_sync(store.keys)) == 1
            await made.withdraw(10)


async def test_without_an_address_loopback_is_refused(store: Store) -> None:
    async with announcing(web(80, address=""), registries=(store.spec,)) as made:
        await until(lambda: "is this node itself" in only(made).error, made.statuses)
        assert not only(made).announced
