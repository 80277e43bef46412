"""The back end ``docker`` against an engine that says what real ones rarely do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import h11
import pytest
import trio

from registry.base import Context
from registry.docker.backend import DockerBackend, Options
from registry.duration import Duration
from registry.model import Service
from registry.testing import Observer, observe, sample
from tests.dataplane.http_fake import HttpFake, Reply, Request

PATIENCE = 20.0
WEB = sample("web", "10.0.0.1")


class EngineFake(HttpFake):
    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, Any] = {}
        """By id, what an inspection says."""
        self.listed: list[Any] = []
        """More entries of the list."""
        self.events: list[bytes] = []
        self.streams = 0

    def put(self, *services: Service) -> None:
        self.entries = {
            f"{s.name}-{e.address}".replace("/", "-"): {
                "Id": f"{s.name}-{e.address}".replace("/", "-"),
                "Name": "/" + s.name.partition("/")[2],
                "State": {"Status": "running", "Running": True},
                "Config": {"ExposedPorts": {f"{e.port}/tcp": {}}},
                "NetworkSettings": {"Networks": {"n": {"IPAddress": e.address}}},
            }
            for s in services
            for e in s.endpoints
        }

    def say(self, event: bytes) -> None:
        self.events.append(event)
        self.tell()

    async def handle(self, request: Request) -> Reply:
        if request.path == "/version":
            return Reply(200, b'{"ApiVersion":"1.45","MinAPIVersion":"1.24"}')
        prefix, _, path = request.path.removeprefix("/").partition("/")
        if prefix != "v1.45":
            return Reply(400, b'{"message":"version"}')
        if path == "containers/json":
            listed = [{"Id": key, "State": "running"} for key in self.entries]
            return Reply(200, json.dumps([*listed, *self.listed]).encode())
        found = self.entries.get(path.removeprefix("containers/").removesuffix("/json"))
        return Reply(404) if found is None else Reply(200, json.dumps(found).encode())

    async def _reply(self, stream: trio.SocketStream, head: h11.Request, body: bytes) -> Reply:
        if b"/events" not in head.target:
            return await super()._reply(stream, head, body)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.streams += 1
        at = len(self.events)
        while True:
            while at < len(self.events):
                line = self.events[at]
                await stream.send_all(b"%x\r\n%s\r\n" % (len(line), line))
                at += 1
            await self.changed()


@pytest.fixture
async def engine() -> AsyncIterator[EngineFake]:
    async with EngineFake().running() as found:
        yield found


def backend(engine: EngineFake, **options: Any) -> DockerBackend:
    options = {"resync": Duration("100ms"), "timeout": Duration("500ms"), **options}
    return DockerBackend(Options(endpoint=engine.url, **options), Context("docker"))


async def until(observer: Observer, condition: Callable[[], bool], what: str) -> None:
    await observer.until(condition, what, PATIENCE)


async def test_entries_that_cannot_be_decoded_are_told_one_by_one(engine: EngineFake) -> None:
    engine.put(WEB)
    engine.entries["bad"] = {"Id": "bad", "State": 7}
    engine.listed = [7]
    async with observe(backend(engine)) as observer:
        await observer.sees([WEB], PATIENCE)
        await until(observer, lambda: len(observer.reported) == 2, "both are told")
        assert {p.source for p in observer.reported} == {
            "container bad",
            f"{engine.url}/containers/json",
        }
        engine.put(WEB)
        engine.listed = []
        await until(observer, lambda: not observer.reported, "and then no more")
        assert not observer.errors


async def test_events_in_pieces_and_events_that_are_none(engine: EngineFake) -> None:
    engine.put()
    async with observe(backend(engine, resync=Duration("1h"))) as observer:
        await until(observer, lambda: observer.syncs > 0, "nothing is there")
        engine.put(WEB)
        (key,) = engine.entries
        event = b'{"Type":"container","Action":"start","Actor":{"ID":"%s"}}\n' % key.encode()
        for at in range(0, len(event), 9):
            engine.say(event[at : at + 9])
        await observer.sees([WEB], PATIENCE)
        assert not observer.errors

        both = [WEB, sample("api", "10.0.0.2")]
        engine.put(*both)
        engine.say(b"<html>\n")
        await observer.sees(both, PATIENCE)
        assert not observer.errors


async def test_a_paused_container_is_seen_without_asking(engine: EngineFake) -> None:
    engine.put(WEB)
    async with observe(backend(engine, resync=Duration("1h"))) as observer:
        await observer.sees([WEB], PATIENCE)
        asked = len(engine.requests)
        (key,) = engine.entries
        for _ in range(2):
            engine.say(
                b'{"Type":"container","Action":"pause","Actor":{"ID":"%s"}}\n' % key.encode()
            )
        await until(observer, lambda: not observer._services[WEB.name].endpoints[0].ready, "paused")
        assert len(engine.requests) == asked


async def test_answers_cut_at_any_byte(engine: EngineFake) -> None:
    engine.put(WEB)
    async with observe(backend(engine)) as observer:
        await observer.sees([WEB], PATIENCE)
        for cut in range(0, 80, 11):
            seen = len(observer.errors)
            engine.cut = cut
            await until(observer, lambda n=seen: len(observer.errors) > n, f"cut at {cut}")
            assert len(observer.view) == 1
        await observer.sees([WEB], PATIENCE)


@pytest.mark.parametrize(
    "reply", [Reply(200, b"<html>"), Reply(200, b'{"ApiVersion":"1.9"}'), Reply(500, b"oops")]
)
async def test_what_is_no_engine_that_is_known(engine: EngineFake, reply: Reply) -> None:
    engine.put(WEB)
    engine.scripted.append(reply)
    async with observe(backend(engine)) as observer:
        await observer.sees([WEB], PATIENCE)
        assert len(observer.errors) == 1
        assert engine.url in str(observer.errors[0]) or "1.9" in str(observer.errors[0])


async def test_an_empty_list_is_one_answer_and_ended_containers_are_named(
    engine: EngineFake,
) -> None:
    engine.put(WEB)
    async with observe(backend(engine)) as observer:
        await observer.sees([WEB], PATIENCE)
        engine.put()
        await observer.sees([], PATIENCE)


async def test_a_thousand_containers(engine: EngineFake) -> None:
    services = [
        sample(f"s{i}", *(f"10.{j}.{i >> 8}.{i & 255}" for j in range(1, 5))) for i in range(250)
    ]
    engine.put(*services)
    found = backend(engine, resync=Duration("1h"), timeout=Duration("10s"))
    async with observe(found) as observer:
        await observer.sees(services, PATIENCE)
    assert found.inspected == 1000
