"""The back end ``consul`` against a fake that keeps the rules of blocking queries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio

from registry.base import Context
from registry.consul.backend import ConsulBackend, Options
from registry.duration import Duration
from registry.model import Service
from registry.testing import CHECKS, Check, observe, sample
from tests.dataplane.consul_fake import ConsulFake, instance
from tests.dataplane.http_fake import Reply

PATIENCE = 20.0
WEB = sample("web", "10.0.0.1", "10.0.0.2")
API = sample("api", "10.0.0.3", port=9090)


def backend(fake: ConsulFake, **more: Any) -> ConsulBackend:
    options: dict[str, Any] = {"interval": Duration("1ms"), "address": fake.url} | more
    return ConsulBackend(Options(**options), Context("consul"))


@pytest.fixture
async def fake() -> AsyncIterator[ConsulFake]:
    async with ConsulFake().running() as running:
        yield running


class Catalog:
    """Conformance harness."""

    patience = PATIENCE
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, fake: ConsulFake) -> None:
        self.fake = fake

    def backend(self) -> ConsulBackend:
        return backend(self.fake, **self.options)

    async def put(self, services: Sequence[Service]) -> None:
        await self.fake.start()
        self.fake.put(services)

    async def garbage(self, services: Sequence[Service]) -> None:
        await self.put(services)
        # Of its own, as services are read at times of their own.
        self.fake.set("broken", [{"Service": {"Port": "x"}}, 7])

    async def vanish(self) -> None:
        self.fake.stop()


class InTurns(Catalog):
    """With fewer workers than services."""

    options: ClassVar = {"max_queries": 2, "rate": 200}


class Keys(Catalog):
    """registrator's keys."""

    options: ClassVar = {"layout": "registrator-kv"}

    async def put(self, services: Sequence[Service]) -> None:
        await self.fake.start()
        wanted = {
            f"services/{s.name.removeprefix('default/')}/host:{i}:80": f"{e.address}:{e.port}"
            for s in services
            for i, e in enumerate(s.endpoints)
        }
        for key in [k for k in self.fake.keys if k not in wanted]:
            self.fake.write(key, None)
        for key, value in wanted.items():
            self.fake.write(key, value)

    async def garbage(self, services: Sequence[Service]) -> None:
        await self.put(services)
        self.fake.write("services/web/bad", "nonsense")


@pytest.mark.parametrize("kind", [Catalog, Keys])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Check, kind: type[Catalog], fake: ConsulFake) -> None:
    await check(kind(fake))


@pytest.mark.parametrize("check", CHECKS[:-2], ids=lambda check: check.__name__)
async def test_conformance_in_turns(check: Check, fake: ConsulFake) -> None:
    await check(InTurns(fake))


async def test_only_the_services_that_are_named(fake: ConsulFake) -> None:
    fake.put([WEB, API])
    async with observe(backend(fake, follow=("api", "none"))) as observer:
        await observer.sees([API], PATIENCE)
        fake.put([WEB])
        fake.put([WEB, sample("none", "10.0.0.7")])
        await observer.sees([sample("none", "10.0.0.7")], PATIENCE)
    assert {r.path for r in fake.requests} == {"/v1/health/service/api", "/v1/health/service/none"}


async def test_names_tags_and_exclusions_choose(fake: ConsulFake) -> None:
    fake.set("a-web", [instance("10.0.0.1", 80, tags=["v1", "eu"]), instance("10.0.0.2", 80)])
    fake.set("a-old", [instance("10.0.0.3", 80, tags=["v1"])])
    fake.set("b-web", [instance("10.0.0.4", 80, tags=["v1", "eu"])])
    options = {"prefix": "a-", "tags": ("eu", "v1"), "exclude": ()}
    async with observe(backend(fake, **options)) as observer:
        await observer.sees([sample("a-web", "10.0.0.1", port=80)], PATIENCE)
    assert not [r for r in fake.requests if r.path.endswith(("a-old", "b-web", "consul"))]


