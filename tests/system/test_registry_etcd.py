"""The back end ``etcd`` on real servers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from registry.base import Context
from registry.duration import Duration
from registry.etcd.backend import EtcdBackend, Options
from registry.model import Service
from registry.supervise import Registries, Spec, State
from registry.testing import CHECKS, Check, Observer, observe, sample
from tests.system.etcd_server import EtcdServer, b64, free_ports

pytestmark = pytest.mark.system

PATIENCE = 30.0
PREFIX = "/skydns/test"
WEB, API = sample("web", "10.0.0.1", "10.0.0.2"), sample("api", "10.0.0.3", port=9090)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """A server that tests leave running and empty."""
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def server(shared: EtcdServer) -> EtcdServer:
    """The server, with no key; started again if a test stopped it."""
    shared.thaw()
    if shared.process is None:
        shared.start()
    shared.delete_all("/")
    return shared


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., EtcdServer]]:
    made: list[EtcdServer] = []

    def make(**options: Any) -> EtcdServer:
        made.append(EtcdServer(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def backend(*servers: EtcdServer, prefix: str = PREFIX, **options: Any) -> EtcdBackend:
    chosen = {"layout": "skydns", "timeout": Duration("2s")} | options
    return EtcdBackend(
        Options(endpoints=tuple(s.url for s in servers), prefix=prefix, **chosen), Context("etcd")
    )


def record(address: str, port: int = 8080) -> str:
    return json.dumps({"host": address, "port": port})


def written(services: Sequence[Service]) -> dict[str, str]:
    return {
        f"{PREFIX}/{s.name.removeprefix('default/')}/{e.address}": record(e.address, e.port)
        for s in services
        for e in s.endpoints
    }


class EtcdHarness:
    """Conformance harness: a server that is stopped when its registry vanishes."""

    patience = PATIENCE

    def __init__(self, server: EtcdServer) -> None:
        self.server = server

    def backend(self) -> EtcdBackend:
        return backend(self.server)

    async def put(self, services: Sequence[Service]) -> None:
        await self._write(written(services))

    async def garbage(self, services: Sequence[Service]) -> None:
        await self._write(written(services) | {f"{PREFIX}/broken/x": "\x00{"})

    async def vanish(self) -> None:
        await trio.to_thread.run_sync(self.server.kill)

    async def _write(self, wanted: dict[str, str]) -> None:
        def write() -> None:
            if self.server.process is None:
                self.server.start()
            gone = tuple(key for key in self.server.keys(PREFIX + "/") if key not in wanted)
            self.server.transaction(wanted, gone)

        await trio.to_thread.run_sync(write)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Check, server: EtcdServer) -> None:
    await check(EtcdHarness(server))


async def told(observer: Observer, words: str) -> None:
    await observer.until(
        lambda: any(words in str(error) for error in observer.errors),
        f"expected the error {words!r}",
        PATIENCE,
    )


async def seen(observer: Observer, *services: Service) -> None:
    await observer.sees(services, PATIENCE)


async def test_pages_are_one_revision(server: EtcdServer) -> None:
    many = [sample(f"s{i}", *(f"10.0.{i}.{j}" for j in range(1, 8))) for i in range(20)]
    for service in many:
        server.transaction(written([service]))
    reader = backend(server, page=9)
    async with observe(reader) as observer:
        await seen(observer, *many)
    assert reader.reads == 1
    assert not observer.errors


async def test_large_values_make_pages_small_and_lines_long(server: EtcdServer) -> None:
    text = "x" * 1_400_000
    for i in range(4):
        value = {"host": f"10.0.0.{i + 1}", "port": 80, "text": text}
        server.put(f"{PREFIX}/big/{i}", json.dumps(value))
    big = sample("big", *(f"10.0.0.{i + 1}" for i in range(4)), port=80)
    reader = backend(server, timeout=Duration("20s"))
    async with observe(reader) as observer:
        await seen(observer, big)
        assert reader._page == 1
        server.put(f"{PREFIX}/big/4", json.dumps({"host": "10.0.0.5", "port": 80, "t": text}))
        await seen(observer, sample("big", *(f"10.0.0.{i + 1}" for i in range(5)), port=80))
    assert reader.watches == 1


async def test_a_transaction_is_one_publication(server: EtcdServer) -> None:
    server.transaction(written([WEB]))
    async with observe(backend(server)) as observer:
        await seen(observer, WEB)
        before = observer.publications
        moved = sample("web", "10.1.0.1", "10.1.0.2", "10.1.0.3")
        server.transaction(written([moved]), tuple(written([WEB])))
        await seen(observer, moved)
        assert observer.publications == before + 1


async def test_an_endpoint_ends_with_its_lease(server: EtcdServer) -> None:
    lease = server.grant(2)
    server.put(f"{PREFIX}/web/kept", record("10.0.0.1"))
    server.put(f"{PREFIX}/web/leased", record("10.0.0.2"), lease)
    async with observe(backend(server)) as observer:
        await seen(observer, sample("web", "10.0.0.1", "10.0.0.2"))
        await seen(observer, sample("web", "10.0.0.1"))


async def test_a_watch_whose_revision_is_compacted_reads_again(server: EtcdServer) -> None:
    server.transaction(written([WEB]))
    reader = backend(server, silence=Duration("1s"))
    async with observe(reader) as observer:
        await seen(observer, WEB)
        reads = reader.reads
        # Of others' keys a watch hears nothing, so it stands still while the revision goes on.
        for i in range(5):
            revision = server.put("/other", str(i))
        server.compact(revision)
        await observer.until(lambda: reader.reads > reads, "expected a new read", PATIENCE)
        server.transaction(written([API]))
        await seen(observer, WEB, API)
    assert not observer.errors
    assert reader._table.decoded == 3, "what is the same is not decoded again"


async def test_a_silent_watch_is_opened_anew(server: EtcdServer) -> None:
    server.transaction(written([WEB]))
    reader = backend(server, silence=Duration("1s"))
    async with observe(reader) as observer:
        await seen(observer, WEB)
        syncs = observer.syncs
        await observer.until(lambda: observer.syncs > syncs, "expected a sign of life", PATIENCE)
        assert reader.reads == 1
        assert reader.watches == 2
    assert not observer.errors


async def test_progress_is_a_sign_of_life(make_server: Callable[..., EtcdServer]) -> None:
    server = make_server(arguments=("--experimental-watch-progress-notify-interval", "500ms"))
    server.start()
    server.transaction(written([WEB]))
    reader = backend(server)
    async with observe(reader) as observer:
        await seen(observer, WEB)
        syncs = observer.syncs
        await observer.until(lambda: observer.syncs > syncs, "expected a sign of life", PATIENCE)
        assert reader.watches == 1


async def test_emptied(server: EtcdServer, tmp_path: Path) -> None:
    """What the supervisor makes of a registry that is suddenly empty."""
    server.transaction(written([WEB, API]))
    options = {"endpoints": [server.url], "layout": "skydns", "prefix": PREFIX, "silence": "1s"}
    registries = Registries(
        [Spec("etcd", "etcd", options)], on_change=lambda *_: None, state_dir=tmp_path
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(registries.run)
        await registries.wait_synced()
        assert {s.name for s in registries.catalog} == {"default/api", "default/web"}
        server.delete_all(PREFIX)
        await until(lambda: registries.statuses()[0].state is State.KEPT)
        assert len(registries.catalog) == 2
        server.transaction(written([API]))
        await until(lambda: registries.statuses()[0].state is State.SYNCED)
        assert [s.name for s in registries.catalog] == ["default/api"]
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - of others' state
            await trio.sleep(0.01)


async def test_a_frozen_server_is_noticed_and_its_services_stay(server: EtcdServer) -> None:
    server.transaction(written([WEB]))
    reader = backend(server, silence=Duration("1s"), timeout=Duration("500ms"))
    async with observe(reader) as observer:
        await seen(observer, WEB)
        server.freeze()
        await told(observer, "no answer within 0.5 s")
        assert set(observer.view) == {"default/web"}
        server.thaw()
        server.transaction(written([API]))
        await seen(observer, WEB, API)


@pytest.mark.parametrize("end", [EtcdServer.stop, EtcdServer.kill])
async def test_a_server_that_comes_back_with_other_keys(
    end: Callable[[EtcdServer], None], make_server: Callable[..., EtcdServer]
) -> None:
    server = make_server()
    server.start()
    server.transaction(written([WEB]))
    async with observe(backend(server)) as observer:
        await seen(observer, WEB)
        await trio.to_thread.run_sync(end, server)
        await told(observer, server.url)
        assert set(observer.view) == {"default/web"}
        server.wipe()
        await trio.to_thread.run_sync(server.start)
        server.transaction(written([API]))
        await seen(observer, API)


@pytest.fixture
async def three(make_server: Callable[..., EtcdServer]) -> AsyncIterator[list[EtcdServer]]:
    """A cluster of three members."""
    names = ("one", "two", "three")
    cluster = dict(zip(names, free_ports(3), strict=True))
    servers = [make_server(name=name, cluster=cluster) for name in names]
    for one in servers:
        one.begin()
    for one in servers:
        await trio.to_thread.run_sync(one.wait)
    yield servers
    for one in servers:
        one.thaw()


async def test_members_fail_one_after_another(three: list[EtcdServer]) -> None:
    three[0].transaction(written([WEB]))
    reader = backend(*three, timeout=Duration("5s"), silence=Duration("30s"))
    async with observe(reader) as observer:
        await seen(observer, WEB)
        reads, state = reader.reads, [WEB]
        # Whichever member it watches, one of these is it, or it does not matter.
        for victim, service in ((three[0], API), (three[1], sample("late", "10.0.0.7"))):
            await trio.to_thread.run_sync(victim.kill)
            await trio.to_thread.run_sync(three[2].wait)
            await trio.to_thread.run_sync(patiently, three[2], written([service]))
            state.append(service)
            await seen(observer, *state)
            await trio.to_thread.run_sync(victim.start)
        assert reader.reads == reads, "a watch goes on at another member where it stood"
    assert not observer.errors


def patiently(server: EtcdServer, puts: dict[str, str]) -> None:
    """While a leader is elected, writes fail after a while."""
    todo = [{"request_put": {"key": b64(k), "value": b64(v)}} for k, v in puts.items()]
    for _ in range(20):
        response = server.http.post("/v3/kv/txn", json={"success": todo})
        if response.status_code == 200:
            return
    raise AssertionError(response.text)


async def test_a_member_without_its_cluster_is_left(three: list[EtcdServer]) -> None:
    """It would answer for ever with what it last knew."""
    three[0].transaction(written([WEB]))
    reader = backend(three[0], timeout=Duration("2s"))
    async with observe(reader) as observer:
        await seen(observer, WEB)
        three[1].freeze()
        three[2].freeze()
        await observer.until(lambda: bool(observer.errors), "expected an error", PATIENCE)
        assert set(observer.view) == {"default/web"}
        three[1].thaw()
        three[2].thaw()
        await trio.to_thread.run_sync(patiently, three[0], written([API]))
        await seen(observer, WEB, API)


# --- TLS and users ---


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    paths = {name: str(folder / f"{name}.pem") for name in ("ca", "certificate", "key", "both")}
    authority.cert_pem.write_to_path(paths["ca"])
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(paths["key"])
    for blob in issued.cert_chain_pems:
        blob.write_to_path(paths["certificate"], append=True)
    issued.private_key_and_cert_chain_pem.write_to_path(paths["both"])
    return paths


async def test_client_certificates(
    make_server: Callable[..., EtcdServer], certificates: dict[str, str]
) -> None:
    server = make_server(tls=certificates)
    await trio.to_thread.run_sync(server.start)
    server.transaction(written([WEB]))
    trusted = {"ca_file": certificates["ca"]}
    good = (
        {"certificate_file": certificates["certificate"], "key_file": certificates["key"]},
        {"certificate_file": certificates["both"]},
    )
    for options in good:
        async with observe(backend(server, **trusted, **options)) as observer:
            await seen(observer, WEB)
            assert not observer.errors
    async with observe(backend(server, **trusted)) as observer:
        await told(observer, server.url)
    async with observe(backend(server)) as observer:
        await told(observer, "CERTIFICATE_VERIFY_FAILED")
    async with observe(backend(server, ca_file="/nowhere/ca.pem")) as observer:
        await told(observer, "ca_file /nowhere/ca.pem: No such file")


def add_users(server: EtcdServer) -> None:
    """The user ``reader`` may read the prefix, the user ``nobody`` nothing. Only an unauthenticated
    administrator may do this, so authentication is switched on last."""
    for user in ("root", "reader", "nobody"):
        server.call("/v3/auth/user/add", name=user, password=f"secret-{user}")
    for role in ("root", "readers"):
        server.call("/v3/auth/role/add", name=role)
    permission = {"permType": "READ", "key": b64(PREFIX + "/"), "range_end": b64(PREFIX + "0")}
    server.call("/v3/auth/role/grant", name="readers", perm=permission)
    server.call("/v3/auth/user/grant", user="root", role="root")
    server.call("/v3/auth/user/grant", user="reader", role="readers")
    server.call("/v3/auth/enable")
    login(server)


def login(server: EtcdServer) -> None:
    """The hands on the server are root's from now on."""
    server.http.headers.pop("Authorization", None)
    token = server.call("/v3/auth/authenticate", name="root", password="secret-root")["token"]
    server.http.headers["Authorization"] = token


