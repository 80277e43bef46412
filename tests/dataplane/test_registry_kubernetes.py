"""The back end ``kubernetes`` against an API server that keeps the real one's rules."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence

import pytest
import trio

from registry.duration import Duration
from registry.kubernetes import api as api_module
from registry.kubernetes import reflector
from registry.kubernetes.backend import KubernetesBackend
from registry.model import Service
from registry.supervise import Registries, Spec, State
from registry.testing import CHECKS, Check, observe, sample
from tests.dataplane.kube_api import KubeApi, kube_api
from tests.dataplane.kube_objects import put_model, slice_object
from tests.dataplane.kube_rules import Failure
from tests.dataplane.kube_watching import API, PATIENCE, WEB, backend, sees, until, watched


@pytest.fixture
async def kube() -> AsyncIterator[KubeApi]:
    async with kube_api() as server:
        yield server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen server is noticed soon."""
    monkeypatch.setattr(reflector, "GRACE", 0.2)
    monkeypatch.setattr(api_module, "READ_TIMEOUT", 0.5)


# --- the kit ---


class Harness:
    patience = PATIENCE

    def __init__(self, kube: KubeApi) -> None:
        self.kube = kube
        kube.write("nodes", "node-1", {})

    def backend(self) -> KubernetesBackend:
        return backend(self.kube)

    async def put(self, services: Sequence[Service]) -> None:
        put_model(self.kube, list(services))
        await self.kube.start()

    async def garbage(self, services: Sequence[Service]) -> None:
        await self.put(services)
        self.kube.write("services", "default/bad", {"spec": {"ports": "none"}})
        self.kube.write("endpointslices", "default/bad-x", {"addressType": 4})

    async def vanish(self) -> None:
        self.kube.stop()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Check, kube: KubeApi) -> None:
    await check(Harness(kube))


# --- list ---


async def test_a_list_of_many_pages_is_one_list(kube: KubeApi) -> None:
    services = [sample(f"s{i}", f"10.1.{i >> 8}.{i & 255}") for i in range(230)]
    put_model(kube, services)

    async with observe(backend(kube, page=20)) as observer:
        await sees(observer, *services)

    assert kube.largest_page == 20
    assert kube.requests["list", "services"] == 12
    assert not observer.errors


async def test_pages_expire_and_the_list_starts_again_in_larger_ones(kube: KubeApi) -> None:
    services = [sample(f"s{i}", f"10.1.0.{i}") for i in range(1, 100)]
    put_model(kube, services)
    kube.expire_pages = True

    async with observe(backend(kube, page=30)) as observer:
        await sees(observer, *services)

    assert not observer.errors
    assert kube.largest_page == 99


async def test_pages_shrink_where_objects_are_large(kube: KubeApi) -> None:
    addresses = [f"10.2.{i >> 8}.{i & 255}" for i in range(1000)]
    services = [sample(f"s{i}", *addresses) for i in range(60)]
    put_model(kube, services)

    async with observe(backend(kube)) as observer:
        await sees(observer, *services)

    sizes = [int(q["limit"]) for q in kube.queries if "limit" in q]
    assert min(sizes) < 10


async def test_an_answer_may_come_byte_by_byte(kube: KubeApi) -> None:
    put_model(kube, [WEB])
    kube.piece = 1

    async with observe(backend(kube)) as observer:
        await sees(observer, WEB)


# --- watch ---


async def test_an_endpoint_slice_touches_only_its_service(kube: KubeApi) -> None:
    services = [sample(f"s{i}", f"10.1.0.{i + 1}") for i in range(50)]
    put_model(kube, services)
    async with observe(backend(kube)) as observer:
        await sees(observer, *services)
        before = observer.publications

        kube.write("endpointslices", "default/s7-y", slice_object("s7", "10.9.9.9"))

        await until(observer, lambda: ("10.9.9.9", 8080) in observer.view["default/s7"], "seen")
        assert observer.publications == before + 1


@pytest.mark.parametrize("as_event", [True, False], ids=["event", "status"])
async def test_gone_is_listed_anew(kube: KubeApi, as_event: bool) -> None:
    kube.gone_as_event = as_event
    put_model(kube, [WEB, API])
    async with observe(backend(kube)) as observer:
        await sees(observer, WEB, API)
        await watched(observer, kube)
        kube.stop()
        await until(observer, lambda: bool(observer.errors), "an outage is told")
        put_model(kube, [sample("web", "10.0.0.7")])
        kube.compact()
        count = len(observer.errors)
        await kube.start()

        await sees(observer, sample("web", "10.0.0.7"))
        refused = [e for e in observer.errors[count:] if "connect" not in str(e).lower()]
        assert not refused