async def test_what_is_sent(fake: ConsulFake, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    fake.token = "s3cret"
    fake.put([WEB])
    options: dict[str, Any] = {
        "token_file": str(tmp_path / "token"),
        "datacenter": "dc2",
        "consul_namespace": "team",
        "partition": "part",
        "consistency": "stale",
        "filter": 'Service.Meta.env == "prod"',
        "statuses": ("passing", "warning"),
    }
    async with observe(backend(fake, **options)) as observer:
        await observer.sees([WEB], PATIENCE)
        await fake.asked(4)
    common = [("ns", "team"), ("partition", "part"), ("stale", "")]
    asked = {r.path: r for r in fake.requests if not r.param("index")}
    assert asked["/v1/catalog/services"].params == [*common, ("dc", "dc2")]
    assert asked["/v1/health/service/web"].params == [
        *common,
        ("filter", 'Service.Meta.env == "prod"'),
        ("dc", "dc2"),
    ]
    waits = {r.param("wait") for r in fake.requests if r.param("index")}
    assert waits == {"60000ms"}


async def test_a_token_that_is_refused_is_told_without_it(fake: ConsulFake) -> None:
    fake.token = "right"
    async with observe(backend(fake, token="wr0ng-t0ken")) as observer:
        await observer.until(lambda: bool(observer.errors), "an error", PATIENCE)
    message = str(observer.errors[0])
    assert "403" in message
    assert "service:read" in message
    assert "wr0ng" not in message


async def test_without_a_leader_the_view_stays(fake: ConsulFake) -> None:
    fake.put([WEB])
    async with observe(backend(fake)) as observer:
        await observer.sees([WEB], PATIENCE)
        fake.leader = False
        fake.put([API])
        await observer.until(lambda: bool(observer.errors), "an error", PATIENCE)
        assert "No cluster leader" in str(observer.errors[0])
        assert set(observer.view) == {"default/web"}
        fake.leader = True
        await observer.sees([API], PATIENCE)


async def test_stale_answers_without_a_leader_are_used_and_told(fake: ConsulFake) -> None:
    fake.put([WEB])
    fake.leader = False
    async with observe(backend(fake, consistency="stale")) as observer:
        await observer.sees([WEB], PATIENCE)
        await observer.until(lambda: bool(observer.reported), "a problem", PATIENCE)
        assert "no leader" in observer.reported[0].message
        fake.leader = True
        fake.put([API])
        await observer.sees([API], PATIENCE)
        await observer.until(lambda: not observer.reported, "no problem", PATIENCE)


async def test_an_index_that_goes_backwards_is_forgotten(fake: ConsulFake) -> None:
    fake.index = 5000
    fake.put([WEB, API])
    async with observe(backend(fake)) as observer:
        await observer.sees([WEB, API], PATIENCE)
        await fake.asked(6)
        fake.restore()
        fake.put([sample("web", "10.0.0.9"), API])
        await observer.sees([sample("web", "10.0.0.9"), API], PATIENCE)
        assert not observer.errors
        before = len(fake.requests)
        fake.put([sample("web", "10.0.0.8"), API])
        await observer.sees([sample("web", "10.0.0.8"), API], PATIENCE)
    indexes = [int(r.param("index", "0")) for r in fake.requests[before:]]
    assert max(indexes) < 5000


async def test_an_index_of_zero_counts_as_one(fake: ConsulFake) -> None:
    fake.restore(0)
    fake.put([WEB])
    fake.restore(0)
    async with observe(backend(fake)) as observer:
        await observer.sees([WEB], PATIENCE)
        await fake.asked(4)
    assert {r.param("index", "none") for r in fake.requests} == {"none", "1"}


async def test_waking_up_without_news_publishes_nothing(fake: ConsulFake) -> None:
    fake.put([WEB])
    tested = backend(fake)
    async with observe(tested) as observer:
        await observer.sees([WEB], PATIENCE)
        before, reads = observer.publications, tested.reads
        fake.early = 20
        fake.tell()
        await observer.until(lambda: not fake.early, "the waits to end", PATIENCE)
        fake.set("web", fake.services["web"])
        fake.put([WEB, API])
        await observer.sees([WEB, API], PATIENCE)
        assert observer.publications - before == 1
        assert tested.reads - reads == 2


async def test_who_changes_all_the_time_is_read_at_a_limited_rate(fake: ConsulFake) -> None:
    fake.put([WEB])
    fake.early = 10**9
    async with observe(backend(fake, interval=Duration("1h"))) as observer:
        await observer.sees([WEB], PATIENCE)
        # Two of the list, two of the service; then both wait for their tokens.
        await fake.asked(4)
        for _ in range(1000):
            await trio.lowlevel.checkpoint()
        assert len(fake.requests) == 4


async def test_many_services_take_turns_with_few_connections(fake: ConsulFake) -> None:
    services = [sample(f"s{i:03}", f"10.0.{i}.1") for i in range(200)]
    fake.put(services)
    async with observe(backend(fake, max_queries=8, rate=10_000)) as observer:
        await observer.sees(services, PATIENCE)
        services[150] = sample("s150", "10.9.9.9")
        fake.put(services)
        await observer.sees(services, PATIENCE)
        assert not observer.errors
        assert fake.most_connections <= 8
        # Few again: each is waited for.
        fake.put(services[:3])
        await observer.sees(services[:3], PATIENCE)
        before = len(fake.requests)
        fake.put([sample("s000", "10.9.9.8"), *services[1:3]])
        await observer.sees([sample("s000", "10.9.9.8"), *services[1:3]], PATIENCE)
        assert any(r.param("index") for r in fake.requests[before:])


async def test_growing_beyond_the_workers_starves_nobody(fake: ConsulFake) -> None:
    few = [sample(f"s{i}", f"10.0.{i}.1") for i in range(3)]
    many = [sample(f"s{i}", f"10.0.{i}.1") for i in range(12)]
    fake.put(few)
    async with observe(backend(fake, max_queries=4, rate=1000)) as observer:
        await observer.sees(few, PATIENCE)
        fake.put(many)
        await observer.sees(many, PATIENCE)


async def test_an_emptied_catalog_is_one_answer_and_its_return_another(fake: ConsulFake) -> None:
    fake.put([WEB, API])
    async with observe(backend(fake)) as observer:
        await observer.sees([WEB, API], PATIENCE)
        fake.put([])
        await observer.sees([], PATIENCE)
        fake.put([API, WEB])
        await observer.sees([WEB, API], PATIENCE)


@pytest.mark.parametrize("cut", [0, 1, 20, 120, 300, 900])
async def test_an_answer_cut_at_any_byte_harms_nothing(fake: ConsulFake, cut: int) -> None:
    fake.put([WEB])
    async with observe(backend(fake)) as observer:
        await observer.sees([WEB], PATIENCE)
        fake.cut = cut
        fake.put([sample("web", "10.0.0.9")])
        await observer.sees([sample("web", "10.0.0.9")], PATIENCE)


async def test_a_frozen_server_is_noticed(
    fake: ConsulFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.consul.api.PATIENCE", 0.5)
    fake.put([WEB])
    async with observe(backend(fake, wait=Duration("1s"))) as observer:
        await observer.sees([WEB], PATIENCE)
        fake.freeze()
        fake.put([API])
        await observer.until(lambda: bool(observer.errors), "an error", PATIENCE)
        assert "no answer in time" in str(observer.errors[0])
        assert set(observer.view) == {"default/web"}
        fake.thaw()
        await observer.sees([API], PATIENCE)


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (Reply(200, b"<html>", (("X-Consul-Index", "3"),)), "not Consul's"),
        (Reply(200, b"{}"), "X-Consul-Index"),
        (Reply(429, b"Your IP"), "max_queries"),
        (Reply(502, b"<h1>Bad\n gateway"), "502: <h1>Bad gateway"),
    ],
)
async def test_answers_that_are_not_consuls(fake: ConsulFake, reply: Reply, word: str) -> None:
    fake.put([WEB])
    fake.scripted.append(reply)
    async with observe(backend(fake)) as observer:
        await observer.sees([WEB], PATIENCE)
        assert word in str(observer.errors[0])


async def test_a_bad_answer_for_one_service_leaves_it_as_it_was(fake: ConsulFake) -> None:
    fake.put([WEB, API])
    async with observe(backend(fake)) as observer:
        await observer.sees([WEB, API], PATIENCE)
        fake.set("web", [7, {"Service": {"ID": "web-1", "Address": "db.example", "Port": 1}}])
        await observer.until(lambda: len(observer.reported) == 2, "the problems", PATIENCE)
        assert "web-1: 'db.example' is not an IP address" in str(observer.reported[1])
        await observer.sees([WEB, API], PATIENCE)