async def test_users(make_server: Callable[..., EtcdServer], tmp_path: Path) -> None:
    server = make_server(arguments=("--auth-token-ttl", "1"))
    await trio.to_thread.run_sync(server.start)
    for user, text in (("reader", "secret-reader"), ("nobody", "secret-nobody"), ("bad", "wrong")):
        (tmp_path / user).write_text(text + "\n")
    options = {"username": "reader", "password_file": str(tmp_path / "reader")}
    server.transaction(written([WEB]))
    async with observe(backend(server, **options)) as observer:
        await seen(observer, WEB)  # nobody asks for a password yet
    await trio.to_thread.run_sync(add_users, server)
    reader = backend(server, silence=Duration("3s"), **options)
    async with observe(reader) as observer:
        await seen(observer, WEB)
        # The token lives for a second: a new watch needs a new one.
        watches = reader.watches
        await observer.until(lambda: reader.watches > watches, "expected a watch", PATIENCE)
        await trio.to_thread.run_sync(login, server)
        server.transaction(written([API]))
        await seen(observer, WEB, API)
        assert not observer.errors
        # After a restart no token is known any more.
        await trio.to_thread.run_sync(server.stop)
        await trio.to_thread.run_sync(server.start)
        await trio.to_thread.run_sync(login, server)
        server.delete_all(f"{PREFIX}/api/")
        await seen(observer, WEB)
    refused = (
        ({}, "user name is empty"),
        ({"username": "nobody", "password_file": str(tmp_path / "nobody")}, "permission denied"),
        ({"username": "reader", "password_file": str(tmp_path / "bad")}, "cannot log in"),
        ({"username": "reader", "password_file": str(tmp_path / "none")}, "No such file"),
    )
    for chosen, words in refused:
        async with observe(backend(server, **chosen)) as observer:
            await told(observer, words)
            assert observer.syncs == 0
            assert not any("secret" in str(e) or "wrong" in str(e) for e in observer.errors)


@pytest.mark.parametrize(
    ("layout", "prefix", "puts"),
    [
        ("grpc", "/naming", {"/naming/web/a": '{"Op":0,"Addr":"10.0.0.1:8080","Metadata":null}'}),
        ("registrator", "/services", {"/services/web/host:web-1:8080": "10.0.0.1:8080"}),
        (
            "go-micro",
            "/micro/registry",
            {"/micro/registry/web/n1": '{"name":"web","nodes":[{"address":"10.0.0.1:8080"}]}'},
        ),
        (
            "traefik",
            "/traefik",
            {"/traefik/http/services/web/loadbalancer/servers/0/url": "http://10.0.0.1:8080/"},
        ),
    ],
)
async def test_layouts(layout: str, prefix: str, puts: dict[str, str], server: EtcdServer) -> None:
    server.transaction(puts)
    async with observe(backend(server, layout=layout, prefix=prefix)) as observer:
        await seen(observer, sample("web", "10.0.0.1"))
        assert not observer.reported
        server.transaction({}, tuple(puts))
        await seen(observer)
