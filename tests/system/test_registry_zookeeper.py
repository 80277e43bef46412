"""The back end ``zookeeper`` on real servers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl

from registry.base import Context
from registry.duration import Duration
from registry.model import Port, Service
from registry.supervise import Registries, Spec, State
from registry.testing import CHECKS, Check, Observer, observe, sample
from registry.zookeeper.backend import Options, ZookeeperBackend
from tests.system.zookeeper_server import ZookeeperServer, free_ports

pytestmark = pytest.mark.system

PATIENCE = 40.0
BASE = "/nerve"
WEB, API = sample("web", "10.0.0.1", "10.0.0.2"), sample("api", "10.0.0.3", port=9090)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZookeeperServer]:
    """A server that tests leave empty."""
    server = ZookeeperServer(tmp_path_factory.mktemp("zookeeper"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def server(shared: ZookeeperServer) -> ZookeeperServer:
    """The server, with no node; started again if a test stopped it."""
    shared.thaw()
    if shared.process is None:
        shared.start()
    with shared.hands() as hands:
        hands.add_auth("digest", "reader:secret")
        for name in hands.get_children("/"):
            if name != "zookeeper":
                hands.delete(f"/{name}", recursive=True)
    return shared


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., ZookeeperServer]]:
    made: list[ZookeeperServer] = []

    def make(**options: Any) -> ZookeeperServer:
        made.append(ZookeeperServer(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def backend(*servers: ZookeeperServer, **options: Any) -> ZookeeperBackend:
    chosen = {"layout": "nerve", "path": BASE, "session_timeout": Duration("2s")} | options
    return ZookeeperBackend(
        Options(servers=tuple(s.address for s in servers), **chosen), Context("zookeeper")
    )


def value(address: str, port: int = 8080, **more: Any) -> bytes:
    return json.dumps({"host": address, "port": port, "name": "i-1", **more}).encode()


def written(services: Sequence[Service]) -> dict[str, bytes]:
    return {
        f"{BASE}/{s.name.removeprefix('default/')}/{e.address}_0000000001": value(e.address, e.port)
        for s in services
        for e in s.endpoints
    }


def write(hands: KazooClient, wanted: dict[str, bytes]) -> None:
    """Exactly these instances, in one transaction below services' nodes that are made before."""
    hands.ensure_path(BASE)
    present = {}
    for service in hands.get_children(BASE):
        for instance in hands.get_children(f"{BASE}/{service}"):
            path = f"{BASE}/{service}/{instance}"
            present[path] = hands.get(path)[0]
    for path in wanted:
        hands.ensure_path(path.rpartition("/")[0])
    transaction = hands.transaction()
    for path in present.keys() - wanted.keys():
        transaction.delete(path)
    for path, data in wanted.items():
        if path not in present:
            transaction.create(path, data)
        elif present[path] != data:
            transaction.set_data(path, data)
    for result in transaction.commit():
        assert not isinstance(result, Exception), result


class ZookeeperHarness:
    """Conformance harness: a server that is stopped when its registry vanishes."""

    patience = PATIENCE

    def __init__(self, server: ZookeeperServer) -> None:
        self.server = server

    def backend(self) -> ZookeeperBackend:
        return backend(self.server)

    async def put(self, services: Sequence[Service]) -> None:
        await self._write(written(services))

    async def garbage(self, services: Sequence[Service]) -> None:
        await self._write(written(services) | {f"{BASE}/broken/x_0000000001": b"\x00{"})

    async def vanish(self) -> None:
        await trio.to_thread.run_sync(self.server.kill)

    async def _write(self, wanted: dict[str, bytes]) -> None:
        def do() -> None:
            if self.server.process is None:
                self.server.start()
            with self.server.hands() as hands:
                write(hands, wanted)

        await trio.to_thread.run_sync(do)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Check, server: ZookeeperServer) -> None:
    await check(ZookeeperHarness(server))


async def told(observer: Observer, words: str) -> None:
    await observer.until(
        lambda: any(words in str(error) for error in observer.errors),
        f"expected the error {words!r}",
        PATIENCE,
    )


async def seen(observer: Observer, *services: Service) -> None:
    await observer.sees(services, PATIENCE)


async def put(server: ZookeeperServer, *services: Service) -> None:
    await ZookeeperHarness(server).put(services)


async def by_hand(server: ZookeeperServer, act: Callable[[KazooClient], object]) -> None:
    def do() -> None:
        with server.hands() as hands:
            act(hands)

    await trio.to_thread.run_sync(do)


async def test_an_instance_that_is_replaced_leaves_no_moment_without_any(
    server: ZookeeperServer,
) -> None:
    await put(server, WEB)
    async with observe(backend(server)) as observer:
        await seen(observer, WEB)
        before = observer.publications
        await put(server, sample("web", "10.0.0.7", "10.0.0.8"))
        await seen(observer, sample("web", "10.0.0.7", "10.0.0.8"))
        assert observer.publications == before + 1


