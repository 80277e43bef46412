"""The back end ``kubernetes`` against an API server that keeps the real one's rules."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from registry.base import Context
from registry.duration import Duration
from registry.kubernetes import api as api_module
from registry.kubernetes import reflector
from registry.kubernetes.backend import KubernetesBackend, Options
from registry.model import Service
from registry.supervise import Registries, Spec, State
from registry.testing import CHECKS, Check, Observer, observe, sample
from tests.dataplane.kube_api import (
    Failure,
    KubeApi,
    endpoint_object,
    kube_api,
    put_model,
    service_object,
    slice_object,
)

PATIENCE = 20.0
WEB = sample("web", "10.0.0.1", "10.0.0.2")
API = sample("api", "10.0.0.3", port=9090)


@pytest.fixture
async def kube() -> AsyncIterator[KubeApi]:
    async with kube_api() as server:
        yield server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen server is noticed soon."""
    monkeypatch.setattr(reflector, "GRACE", 0.2)
    monkeypatch.setattr(api_module, "READ_TIMEOUT", 0.5)


def backend(kube: KubeApi, context: Context | None = None, **options: Any) -> KubernetesBackend:
    return KubernetesBackend(
        Options(server=kube.url, **options), context or Context("kubernetes", "node-1")
    )


async def sees(observer: Observer, *services: Service) -> None:
    await observer.sees(services, PATIENCE)


async def watched(observer: Observer, kube: KubeApi) -> None:
    """Wait until both watches are there."""
    both = ("services", "endpointslices")
    await until(observer, lambda: all(kube.requests["watch", r] for r in both), "watched")


async def until(observer: Observer, condition: Callable[[], bool], what: str) -> None:
    await observer.until(condition, what, PATIENCE)


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


# --- credentials and permissions ---


@pytest.mark.parametrize(
    ("verb", "resource"),
    [("list", "services"), ("watch", "services"), ("list", "endpointslices")],
)
async def test_a_missing_permission_is_named(kube: KubeApi, verb: str, resource: str) -> None:
    kube.forbidden.add((verb, resource))
    async with observe(backend(kube)) as observer:
        await until(observer, lambda: bool(observer.errors), "a refusal is told")
        text = str(observer.errors[0])
        assert f"RBAC does not allow `{verb}` on `{resource}" in text
        kube.forbidden.clear()
        put_model(kube, [WEB])
        await sees(observer, WEB)


async def test_the_node_is_no_condition(kube: KubeApi) -> None:
    kube.forbidden.add(("get", "nodes"))
    put_model(kube, [WEB])
    async with observe(backend(kube)) as observer:
        await sees(observer, WEB)
        (problem,) = observer.reported
        assert problem.source == "Node node-1"
        assert "RBAC does not allow `get` on `nodes`" in problem.message


async def test_the_zone_is_the_nodes(kube: KubeApi) -> None:
    kube.write("nodes", "node-1", {"metadata": {"labels": {"topology.kubernetes.io/zone": "b"}}})
    put_model(kube, [WEB])
    subject = backend(kube, Context("kubernetes", "node-1", "a"))
    async with observe(subject) as observer:
        await sees(observer, WEB)
        assert subject.zone == "b"
        assert "its zone is 'b'" in observer.reported[0].message


async def test_too_many_requests_are_waited_for_and_told(
    kube: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "MAX_WAIT", 0.01)
    busy = Failure(429, "TooManyRequests", "please try again later", Retry_After="1")
    kube.answers.extend([busy] * 3)
    put_model(kube, [WEB])
    said: list[str] = []

    async with observe(backend(kube)) as observer:
        tell = observer.problems

        def noted(problems: Any) -> None:
            found = list(problems)
            said.extend(str(p) for p in found)
            tell(found)

        observer.problems = noted  # type: ignore[method-assign]
        await sees(observer, WEB)
        assert not observer.errors
    assert any("as it asks" in text for text in said)


# --- TLS ---