async def test_after_an_outage_watches_go_on_without_a_list(kube: KubeApi) -> None:
    put_model(kube, [WEB])
    subject = backend(kube)
    async with observe(subject) as observer:
        await sees(observer, WEB)
        await watched(observer, kube)
        kube.stop()
        await until(observer, lambda: bool(observer.errors), "an outage is told")
        put_model(kube, [WEB, API])
        await kube.start()
        await sees(observer, WEB, API)

    assert subject.lists == 2


async def test_an_outage_that_lost_etcd_is_seen(kube: KubeApi) -> None:
    for i in range(20):
        kube.write("nodes", f"n{i}", {})
    put_model(kube, [WEB, API])
    async with observe(backend(kube)) as observer:
        await sees(observer, WEB, API)
        await watched(observer, kube)
        kube.stop()
        kube.lose_etcd()
        put_model(kube, [API])
        await kube.start()
        await sees(observer, API)


async def test_a_position_ahead_of_the_server_is_noticed_at_the_watchs_end(
    kube: KubeApi,
) -> None:
    for i in range(20):
        kube.write("nodes", f"n{i}", {})
    put_model(kube, [WEB])
    async with observe(backend(kube, watch_timeout=Duration("1s"))) as observer:
        await sees(observer, WEB)
        await watched(observer, kube)
        # No connection ends: somewhere behind a load balancer.
        kube.lose_etcd()
        put_model(kube, [API])
        await sees(observer, API)
        assert not observer.errors


async def test_a_watch_may_be_cut_at_any_byte(kube: KubeApi) -> None:
    put_model(kube, [WEB])
    subject = backend(kube)
    async with observe(subject) as observer:
        await sees(observer, WEB)
        for i, at in enumerate([*range(40), 100, 250, 333, 417, 500, 501]):
            kube.cut = at
            new = sample("web", f"10.3.0.{i + 1}")
            put_model(kube, [new])
            await sees(observer, new)

    assert subject.lists == 2
    assert not observer.errors


async def test_bookmarks_move_the_position_past_a_compaction(kube: KubeApi) -> None:
    put_model(kube, [WEB])
    subject = backend(kube)
    async with observe(subject) as observer:
        await sees(observer, WEB)
        await watched(observer, kube)
        tables = [table for _, table in subject._tables]
        for i in range(50):
            kube.write("nodes", f"n{i}", {})
        syncs = observer.syncs
        kube.bookmark()
        await until(
            observer,
            lambda: all(t.version == str(kube.version) for t in tables),
            "bookmarks are followed",
        )
        await until(observer, lambda: observer.syncs > syncs, "bookmarks confirm")
        kube.stop()
        await until(observer, lambda: bool(observer.errors), "an outage is told")
        kube.compact()
        await kube.start()
        put_model(kube, [WEB, API])
        await sees(observer, WEB, API)

    assert subject.lists == 2


async def test_watches_are_renewed_in_time_and_nobody_is_told(kube: KubeApi) -> None:
    put_model(kube, [WEB])
    subject = backend(kube, watch_timeout=Duration("1s"))
    async with observe(subject) as observer:
        await sees(observer, WEB)
        await until(observer, lambda: kube.requests["watch", "services"] > 2, "watched again")
        put_model(kube, [WEB, API])
        await sees(observer, WEB, API)

    assert subject.lists == 2
    assert not observer.errors


@pytest.mark.usefixtures("quick")
async def test_a_frozen_server_is_told_and_its_services_stay(kube: KubeApi) -> None:
    put_model(kube, [WEB])
    async with observe(backend(kube, watch_timeout=Duration("1s"))) as observer:
        await sees(observer, WEB)
        kube.freeze()
        await until(observer, lambda: bool(observer.errors), "a frozen server is told")
        assert "default/web" in observer.view
        put_model(kube, [API])
        kube.thaw()
        await sees(observer, API)


