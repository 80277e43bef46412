"""The back end ``nacos`` against a fake of both versions of the HTTP API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from registry.base import Context
from registry.duration import Duration
from registry.model import Service
from registry.nacos.backend import NacosBackend, Options
from registry.testing import CHECKS, Check, observe, sample
from tests.dataplane.http_fake import Reply
from tests.dataplane.nacos_fake import NacosFake, host

PATIENCE = 20.0
WEB = sample("web", "10.0.0.1", "10.0.0.2")
API = sample("api", "10.0.0.3", port=9090)


def backend(*fakes: NacosFake, **more: Any) -> NacosBackend:
    options: dict[str, Any] = {
        "servers": tuple(f"{fake.url}/nacos" for fake in fakes),
        "min_interval": Duration("100ms"),
        "max_interval": Duration("200ms"),
    }
    made = NacosBackend(Options(**(options | more)), Context("nacos"))
    made.list_interval = 0.05
    return made


@pytest.fixture
async def fake() -> AsyncIterator[NacosFake]:
    async with NacosFake().running() as running:
        yield running


@pytest.fixture
async def second() -> AsyncIterator[NacosFake]:
    async with NacosFake().running() as running:
        yield running


class Harness:
    """Conformance harness."""

    patience = PATIENCE
    api = "v1"

    def __init__(self, fake: NacosFake) -> None:
        self.fake = fake

    def backend(self) -> NacosBackend:
        return backend(self.fake, api=self.api)

    async def put(self, services: Sequence[Service]) -> None:
        await self.fake.start()
        self.fake.put(services)

    async def garbage(self, services: Sequence[Service]) -> None:
        await self.put(services)
        # Of its own, as services are read at times of their own.
        self.fake.services["broken"] = [{"ip": "x", "port": 1}, 7]

    async def vanish(self) -> None:
        self.fake.stop()


class V2(Harness):
    """Version 2 of the API."""

    api = "v2"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Check, fake: NacosFake) -> None:
    await check(Harness(fake))


@pytest.mark.parametrize("check", CHECKS[:-2], ids=lambda check: check.__name__)
async def test_conformance_of_version_2(check: Check, fake: NacosFake) -> None:
    await check(V2(fake))


async def test_the_list_comes_page_by_page(fake: NacosFake) -> None:
    services = [sample(f"s{i:02}", f"10.0.{i}.1") for i in range(25)]
    fake.put(services)
    made = backend(fake)
    made.page = 10
    async with observe(made) as observer:
        await observer.sees(services, PATIENCE)
    pages = [r.param("pageNo") for r in fake.requests if r.path.endswith("service/list")]
    assert pages[:3] == ["1", "2", "3"]


@pytest.mark.parametrize("api", ["v1", "v2"])
async def test_group_namespace_and_clusters(fake: NacosFake, api: str) -> None:
    fake.where = ("shop", "prod-id")
    fake.services["web"] = [
        host("10.0.0.1", 80, clusterName="a"),
        host("10.0.0.2", 80, clusterName="b"),
        host("10.0.0.3", 80, clusterName="c"),
    ]
    options = {"group": "shop", "nacos_namespace": "prod-id", "clusters": ("a", "c"), "api": api}
    async with observe(backend(fake, **options)) as observer:
        await observer.sees([sample("web", "10.0.0.1", "10.0.0.3", port=80)], PATIENCE)


async def test_only_the_services_that_are_named(fake: NacosFake) -> None:
    fake.put([WEB, API])
    async with observe(backend(fake, follow=("api", "none"))) as observer:
        await observer.sees([API], PATIENCE)
        fake.put([sample("none", "10.0.0.7")])
        await observer.sees([sample("none", "10.0.0.7")], PATIENCE)
    assert {r.path for r in fake.requests} == {"/nacos/v1/ns/instance/list"}


async def test_health_weights_and_the_protection_threshold(fake: NacosFake) -> None:
    fake.services["web"] = [
        host("10.0.0.1", 80, weight=0.5),
        host("10.0.0.2", 80, weight=2),
        host("10.0.0.3", 80, healthy=False),
        host("10.0.0.4", 80, enabled=False),
    ]
    async with observe(backend(fake)) as observer:
        await observer.sees([sample("web", "10.0.0.1", "10.0.0.2", port=80)], PATIENCE)
        weights = [e.weight for e in observer._services["default/web"].endpoints]
        assert weights == [1, 4]
        assert not observer.reported
        fake.reached = True
        await observer.until(lambda: bool(observer.reported), "a problem", PATIENCE)
        assert "protection threshold" in observer.reported[0].message


async def test_login_and_a_token_that_expires(fake: NacosFake, tmp_path: Path) -> None:
    fake.password = "s3cr3t"
    fake.put([WEB])
    (tmp_path / "password").write_text("s3cr3t\n")
    options = {"username": "user", "password_file": str(tmp_path / "password")}
    async with observe(backend(fake, **options)) as observer:
        await observer.sees([WEB], PATIENCE)
        assert fake.logins == 1
        fake.forget()
        fake.put([API])
        await observer.sees([API], PATIENCE)
        assert not observer.errors
    assert not [r for r in fake.requests if "token-1" in str(r.params)]


async def test_a_password_that_is_refused_is_not_shown(fake: NacosFake, tmp_path: Path) -> None:
    fake.password = "right"
    (tmp_path / "password").write_text("wr0ng\n")
    options = {"username": "user", "password_file": str(tmp_path / "password")}
    async with observe(backend(fake, **options)) as observer:
        await observer.until(lambda: bool(observer.errors), "an error", PATIENCE)
        assert "logging in" in str(observer.errors[0])
        assert "refused (403)" in str(observer.errors[0])
        assert "wr0ng" not in str(observer.errors[0])


async def test_without_credentials_it_is_told(fake: NacosFake) -> None:
    fake.password = "s3cr3t"
    async with observe(backend(fake)) as observer:
        await observer.until(lambda: bool(observer.errors), "an error", PATIENCE)
        assert "not allowed (403)" in str(observer.errors[0])


async def test_the_next_server_is_asked(fake: NacosFake, second: NacosFake) -> None:
    fake.put([WEB])
    second.put([API])
    async with observe(backend(fake, second)) as observer:
        await observer.sees([WEB], PATIENCE)
        fake.stop()
        await observer.sees([API], PATIENCE)
        assert not observer.errors


@pytest.mark.parametrize(
    ("api", "reply"),
    [
        ("v1", Reply(400, b"caused: Param 'serviceName' is illegal")),
        ("v2", Reply(200, b'{"code":20004,"message":"resource not found","data":null}')),
        ("v1", Reply(200, b"<html>")),
        ("v2", Reply(200, b"<html>")),
        ("v1", Reply(200, b'{"hosts":[{"ip":"10.0.0.1"')),
    ],
)
async def test_a_bad_answer_for_one_service_leaves_it_as_it_was(
    fake: NacosFake, api: str, reply: Reply
) -> None:
    fake.put([WEB, API])
    async with observe(backend(fake, api=api)) as observer:
        await observer.sees([WEB, API], PATIENCE)
        fake.failures["web"] = reply
        await observer.until(lambda: bool(observer.reported), "a problem", PATIENCE)
        fake.services["api"] = [host("10.0.0.9", 9090)]
        await observer.sees([WEB, sample("api", "10.0.0.9", port=9090)], PATIENCE)
        fake.failures["api"] = reply
        await observer.until(lambda: bool(observer.errors), "an error", PATIENCE)
        assert len(observer.view) == 2
        fake.failures.clear()
        fake.put([API])
        await observer.sees([API], PATIENCE)


@pytest.mark.parametrize("cut", [0, 20, 130, 300])
async def test_an_answer_cut_at_any_byte_harms_nothing(fake: NacosFake, cut: int) -> None:
    fake.put([WEB])
    async with observe(backend(fake)) as observer:
        await observer.sees([WEB], PATIENCE)
        fake.cut = cut
        fake.put([API])
        await observer.sees([API], PATIENCE)
        assert fake.cut is None


async def test_a_frozen_server_is_noticed(fake: NacosFake) -> None:
    fake.put([WEB])
    async with observe(backend(fake, timeout=Duration("300ms"))) as observer:
        await observer.sees([WEB], PATIENCE)
        fake.freeze()
        await observer.until(lambda: bool(observer.errors), "an error", PATIENCE)
        assert "no answer in time" in str(observer.errors[0])
        assert observer.view
        fake.thaw()
        fake.put([API])
        await observer.sees([API], PATIENCE)
