"""The back end ``docker`` with a real engine and containers that answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import trio

from registry.base import Context
from registry.docker.backend import DockerBackend, Options
from registry.duration import Duration
from registry.model import Endpoint, Service
from registry.testing import CHECKS, Check, Observer, observe, sample
from tests.system.docker_engine import Engine, engine, traefik

pytestmark = [pytest.mark.netns, pytest.mark.system]

PATIENCE = 20.0
CHECKED = {
    "Test": ["CMD", "/answers", "check"],
    "Interval": 100_000_000,
    "Retries": 1,
    "StartPeriod": 0,
}


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("docker")) as found:
        yield found


@pytest.fixture(autouse=True)
def _empty(docker: Engine) -> None:
    docker.put([])


def backend(docker: Engine, **options: Any) -> DockerBackend:
    return DockerBackend(
        Options(endpoint=f"unix://{docker.socket}", **options),
        Context("docker", "node-1", "zone-1"),
    )


async def thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await trio.to_thread.run_sync(partial(function, *args, **kwargs))


async def until(observer: Observer, condition: Callable[[], bool], what: str) -> None:
    await observer.until(condition, what, PATIENCE)


class Harness:
    patience = PATIENCE

    def __init__(self, docker: Engine) -> None:
        self.docker = docker

    def backend(self) -> DockerBackend:
        return backend(self.docker)

    async def put(self, services: Sequence[Service]) -> None:
        await thread(self.docker.put, services)

    async def garbage(self, services: Sequence[Service]) -> None:
        await self.put(services)
        await thread(self.docker.run, "bad", "10.0.0.77", Labels=traefik("bad", "http"))

    async def vanish(self) -> None:
        await thread(self.docker.kill)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Check, docker: Engine) -> None:
    await check(Harness(docker))


def one(observer: Observer, name: str) -> Endpoint:
    (endpoint,) = observer._services[name].endpoints
    return endpoint


async def test_a_container_lives_falls_ill_pauses_and_moves(docker: Engine) -> None:
    found = backend(docker, unlabelled="name", network="kit")
    async with observe(found) as observer:
        await until(observer, lambda: observer.syncs > 0, "an empty engine is synced")
        container = await thread(
            docker.run, "web", "10.0.0.5", ExposedPorts={"8080/tcp": {}}, Healthcheck=CHECKED
        )
        await until(observer, lambda: "default/web" in observer._services, "it is seen")
        await until(observer, lambda: one(observer, "default/web").ready, "it gets healthy")
        assert one(observer, "default/web").locality.zone == "zone-1"
        answer = await thread(docker.inside, "curl", "-s", "http://10.0.0.5:8080/")
        assert answer == "web"

        await thread(docker.call, "POST", f"/containers/{container}/pause")
        await until(observer, lambda: not one(observer, "default/web").ready, "it is paused")
        await thread(docker.call, "POST", f"/containers/{container}/unpause")
        await until(observer, lambda: one(observer, "default/web").ready, "it goes on")

        await thread(docker.call, "POST", f"/containers/{container}/rename", name="shop")
        await until(observer, lambda: set(observer._services) == {"default/shop"}, "its new name")

        gone = {"Container": container, "Force": True}
        await thread(docker.call, "POST", "/networks/kit/disconnect", gone)
        await until(observer, lambda: not observer._services, "without an address it is gone")
        ipam = {"IPAMConfig": {"IPv4Address": "10.0.0.6"}}
        again = {"Container": container, "EndpointConfig": ipam}
        await thread(docker.call, "POST", "/networks/kit/connect", again)
        await until(
            observer,
            lambda: (
                "default/shop" in observer._services
                and one(observer, "default/shop").address == "10.0.0.6"
            ),
            "at its new address",
        )
        await thread(docker.call, "POST", f"/containers/{container}/stop", t="0")
        await until(observer, lambda: not observer._services, "it ended")
        assert not observer.errors


async def test_published_ports_and_the_variables_of_registrator(docker: Engine) -> None:
    options = {"address": "published", "host_address": "10.251.7.1"}
    async with observe(backend(docker, **options)) as observer:
        ports = {"8080/tcp": [{"HostIp": "", "HostPort": ""}]}
        container = await thread(
            docker.run,
            "one",
            Env=["SERVICE_NAME=web", "SERVICE_TAGS=a,b"],
            ExposedPorts={"8080/tcp": {}},
            host={"PortBindings": ports},
        )
        await until(observer, lambda: "default/web" in observer._services, "it is seen")
        endpoint = one(observer, "default/web")
        service = observer._services["default/web"]
        assert endpoint.address == "10.251.7.1"
        assert endpoint.port != 8080
        assert service.ports[0].port == 8080
        assert service.labels == (("tags", "a,b"),)
        answer = await thread(
            docker.inside, "curl", "-s", f"http://{endpoint.address}:{endpoint.port}/"
        )
        assert answer == "one"
        await thread(docker.remove, container)
        await until(observer, lambda: not observer._services, "it is gone")


async def test_an_engine_that_ends_restarts_and_freezes(docker: Engine) -> None:
    web = sample("web", "10.0.0.1")
    await thread(docker.put, [web])
    found = backend(docker, resync=Duration("200ms"), timeout=Duration("500ms"))
    async with observe(found) as observer:
        await observer.sees([web], PATIENCE)

        await thread(docker.freeze)
        await until(observer, lambda: bool(observer.errors), "the freeze is told")
        assert len(observer.view) == 1
        await thread(docker.thaw)
        syncs = observer.syncs
        await until(observer, lambda: observer.syncs > syncs, "it is thawed")

        errors = len(observer.errors)
        await thread(docker.stop)
        await until(observer, lambda: len(observer.errors) > errors, "the end is told")
        other = sample("web", "10.0.0.2")
        await thread(docker.put, [other])
        await observer.sees([other], PATIENCE)


async def test_an_event_that_was_missed_is_made_up_for(
    docker: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = backend(docker, resync=Duration("200ms"))
    monkeypatch.setattr("registry.docker.backend._Containers.event", lambda *args: None)
    async with observe(found) as observer:
        await until(observer, lambda: observer.syncs > 0, "an empty engine is synced")
        web = sample("web", "10.0.0.1")
        await thread(docker.put, [web])
        await observer.sees([web], PATIENCE)
        inspected, syncs = found.inspected, observer.syncs
        await until(observer, lambda: observer.syncs > syncs + 2, "it is listed again")
        assert found.inspected == inspected, "what is as it was is not inspected again"
        await thread(docker.put, [])
        await observer.sees([], PATIENCE)


async def test_an_engine_that_is_no_manager(docker: Engine) -> None:
    async with observe(backend(docker, mode="swarm")) as observer:
        await until(observer, lambda: bool(observer.errors), "a plain engine has no tasks")
        assert "not a swarm manager" in str(observer.errors[0])


async def test_services_and_tasks_of_a_swarm(docker: Engine) -> None:
    await thread(
        docker.call, "POST", "/swarm/init",
        {"ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1:2377"},
    )  # fmt: skip
    try:
        await thread(docker.call, "POST", "/networks/create", {"Name": "mesh", "Driver": "overlay"})
        spec: dict[str, Any] = {
            "Name": "web",
            "Labels": traefik("web", 8080),
            "TaskTemplate": {
                "ContainerSpec": {"Image": "answers:1", "Command": ["/answers"]},
                "Networks": [{"Target": "mesh"}],
            },
            "Mode": {"Replicated": {"Replicas": 2}},
        }
        service = (await thread(docker.call, "POST", "/services/create", spec))["ID"]
        found = backend(docker, mode="swarm", poll=Duration("200ms"))

        def ready() -> list[Endpoint]:
            web = observer._services.get("default/web")
            return [e for e in web.endpoints if e.ready] if web else []

        async with observe(found) as observer:
            await until(observer, lambda: len(ready()) == 2, "two tasks run")
            assert {e.port for e in ready()} == {8080}
            assert all(e.locality.node for e in ready())
            version = (await thread(docker.call, "GET", f"/services/{service}"))["Version"]["Index"]
            spec["Mode"]["Replicated"]["Replicas"] = 1
            await thread(
                docker.call, "POST", f"/services/{service}/update", spec, version=str(version)
            )
            await until(observer, lambda: len(ready()) == 1, "one task is left")
            await thread(docker.call, "DELETE", f"/services/{service}")
            await until(observer, lambda: not observer.view, "the service is gone")
            assert not observer.errors
    finally:
        await thread(docker.call, "POST", "/swarm/leave", force="1")