@pytest.mark.usefixtures("quick")
async def test_a_server_that_is_frozen_from_the_start_is_told(kube: KubeApi) -> None:
    put_model(kube, [WEB])
    kube.freeze()
    async with observe(backend(kube)) as observer:
        await until(observer, lambda: bool(observer.errors), "a frozen server is told")
        assert "no answer in time" in str(observer.errors[0])
        assert observer.syncs == 0
        kube.thaw()
        await sees(observer, WEB)


async def test_a_server_that_ends_watches_at_once_is_not_stormed(
    kube: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_model(kube, [WEB])
    pauses: list[float] = []
    sleep = trio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("registry.kubernetes.reflector.trio.sleep", noted)
    kube.end_watches = 40
    async with observe(backend(kube)) as observer:
        await sees(observer, WEB)
        await until(observer, lambda: kube.end_watches == 0, "watched again and again")
        put_model(kube, [API])
        await sees(observer, API)
        assert not observer.errors
    assert len(pauses) > 30
    assert sum(pauses) > 30


async def test_a_garbled_watch_is_told_and_listed_anew(kube: KubeApi) -> None:
    put_model(kube, [WEB])
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with observe(backend(kube)) as observer:
        await sees(observer, WEB)
        kube.stop()
        await until(observer, lambda: bool(observer.errors), "an outage is told")
        # The first requests are for the Node and the two positions.
        kube.answers.extend([Failure(500, "InternalError", "etcdserver: no leader")] * 2)
        kube.answers.append(head + b"2\r\n{}\r\n1\r\n\n\r\n0\r\n\r\n")
        put_model(kube, [API])
        await kube.start()
        await sees(observer, API)
        assert any("no leader" in str(e) for e in [*observer.errors, *observer.reported])


async def test_an_emptied_cluster_keeps_its_services_for_a_while(kube: KubeApi) -> None:
    put_model(kube, [WEB])
    spec = Spec("kubernetes", "kubernetes", {"server": kube.url})
    registries = Registries([spec], on_change=lambda catalog, changes: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(registries.run)
        await registries.wait_synced()
        assert registries.catalog.get("default/web") is not None
        kube.stop()
        kube.lose_etcd()
        await kube.start()
        with trio.fail_after(PATIENCE):
            while registries.statuses()[0].state is not State.KEPT:  # noqa: ASYNC110 - no event
                await trio.sleep(0.01)
        assert registries.catalog.get("default/web") is not None
        nursery.cancel_scope.cancel()


async def test_what_is_asked(kube: KubeApi) -> None:
    put_model(kube, [WEB])
    async with observe(backend(kube)) as observer:
        await sees(observer, WEB)
        await watched(observer, kube)

    collections = [q for q in kube.queries if q]
    assert {q["labelSelector"] for q in collections} == {"!service.kubernetes.io/headless"}
    watches = [q for q in collections if "watch" in q]
    assert all(q["allowWatchBookmarks"] == "true" for q in watches)
    assert all(60 <= int(q["timeoutSeconds"]) <= 75 for q in watches)
    assert all(q["resourceVersion"] == str(kube.version) for q in watches)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_it_ends_as_the_server_has_it(kube: KubeApi, seed: int) -> None:
    rng = random.Random(seed)
    kube.gone_as_event = bool(seed % 2)
    names = ["a", "b", "c", "d"]
    state: list[Service] = []
    async with observe(backend(kube, page=2, watch_timeout=Duration("1s"))) as observer:
        for _ in range(120):
            action = rng.choice(
                ["put", "put", "cut", "compact", "stop", "start", "bookmark", "turns", "see"]
            )
            if action == "put":
                state = [
                    sample(name, *(f"10.0.{i}.{rng.randrange(1, 5)}" for i in range(3)))
                    for name in rng.sample(names, rng.randrange(1, 5))
                ]
                put_model(kube, state)
            elif action == "cut":
                kube.cut = rng.randrange(2000)
            elif action == "start":
                await kube.start()
            elif action == "see":
                await kube.start()
                await sees(observer, *state)
            elif action == "turns":
                for _ in range(rng.randrange(100)):
                    await trio.lowlevel.checkpoint()
            else:
                getattr(kube, action)()
        kube.cut = None
        await kube.start()
        # What comes last is told by a service that was never there before.
        state = [*state, sample("last", "10.0.9.9")]
        put_model(kube, state)
        await sees(observer, *state)