@asynccontextmanager
async def secured(folder: Path) -> AsyncIterator[tuple[KubeApi, trustme.CA, dict[str, Any]]]:
    """A server with a certificate of a private authority, and a pod's files for it."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_OPTIONAL
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1", "kubernetes.default.svc").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    (folder / "token").write_text("first\n")
    async with kube_api(context) as kube:
        kube.tokens = {"first"}
        files = {"ca_file": str(folder / "ca.crt"), "token_file": str(folder / "token")}
        yield kube, authority, files


async def test_a_pods_files_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with secured(tmp_path) as (kube, _, _):
        put_model(kube, [WEB])
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(kube.port))
        subject = KubernetesBackend(Options(), Context("kubernetes"))
        subject.pod = str(tmp_path)
        async with observe(subject) as observer:
            await sees(observer, WEB)
            assert not observer.errors


async def test_a_token_may_rotate(tmp_path: Path) -> None:
    async with secured(tmp_path) as (kube, _, files):
        put_model(kube, [WEB])
        async with observe(backend(kube, **files, watch_timeout=Duration("1s"))) as observer:
            await sees(observer, WEB)
            (tmp_path / "new").write_text("second")
            (tmp_path / "new").replace(tmp_path / "token")
            kube.tokens = {"second"}
            count = kube.requests["watch", "services"]
            await until(
                observer, lambda: kube.requests["watch", "services"] > count + 1, "watched again"
            )
            put_model(kube, [API])
            await sees(observer, API)
            assert not observer.errors


async def test_a_wrong_token_is_told_without_its_text(tmp_path: Path) -> None:
    async with secured(tmp_path) as (kube, _, files):
        (tmp_path / "token").write_text("sesame")
        async with observe(backend(kube, **files)) as observer:
            await until(observer, lambda: bool(observer.errors), "a refusal is told")
            text = str(observer.errors[0])
            assert "not accepted (401)" in text
            assert files["token_file"] in text
            assert "sesame" not in text
            put_model(kube, [WEB])
            (tmp_path / "new").write_text("first")
            (tmp_path / "new").replace(tmp_path / "token")
            await sees(observer, WEB)


async def test_a_strange_authority_is_refused(tmp_path: Path) -> None:
    async with secured(tmp_path) as (kube, _, files):
        trustme.CA().cert_pem.write_to_path(files["ca_file"])
        async with observe(backend(kube, **files)) as observer:
            await until(observer, lambda: bool(observer.errors), "a stranger is told")
            assert "CERTIFICATE_VERIFY_FAILED" in str(observer.errors[0])
        assert not kube.requests


async def test_a_kubeconfig_with_a_client_certificate_and_a_server_name(tmp_path: Path) -> None:
    async with secured(tmp_path) as (kube, authority, _):
        mine = authority.issue_cert("node@example.org")
        mine.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        mine.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
        (tmp_path / "config").write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: here\n"
            "contexts: [{name: here, context: {cluster: one, user: me}}]\n"
            f"clusters: [{{name: one, cluster: {{server: '{kube.url}',"
            " certificate-authority: ca.crt, tls-server-name: kubernetes.default.svc}}]\n"
            "users: [{name: me, user: {client-certificate: cert.pem, client-key: key.pem}}]\n"
        )
        put_model(kube, [WEB])
        subject = KubernetesBackend(
            Options(kubeconfig="config"), Context("kubernetes", base_dir=str(tmp_path))
        )
        async with observe(subject) as observer:
            await sees(observer, WEB)
            assert not observer.errors


# --- what is taken ---


async def taken(kube: KubeApi, marker: str = "default/web", **options: Any) -> dict[str, Service]:
    """What the back end publishes, once it has published ``marker``."""
    async with observe(backend(kube, **options)) as observer:
        await until(observer, lambda: marker in observer.view and observer.syncs > 0, "synced")
        return dict(observer._services)


def labelled(kube: KubeApi, name: str, ip: str, proxy: str | None, spec: Any = None) -> None:
    labels = {} if proxy is None else {"service.kubernetes.io/service-proxy-name": proxy}
    namespace, _, short = name.partition("/")
    kube.write("services", name, service_object(ip, labels=labels, **(spec or {})))
    kube.write("endpointslices", f"{name}-x", slice_object(short, "10.5.0.1", labels=labels))
    assert namespace


async def test_services_of_other_proxies_are_left_to_them(kube: KubeApi) -> None:
    labelled(kube, "default/web", "10.96.0.1", None)
    labelled(kube, "default/ours", "10.96.0.2", "nodeproxy")
    labelled(kube, "default/theirs", "10.96.0.3", "cilium")
    labelled(kube, "default/headless", "None", None)
    kube.write("services", "default/name", {"spec": {"type": "ExternalName"}})

    assert set(await taken(kube)) == {"default/web", "default/ours"}
    assert set(await taken(kube, "default/ours", services="handed-over")) == {"default/ours"}


async def test_a_service_is_handed_over_and_taken_back_while_we_watch(kube: KubeApi) -> None:
    labelled(kube, "default/other", "10.96.0.9", "nodeproxy")
    labelled(kube, "default/web", "10.96.0.1", None)
    async with observe(backend(kube, services="handed-over")) as observer:
        await until(observer, lambda: set(observer.view) == {"default/other"}, "one is ours")
        slices = kube.objects["endpointslices"]["default/web-x"]
        ours = {"service.kubernetes.io/service-proxy-name": "nodeproxy"}
        kube.write("services", "default/web", service_object("10.96.0.1", labels=ours))
        kube.bookmark()
        labels = slices["metadata"]["labels"] | ours
        kube.write("endpointslices", "default/web-x", slices | {"metadata": {"labels": labels}})
        await until(observer, lambda: "default/web" in observer.view, "handed over")
        assert observer.view["default/web"] == {("10.5.0.1", 8080)}, "never without endpoints"
        labelled(kube, "default/web", "10.96.0.1", None)
        await until(observer, lambda: set(observer.view) == {"default/other"}, "taken back")


async def test_only_some_namespaces(kube: KubeApi) -> None:
    for name in ("one/a", "two/b", "three/c"):
        labelled(kube, name, "10.96.0.1", None)

    found = await taken(kube, "one/a", namespaces=("one", "two"))

    assert set(found) == {"one/a", "two/b"}


async def test_local_services_have_this_nodes_endpoints_only(kube: KubeApi) -> None:
    local = {"internalTrafficPolicy": "Local"}
    labelled(kube, "default/web", "10.96.0.1", None)
    labelled(kube, "default/dns", "10.96.0.2", None, local)
    found = slice_object(
        "dns", endpoint_object("10.5.0.1"), endpoint_object("10.5.0.2", nodeName="node-2")
    )
    kube.write("endpointslices", "default/dns-x", found)

    # There is no such Node: better the kernel's way than none.
    async with observe(backend(kube)) as observer:
        await until(observer, lambda: "default/web" in observer.view, "synced")
        assert "default/dns" not in observer.view
        assert [p.source for p in observer.reported] == ["Node node-1", "default/dns"]
    kube.write("nodes", "node-1", {})
    services = await taken(kube)
    assert [e.address for e in services["default/dns"].endpoints] == ["10.5.0.1"]