async def test_an_endpoint_ends_with_its_session_and_changes_with_its_data(
    server: ZookeeperServer,
) -> None:
    await put(server, WEB)
    owner = KazooClient(server.address, timeout=10)
    await trio.to_thread.run_sync(owner.start)
    path = f"{BASE}/web/live_"
    made = await trio.to_thread.run_sync(
        lambda: owner.create(path, value("10.0.0.9"), ephemeral=True, sequence=True)
    )
    try:
        async with observe(backend(server)) as observer:
            await seen(observer, sample("web", "10.0.0.1", "10.0.0.2", "10.0.0.9"))
            for address in ("10.0.0.10", "10.0.0.11"):
                await trio.to_thread.run_sync(owner.set, made, value(address))
                await seen(observer, sample("web", "10.0.0.1", "10.0.0.2", address))
            await trio.to_thread.run_sync(owner.stop)
            await seen(observer, WEB)
    finally:
        await trio.to_thread.run_sync(owner.stop)
        owner.close()


async def test_what_a_name_holds_is_not_asked_for(server: ZookeeperServer) -> None:
    def encoded(address: str) -> str:
        text = base64.urlsafe_b64encode(value(address)).decode()
        return f"base64_{len(text)}_{text}_0000000003"

    def act(hands: KazooClient) -> None:
        hands.ensure_path(f"{BASE}/web/{encoded('10.0.0.1')}")
        hands.ensure_path(f"{BASE}/web/base64_7_e30=_0000000004")

    await by_hand(server, act)
    async with observe(backend(server)) as observer:
        await seen(observer, sample("web", "10.0.0.1"))
        assert "holds 4 characters, not 7" in str(observer.reported)
        await by_hand(server, lambda h: h.ensure_path(f"{BASE}/web/{encoded('10.0.0.2')}"))
        await seen(observer, sample("web", "10.0.0.1", "10.0.0.2"))


async def test_a_path_that_is_not_there_yet_and_fixed_parts_below_stars(
    server: ZookeeperServer,
) -> None:
    reader = backend(server, path="/smart/services/*/up", chroot="/chroot")
    async with observe(reader) as observer:
        await told(observer, "there is no node /chroot/smart/services")
        await by_hand(server, lambda h: h.ensure_path("/chroot/smart/services/web"))
        await observer.until(lambda: observer.syncs > 0, "it is there", PATIENCE)
        errors = len(observer.errors)
        place = "/chroot/smart/services/web/up"

        def create(hands: KazooClient) -> None:
            hands.create(f"{place}/a_0000000001", value("10.0.0.1"), makepath=True)

        for _ in range(2):
            await by_hand(server, create)
            await seen(observer, sample("web", "10.0.0.1"))
            await by_hand(server, lambda h: h.delete(place, recursive=True))
            await seen(observer)
        await by_hand(server, create)
        await seen(observer, sample("web", "10.0.0.1"))
        assert len(observer.errors) == errors
        await by_hand(server, lambda h: h.delete("/chroot", recursive=True))
        await observer.until(lambda: len(observer.errors) > errors, "it is gone", PATIENCE)


