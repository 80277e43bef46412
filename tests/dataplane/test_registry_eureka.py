"""The back end ``eureka`` against a fake that writes the real one's JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from registry.base import Context
from registry.duration import Duration
from registry.eureka.backend import EurekaBackend, Options
from registry.model import Service
from registry.testing import CHECKS, Check, observe, sample
from tests.dataplane.eureka_fake import EurekaFake, instance
from tests.dataplane.http_fake import Reply

PATIENCE = 20.0
WEB = sample("web", "10.0.0.1", "10.0.0.2")
API = sample("api", "10.0.0.3", port=9090)


def backend(*fakes: EurekaFake, **more: Any) -> EurekaBackend:
    servers = tuple(f"{fake.url}/eureka/" for fake in fakes)
    made = EurekaBackend(Options(**({"servers": servers} | more)), Context("eureka"))
    made.interval = 0.02
    return made


@pytest.fixture
async def fake() -> AsyncIterator[EurekaFake]:
    async with EurekaFake().running() as running:
        yield running


@pytest.fixture
async def second() -> AsyncIterator[EurekaFake]:
    async with EurekaFake().running() as running:
        yield running


class Harness:
    """Conformance harness."""

    patience = PATIENCE
    delta = True

    def __init__(self, fake: EurekaFake) -> None:
        self.fake = fake

    def backend(self) -> EurekaBackend:
        return backend(self.fake, delta=self.delta)

    async def put(self, services: Sequence[Service]) -> None:
        await self.fake.start()
        self.fake.put(services)

    async def garbage(self, services: Sequence[Service]) -> None:
        await self.put(services)
        self.fake.instances["bad"] = {"app": "WEB", "status": "UP", "port": "x"}

    async def vanish(self) -> None:
        self.fake.stop()


class Whole(Harness):
    """Without deltas."""

    delta = False


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Check, fake: EurekaFake) -> None:
    await check(Harness(fake))


@pytest.mark.parametrize("check", CHECKS[:-2], ids=lambda check: check.__name__)
async def test_conformance_without_deltas(check: Check, fake: EurekaFake) -> None:
    await check(Whole(fake))


async def test_changes_come_by_delta(fake: EurekaFake) -> None:
    fake.put([WEB, API])
    async with observe(backend(fake)) as observer:
        await observer.sees([WEB, API], PATIENCE)
        fake.put([sample("web", "10.0.0.2", "10.0.0.7")])
        await observer.sees([sample("web", "10.0.0.2", "10.0.0.7")], PATIENCE)
        down = fake.instances["10.0.0.7:web:8080"] | {"status": "OUT_OF_SERVICE"}
        fake.register(down, "MODIFIED")
        await observer.sees([sample("web", "10.0.0.2")], PATIENCE)
    paths = [r.path for r in fake.requests]
    assert paths.count("/eureka/apps") == 1


async def test_missed_changes_show_in_the_hash_code(fake: EurekaFake) -> None:
    fake.put([WEB])
    async with observe(backend(fake)) as observer:
        await observer.sees([WEB], PATIENCE)
        fake.put([WEB, API])
        fake.forget()
        await observer.sees([WEB, API], PATIENCE)
    assert [r.path for r in fake.requests].count("/eureka/apps") == 2


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_a_server_without_deltas(fake: EurekaFake, status: int) -> None:
    fake.delta_status = status
    fake.put([WEB])
    async with observe(backend(fake)) as observer:
        await observer.sees([WEB], PATIENCE)
        fake.put([API])
        await observer.sees([API], PATIENCE)
        fake.put([WEB])
        await observer.sees([WEB], PATIENCE)
        assert not observer.errors
    deltas = [r.path for r in fake.requests].count("/eureka/apps/delta")
    assert (deltas == 1) == (status != 500)


async def test_a_hash_code_that_is_never_right_ends_deltas(fake: EurekaFake) -> None:
    fake.hash = "UP_77_"
    fake.put([WEB])
    async with observe(backend(fake)) as observer:
        await observer.sees([WEB], PATIENCE)
        assert "UP_77_" in observer.reported[0].message
        fake.put([API])
        await observer.sees([API], PATIENCE)
    assert "/eureka/apps/delta" not in [r.path for r in fake.requests]


async def test_one_is_not_always_a_list(fake: EurekaFake) -> None:
    fake.single = True
    fake.put([API])
    async with observe(backend(fake)) as observer:
        await observer.sees([API], PATIENCE)
        fake.put([WEB])
        await observer.sees([WEB], PATIENCE)


async def test_the_next_server_is_asked(fake: EurekaFake, second: EurekaFake) -> None:
    fake.put([WEB])
    second.put([API])
    async with observe(backend(fake, second)) as observer:
        await observer.sees([WEB], PATIENCE)
        fake.stop()
        await observer.sees([API], PATIENCE)
        assert not observer.errors
        await fake.start()
        second.stop()
        await observer.sees([WEB], PATIENCE)
        fake.stop()
        await observer.until(lambda: bool(observer.errors), "an error", PATIENCE)
        assert str(observer.errors[0]).count("/eureka/apps") == 2
        assert observer.view


async def test_credentials_in_the_url_are_used_and_not_shown(
    fake: EurekaFake, tmp_path: Path
) -> None:
    fake.password = "s3cr3t"
    fake.put([WEB])
    host = f"127.0.0.1:{fake.port}"
    good = EurekaBackend(Options((f"http://user:s3cr3t@{host}/eureka",)), Context("eureka"))
    async with observe(good) as observer:
        await observer.sees([WEB], PATIENCE)
    bad = EurekaBackend(Options((f"http://user:wr0ng@{host}/eureka",)), Context("eureka"))
    async with observe(bad) as observer:
        await observer.until(lambda: bool(observer.errors), "an error", PATIENCE)
        assert "credentials are not accepted (401)" in str(observer.errors[0])
        assert "wr0ng" not in str(observer.errors[0])
    (tmp_path / "password").write_text("s3cr3t\n")
    options = {"username": "user", "password_file": str(tmp_path / "password")}
    async with observe(backend(fake, **options)) as observer:
        await observer.sees([WEB], PATIENCE)


async def test_only_some_applications(fake: EurekaFake) -> None:
    fake.put([WEB, API])
    async with observe(backend(fake, follow=("api",))) as observer:
        await observer.sees([API], PATIENCE)
        fake.put([WEB, sample("api", "10.0.0.9", port=9090)])
        await observer.sees([sample("api", "10.0.0.9", port=9090)], PATIENCE)
        assert not observer.errors


@pytest.mark.parametrize("cut", [0, 20, 130, 400, 900])
async def test_an_answer_cut_at_any_byte_harms_nothing(fake: EurekaFake, cut: int) -> None:
    fake.put([WEB])
    async with observe(backend(fake)) as observer:
        await observer.sees([WEB], PATIENCE)
        fake.cut = cut
        fake.put([API])
        await observer.sees([API], PATIENCE)
        assert fake.cut is None


async def test_a_frozen_server_is_noticed(fake: EurekaFake) -> None:
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


@pytest.mark.parametrize("body", [b"<applications/>", b"[]", b'{"applications":7}', b"{"])
async def test_answers_that_are_not_eurekas(fake: EurekaFake, body: bytes) -> None:
    fake.put([WEB])
    fake.scripted.append(Reply(200, body))
    async with observe(backend(fake)) as observer:
        await observer.sees([WEB], PATIENCE)
        assert "not Eureka's" in str(observer.errors[0])


async def test_weights_of_the_metadata(fake: EurekaFake) -> None:
    fake.register(instance("WEB", "10.0.0.1", 80, metadata={"weight": "0.5", "v": "1"}))
    fake.register(instance("WEB", "10.0.0.2", 80, metadata={"weight": "1.5"}))
    async with observe(backend(fake)) as observer:
        await observer.sees([sample("web", "10.0.0.1", "10.0.0.2", port=80)], PATIENCE)
        weights = [e.weight for e in observer._services["default/web"].endpoints]
    assert weights == [1, 3]


async def test_a_large_registry_does_not_hold_the_loop(fake: EurekaFake) -> None:
    """Between two turns of the loop only a bounded number of instances is decoded."""
    services = [sample(f"s{i}", *(f"10.{i}.0.{n}" for n in range(1, 11))) for i in range(200)]
    fake.put(services)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with observe(backend(fake)) as observer, trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await observer.sees(services, PATIENCE)
        nursery.cancel_scope.cancel()
    assert turns > 2000 / 100
