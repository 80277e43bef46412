"""The back end ``xds`` against a strict discovery service, and on real files."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from registry.base import Context
from registry.duration import Duration
from registry.model import Endpoint, Port, Service
from registry.naming import DialledPort, ServiceSettings
from registry.supervise import Registries, Spec, State
from registry.testing import CHECKS, Check, Observer, observe, sample
from registry.xds.backend import Options, XdsBackend
from registry.xds.resources import CLUSTER, ENDPOINTS
from tests.dataplane.http_fake import Reply
from tests.dataplane.xds_fake import XdsFake, assignment, cluster

PATIENCE = 20.0
POLL = Duration("100ms")
WEB, API = sample("web", "10.0.0.1", "10.0.0.2"), sample("api", "10.0.0.3", port=9090)


@pytest.fixture
async def xds() -> AsyncIterator[XdsFake]:
    async with XdsFake().running() as fake:
        yield fake


def backend(xds: XdsFake, **options: Any) -> XdsBackend:
    return XdsBackend(
        Options(server=xds.url, poll=POLL, **options), Context("xds", "node-1", "zone-1")
    )


async def until(observer: Observer, condition: Callable[[], bool], what: str) -> None:
    await observer.until(condition, what, PATIENCE)


class Rest:
    """Conformance harness: a server."""

    patience = PATIENCE

    def __init__(self, xds: XdsFake) -> None:
        self.xds = xds

    def backend(self) -> XdsBackend:
        return backend(self.xds)

    async def put(self, services: Sequence[Service]) -> None:
        self.xds.put(services)
        await self.xds.start()

    async def garbage(self, services: Sequence[Service]) -> None:
        await self.put(services)
        clusters, assignments = self.xds.resources[CLUSTER], self.xds.resources[ENDPOINTS]
        self.xds.write(
            [*clusters, cluster("bad"), 7, {"name": "worse", "type": "ORIGINAL_DST"}],
            [{"@type": ENDPOINTS, "cluster_name": "bad", "endpoints": {}}, *assignments],
        )

    async def vanish(self) -> None:
        self.xds.stop()


class File:
    """Conformance harness: a file as Envoy reads it."""

    patience = PATIENCE

    def __init__(self, path: Path) -> None:
        self.path = path / "eds.json"

    def backend(self) -> XdsBackend:
        return XdsBackend(Options(path="eds.json"), Context("xds", base_dir=str(self.path.parent)))

    async def put(self, services: Sequence[Service]) -> None:
        self.write([assignment(service) for service in services])

    async def garbage(self, services: Sequence[Service]) -> None:
        self.write([7, *(assignment(service) for service in services)])

    async def vanish(self) -> None:
        self.path.unlink(missing_ok=True)

    def write(self, resources: list[Any]) -> None:
        new = self.path.with_name(".new")
        new.write_text(json.dumps({"version_info": "1", "resources": resources}))
        new.replace(self.path)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance_of_a_server(check: Check, xds: XdsFake) -> None:
    await check(Rest(xds))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance_of_a_file(check: Check, tmp_path: Path) -> None:
    await check(File(tmp_path))


async def test_unchanged_answers_confirm_and_decode_nothing(xds: XdsFake) -> None:
    xds.put([WEB, API])
    found = backend(xds)
    async with observe(found) as observer:
        await observer.sees([WEB, API], PATIENCE)
        syncs, unchanged = observer.syncs, xds.unchanged
        await until(observer, lambda: observer.syncs > syncs + 2, "unchanged answers confirm")

    assert xds.unchanged > unchanged
    assert found.decoded == 2
    request = json.loads(xds.requests[0].body)
    assert request["node"] == {
        "id": "node-1", "cluster": "nodeproxy", "locality": {"zone": "zone-1"}
    }  # fmt: skip


async def test_a_change_decodes_only_what_changed(xds: XdsFake) -> None:
    services = [sample(f"s{i}", f"10.1.{i >> 8}.{i & 255}") for i in range(250)]
    xds.put(services)
    found = backend(xds)
    async with observe(found) as observer:
        await observer.sees(services, PATIENCE)
        services[7] = sample("s7", "10.9.9.9")
        xds.put(services)
        await observer.sees(services, PATIENCE)

    assert found.decoded == 251


async def test_only_the_clusters_that_are_configured(xds: XdsFake) -> None:
    xds.put([WEB, API])
    async with observe(backend(xds, clusters=("default/web",))) as observer:
        await observer.sees([WEB], PATIENCE)

    assert {request.path for request in xds.requests} == {"/v3/discovery:endpoints"}


async def test_an_assignment_that_is_missing_stays_and_a_cluster_that_is_gone_goes(
    xds: XdsFake,
) -> None:
    xds.put([WEB, API])
    async with observe(backend(xds)) as observer:
        await observer.sees([WEB, API], PATIENCE)

        xds.write([cluster(WEB.name), cluster(API.name)], [assignment(WEB)])
        await until(observer, lambda: bool(observer.reported), "a missing assignment is told")
        assert observer.reported[0].source == "cluster default/api"
        await observer.sees([WEB, API], PATIENCE)

        xds.write([cluster(WEB.name)], [assignment(WEB)])
        await observer.sees([WEB], PATIENCE)
        assert not observer.reported


async def test_a_broken_assignment_stays_as_it_was(xds: XdsFake) -> None:
    xds.put([WEB, API])
    async with observe(backend(xds)) as observer:
        await observer.sees([WEB, API], PATIENCE)
        broken = {"@type": ENDPOINTS, "cluster_name": WEB.name, "endpoints": 3}
        other = sample("api", "10.0.0.9")
        xds.write([cluster(WEB.name), cluster(API.name)], [broken, assignment(other)])
        await observer.sees([WEB, other], PATIENCE)
        assert [p.source for p in observer.reported] == ["cluster default/web"]


async def test_what_cds_says_of_clusters_counts(xds: XdsFake) -> None:
    http2 = {"http2_protocol_options": {}}
    weighted = {"common_lb_config": {"locality_weighted_lb_config": {}}}
    web = assignment(sample("web", "10.0.0.1"))
    web["cluster_name"] = "web-eds"
    web["endpoints"][0]["load_balancing_weight"] = 1
    more = assignment(sample("web", "10.0.0.2"))["endpoints"][0]
    web["endpoints"].append(more | {"locality": {"zone": "b"}, "load_balancing_weight": 3})
    static = {"name": "static", "load_assignment": assignment(API)}
    named = cluster("web", eds_cluster_config={"service_name": "web-eds"}, **http2, **weighted)
    xds.write([named, static], [web])
    registries, run = supervised(xds, services={"web": {"vips": ["10.96.0.1"]}})
    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        await registries.wait_synced()
        service = registries.catalog.get("default/web")
        assert service is not None
        assert (service.vips, service.ports[0].protocol) == (("10.96.0.1",), "http2")
        assert [e.weight for e in service.endpoints] == [1, 3]
        other = registries.catalog.get("default/static")
        assert other is not None
        assert other.endpoints == (Endpoint("10.0.0.3", 9090),)
        nursery.cancel_scope.cancel()


def supervised(xds: XdsFake, **options: Any) -> tuple[Registries, Any]:
    spec = Spec("xds", "xds", {"server": xds.url, "poll": "100ms", **options})
    registries = Registries([spec], on_change=lambda catalog, changes: None, state_dir=None)
    return registries, registries.run


async def test_a_file_is_dressed(tmp_path: Path) -> None:
    harness = File(tmp_path)
    plain = Service("web", endpoints=WEB.endpoints)
    harness.write([assignment(plain)])
    settings = {"web": ServiceSettings(("10.96.0.1",), (DialledPort(80),))}
    options = Options(path="eds.json", namespace="mesh", services=settings)
    found = XdsBackend(options, Context("xds", base_dir=str(tmp_path)))
    async with observe(found) as observer:
        await until(observer, lambda: bool(observer.view), "the file is read")
        service = observer._services["mesh/web"]
        assert (service.vips, service.ports) == (("10.96.0.1",), (Port(80),))


# --- failures ---


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(500, b"oops"), "500 oops"),
        (Reply(403, b"no"), "may not read"),
        (Reply(304), "304"),
        (Reply(200, b"{"), "not JSON"),
        (Reply(200, b'{"resources": [{}'), "not JSON"),
        (Reply(200, b"<html>"), "not JSON"),
    ],
)
async def test_an_answer_that_is_none_is_an_error_with_its_place(
    xds: XdsFake, reply: Reply, message: str
) -> None:
    xds.put([WEB])
    xds.scripted.append(reply)
    async with observe(backend(xds)) as observer:
        await observer.sees([WEB], PATIENCE)

    assert message in str(observer.errors[0])
    assert "/v3/discovery:clusters" in str(observer.errors[0])


async def test_an_answer_cut_at_any_byte_changes_nothing(xds: XdsFake) -> None:
    xds.put([WEB, API])
    async with observe(backend(xds)) as observer:
        await observer.sees([WEB, API], PATIENCE)
        for cut in range(0, 200, 17):
            seen = len(observer.errors)
            xds.cut = cut
            await until(observer, lambda n=seen: len(observer.errors) > n, f"cut at {cut}")
            assert len(observer.view) == 2
        xds.put([WEB])
        await observer.sees([WEB], PATIENCE)


async def test_a_frozen_server_is_noticed(xds: XdsFake) -> None:
    xds.put([WEB])
    async with observe(backend(xds, timeout=Duration("200ms"))) as observer:
        await observer.sees([WEB], PATIENCE)
        xds.freeze()
        await until(observer, lambda: bool(observer.errors), "the freeze must be told")
        assert "no answer in time" in str(observer.errors[0])
        assert len(observer.view) == 1
        xds.put([API])
        xds.thaw()
        await observer.sees([API], PATIENCE)


async def test_a_token_is_read_anew_and_never_shown(xds: XdsFake, tmp_path: Path) -> None:
    xds.put([WEB])
    xds.token = "s3cret"
    token = tmp_path / "token"
    token.write_text("0ld-s3cret\n")
    async with observe(backend(xds, token_file=str(token))) as observer:
        await until(observer, lambda: bool(observer.errors), "the old token is refused")
        token.write_text("s3cret\n")
        await observer.sees([WEB], PATIENCE)

    assert not any("s3cret" in str(error) for error in observer.errors)


async def test_a_stale_assignment_is_not_used_when_the_server_stays_away(xds: XdsFake) -> None:
    xds.put([WEB], endpoint_stale_after="0.3s")
    xds.resources[CLUSTER].append(cluster(API.name))
    xds.resources[ENDPOINTS].append(assignment(API))
    async with observe(backend(xds)) as observer:
        await observer.sees([WEB, API], PATIENCE)
        before = observer.syncs
        await until(observer, lambda: observer.syncs > before + 4, "answers renew it")
        assert all(e.ready for e in observer._services[WEB.name].endpoints)

        xds.stop()
        await until(
            observer,
            lambda: not any(e.ready for e in observer._services[WEB.name].endpoints),
            "stale endpoints are not ready",
        )
        assert all(e.ready for e in observer._services[API.name].endpoints)

        await xds.start()
        await until(
            observer,
            lambda: all(e.ready for e in observer._services[WEB.name].endpoints),
            "a new answer makes them ready",
        )


async def test_an_emptied_server_is_doubted(xds: XdsFake) -> None:
    xds.put([WEB])
    registries, run = supervised(xds)
    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        await registries.wait_synced()
        xds.put([])
        with trio.fail_after(PATIENCE):
            while registries.statuses()[0].state != State.KEPT:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert len(registries.catalog) == 1
        nursery.cancel_scope.cancel()