async def test_emptied(server: ZookeeperServer, tmp_path: Path) -> None:
    """What the supervisor makes of a registry that is suddenly empty."""
    await put(server, WEB, API)
    options = {"servers": [server.address], "layout": "nerve", "path": BASE}
    registries = Registries(
        [Spec("zk", "zookeeper", options)], on_change=lambda *_: None, state_dir=tmp_path
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(registries.run)
        await registries.wait_synced()
        assert {s.name for s in registries.catalog} == {"default/api", "default/web"}
        await put(server)
        await until(lambda: registries.statuses()[0].state is State.KEPT)
        await put(server, API)
        await until(lambda: registries.statuses()[0].state is State.SYNCED)
        assert [s.name for s in registries.catalog] == ["default/api"]
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - of others' state
            await trio.sleep(0.01)


async def test_a_frozen_server_changes_nothing_until_it_is_back(server: ZookeeperServer) -> None:
    await put(server, WEB)
    reader = backend(server, session_timeout=Duration("3s"))
    async with observe(reader) as observer:
        await seen(observer, WEB)
        publications = observer.publications
        server.freeze()
        await until(lambda: reader.interruptions > 0)
        syncs = observer.syncs
        await trio.testing.wait_all_tasks_blocked()
        assert (observer.publications, observer.syncs) == (publications, syncs)
        server.thaw()
        await until(lambda: reader.connections == 2)
        await put(server, API)
        await seen(observer, API)
        assert not observer.errors


async def test_a_server_that_stays_frozen_is_an_error(server: ZookeeperServer) -> None:
    await put(server, WEB)
    async with observe(backend(server)) as observer:
        await seen(observer, WEB)
        server.freeze()
        await told(observer, "no session for 2 s")
        assert set(observer.view) == {"default/web"}
        server.thaw()
        await put(server, API)
        await seen(observer, API)


async def test_a_server_that_comes_back_within_the_time_out(server: ZookeeperServer) -> None:
    await put(server, WEB)
    reader = backend(server, session_timeout=Duration("20s"))
    async with observe(reader) as observer:
        await seen(observer, WEB)

        def again() -> None:
            server.kill()
            server.start()
            with server.hands() as hands:
                write(hands, written([API]))

        await trio.to_thread.run_sync(again)
        await seen(observer, API)
        assert reader.connections == 2
        assert not observer.errors


async def test_a_server_that_comes_back_with_other_nodes(server: ZookeeperServer) -> None:
    """It knows less than its clients: it refuses them until they forget what they had seen."""
    await put(server, WEB)
    async with observe(backend(server)) as observer:
        await seen(observer, WEB)

        def again() -> None:
            server.kill()
            server.wipe()
            server.start()
            with server.hands() as hands:
                write(hands, written([API]))

        await trio.to_thread.run_sync(again)
        await seen(observer, API)


async def test_servers_fail_one_after_another(make_server: Callable[..., ZookeeperServer]) -> None:
    ports = free_ports(6)
    ensemble = list(zip(ports[::2], ports[1::2], strict=True))
    servers = [make_server(identity=i, ensemble=ensemble) for i in (1, 2, 3)]
    for one in servers:
        one.begin()
    for one in servers:
        await trio.to_thread.run_sync(one.wait)
    await put(servers[0], WEB)
    reader = backend(*servers, session_timeout=Duration("30s"))
    async with observe(reader) as observer:
        await seen(observer, WEB)
        for victim, state in ((0, [WEB, API]), (1, [API])):
            # Whichever server it uses, one of these is it, or it does not matter.
            await trio.to_thread.run_sync(servers[victim].kill)
            await trio.to_thread.run_sync(servers[2].wait)
            await put(servers[2], *state)
            await seen(observer, *state)
            await trio.to_thread.run_sync(servers[victim].start)
    assert not observer.errors


async def test_users(server: ZookeeperServer, tmp_path: Path) -> None:
    acl = [make_digest_acl("reader", "secret", all=True)]

    def act(hands: KazooClient) -> None:
        write(hands, written([WEB, API]))
        hands.create(f"{BASE}/closed", b"", acl=acl)
        hands.set_acls(f"{BASE}/web/10.0.0.2_0000000001", acl)

    await by_hand(server, act)
    (tmp_path / "password").write_text("secret\n")
    options = {"username": "reader", "password_file": str(tmp_path / "password")}
    async with observe(backend(server, **options)) as observer:
        await seen(observer, WEB, API)
        assert not observer.reported
    async with observe(backend(server)) as observer:
        await seen(observer, sample("web", "10.0.0.1"), API)
        told_of = {problem.source for problem in observer.reported}
        assert told_of == {f"{BASE}/closed", f"{BASE}/web/10.0.0.2_0000000001"}
    await by_hand(server, lambda h: h.set_acls(BASE, acl))
    async with observe(backend(server)) as observer:
        await told(observer, f"the children of {BASE}: NoAuthError")
    options["password_file"] = "/nowhere"
    async with observe(backend(server, **options)) as observer:
        await told(observer, "password_file /nowhere: No such file")


MEMBER = {
    "serviceEndpoint": {"host": "10.0.0.1", "port": 31943},
    "additionalEndpoints": {"http": {"host": "10.0.0.1", "port": 31944}},
    "shard": 0,
    "status": "ALIVE",
}


@pytest.mark.parametrize(
    ("layout", "path", "node", "data", "service"),
    [
        (
            "serverset",
            "/aurora/*/*/*",
            "/aurora/www/prod/web/member_0000000012",
            MEMBER,
            Service("www.prod/web", ports=(Port(31943, "main"), Port(31944, "http"))),
        ),
        (
            "curator",
            "/services",
            "/services/web/4a1c",
            {"name": "web", "id": "4a1c", "address": "10.0.0.1", "port": 8080, "sslPort": None},
            sample("web"),
        ),
        (
            "registrator",
            "/services",
            "/services/web/10.0.0.1:8080",
            {"Name": "web", "IP": "10.0.0.1", "PublicPort": 8080, "Tags": [], "Attrs": {}},
            sample("web"),
        ),
    ],
)
async def test_layouts(
    layout: str, path: str, node: str, data: Any, service: Service, server: ZookeeperServer
) -> None:
    await by_hand(server, lambda h: h.create(node, json.dumps(data).encode(), makepath=True))
    async with observe(backend(server, layout=layout, path=path)) as observer:
        await observer.until(lambda: service.name in observer.view, "it is there", PATIENCE)
        found = observer._services[service.name]
        assert [p.port for p in found.ports] == [p.port for p in service.ports]
        assert {e.address for e in found.endpoints} == {"10.0.0.1"}
        assert not observer.reported
        await by_hand(server, lambda h: h.delete(node))
        await seen(observer)
