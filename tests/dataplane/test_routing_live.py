"""Routes in force: from files that are watched to the table that the data plane asks."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio

from nodeproxy.config import Config
from nodeproxy.core.routing.table import RouteTable
from nodeproxy.dataplane.node import Node
from nodeproxy.dataplane.settings import Settings
from nodeproxy.inspection import Inspection
from nodeproxy.parts import Parts
from nodeproxy.routes import Routes
from nodeproxy.routing import Routing
from nodeproxy.telemetry.accesslog import AccessLog, AccessLogSettings
from nodeproxy.telemetry.families import Families
from nodeproxy.telemetry.metrics import Metrics
from registry.catalog import Merger
from registry.model import Endpoint, Port, Service

PATIENCE = 20.0
ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: {service}}}]
  rules:
    - name: rule-{name}
      matches: [{{path: {{type: PathPrefix, value: /api}}}}]
      backendRefs: [{{name: {to}, port: 80, weight: 3}}, {{name: web, port: 80}}]
"""


def text(name: str = "r", service: str = "web", to: str = "v1") -> str:
    return ROUTE.format(name=name, service=service, to=to)


def service(name: str, *ports: int) -> Service:
    ends = (Endpoint("10.244.0.1", 8080),)
    return Service(
        f"shop/{name}", ("10.96.0.1",) if name == "web" else (), tuple(map(Port, ports)), ends
    )


class Log:
    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.said.append((event, fields))

    warning = info


class Live:
    """Routing over real files and a catalog that tests change."""

    def __init__(self, path: Path) -> None:
        self.merger = Merger(["test"])
        self.log = Log()
        self.tables: list[RouteTable] = []
        rng = random.Random(0)
        metrics = Metrics(1000)
        reactor: Any = SimpleNamespace(now=100.0, every=lambda *_: None)
        access = AccessLog(AccessLogSettings("off", 0.0, 0.0), lambda _: None, rng)
        self.node = Node(
            Settings(), reactor, Families(metrics), access, rng=rng, log=lambda *_, **__: None
        )
        self.catalog = self.node.catalog
        self.routing = Routing(
            str(path), catalog=lambda: self.catalog, apply=self.apply, log=self.log
        )
        registries: Any = SimpleNamespace(
            catalog=self.catalog,
            statuses=tuple,
            registries_of=lambda _: ("test",),
            vips=lambda: None,
        )
        self.parts = Parts(
            Config(), "n", 0.0, metrics, reactor, self.node, registries, None, routing=self.routing
        )
        self.metrics = metrics

    def apply(self, table: RouteTable) -> None:
        self.tables.append(table)
        self.node.routes = table

    def know(self, *services: Service, gone: tuple[str, ...] = ()) -> None:
        self.catalog, changes = self.merger.apply("test", services, gone)
        self.parts.registries.catalog = self.catalog  # type: ignore[misc]
        self.node.update(self.catalog, changes)
        self.routing.follow(self.catalog, changes)

    async def until(self, condition: Any) -> None:
        with trio.fail_after(PATIENCE):
            while not condition():  # noqa: ASYNC110 - it is about anything
                await trio.sleep(0.002)


@asynccontextmanager
async def living(path: Path, *services: Service) -> AsyncIterator[Live]:
    live = Live(path)
    live.know(*services)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            await nursery.start(live.routing.read)
            await nursery.start(live.routing.run)
        yield live
        nursery.cancel_scope.cancel()


async def test_the_table_is_in_force_when_the_start_is_over(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text())
    async with living(tmp_path, service("web", 80), service("v1", 80)) as live:
        assert live.node.routes is live.routing.table
        assert live.node.routes.find("shop/web", 80) is not None
        assert live.node.routes.find("shop/v1", 80) is None
        assert live.routing.settled
        assert live.log.said == [("routes in force", {"objects": 1, "files": 1})]


async def test_a_changed_file_makes_the_next_table(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text())
    async with living(file, service("web", 80), service("v1", 80)) as live:
        first = live.node.routes
        file.write_text(text(service="v1", to="web"))
        await live.until(lambda: live.node.routes is not first)
        assert live.node.routes.find("shop/web", 80) is None
        assert live.node.routes.find("shop/v1", 80) is not None
        assert first.find("shop/web", 80) is not None  # who has it goes on with it


async def test_a_broken_file_changes_nothing_and_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text())
    async with living(file, service("web", 80), service("v1", 80)) as live:
        file.write_text(text().replace("backendRefs", "backendRef"))
        await live.until(lambda: live.routing.routes.problems)
        await live.until(lambda: live.routing.settled)
        assert live.node.routes.find("shop/web", 80) is not None
        said = dict(live.log.said)["a route file has a problem"]["problem"]
        assert "a.yaml:" in said
        assert "backendRefs" in said
        told = Inspection(live.parts).status().routes
        assert told is not None
        assert (told.objects, told.services, told.problems_total) == (1, 1, len(told.problems))
        assert told.problems[0].source.endswith("a.yaml")
        file.write_text(text(name="good"))
        await live.until(lambda: not live.routing.routes.problems)
        await live.until(lambda: live.routing.settled)


async def test_no_files_at_all_are_a_problem_and_no_end(tmp_path: Path) -> None:
    async with living(tmp_path / "none", service("web", 80)) as live:
        assert live.node.routes.find("shop/web", 80) is None
        assert "no routes are read" in str(live.routing.routes.problems[0])


async def test_a_service_that_comes_later_is_routed_from_its_first_moment(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text())
    async with living(tmp_path, service("v1", 80)) as live:
        assert live.node.routes.find("shop/web", 80) is None
        live.know(service("web", 80))
        assert live.node.routes.find("shop/web", 80) is not None  # at once
        live.know(service("web", 80, 81))
        assert live.node.routes.find("shop/web", 81) is not None
        table = live.node.routes
        live.know(Service("shop/web", (), (Port(80), Port(81)), ()))
        assert live.node.routes is table  # endpoints mean no new table
        live.know(gone=("shop/web",))
        assert live.node.routes.find("shop/web", 80) is None


async def test_changes_while_a_large_table_is_made_are_in_it(tmp_path: Path) -> None:
    many = "---\n".join(text(f"r{i}", f"s{i}") for i in range(400))
    file = tmp_path / "a.yaml"
    file.write_text(text())
    async with living(file, service("web", 80), service("v1", 80)) as live:

        def meanwhile(routes: Routes) -> None:
            live.routing.publish(routes)
            assert not live.routing.settled
            live.know(*(service(f"s{i}", 80) for i in range(400)))
            assert live.node.routes.generation == 1

        live.routing._files._publish = meanwhile
        file.write_text(many)
        await live.until(lambda: live.routing.settled and live.routing.table.generation == 2)
        assert all(live.node.routes.find(f"shop/s{i}", 80) for i in range(400))
        assert {t.generation for t in live.tables} == {1, 2}


async def test_rules_are_shown_with_backends_conditions_and_lines(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text() + "---\n" + text("b", "nobody"))
    async with living(tmp_path, service("web", 80), service("other", 80)) as live:
        rows = list(Inspection(live.parts).routes() or ())
        routed, unknown = (r for r in rows if r.route)
        assert (routed.destination, routed.kind) == ("10.96.0.1:80", "vip")
        assert routed.route == "HTTPRoute shop/r rules[0]"
        assert routed.route_rule == "rule-r"
        assert routed.rule == "path begins with /api"
        assert routed.backends == ("shop/v1:80 0.75", "shop/web:80 0.25")
        assert routed.endpoints_eligible == 1
        assert routed.problems == ("BackendNotFound: no registry knows the service shop/v1",)
        assert routed.origin.endswith("a.yaml:7")
        assert (unknown.kind, unknown.service) == ("none", "shop/nobody")
        assert unknown.problems == ("NoMatchingParent: no registry knows the service shop/nobody",)
        of_one = list(Inspection(live.parts).routes("shop/web") or ())
        assert of_one == [routed]
        live.know(service("v1", 80))
        (again,) = Inspection(live.parts).routes("shop/web") or ()
        assert (again.problems, again.endpoints_eligible) == ((), 2)


async def test_metrics_tell_of_routes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text())
    async with living(tmp_path, service("web", 80), service("v1", 80)) as live:
        live.routing.publish_metrics(Families(metrics := Metrics(100)))
        page = b"".join(metrics.render()).decode()
        assert "nodeproxy_routes_generation 1" in page
        assert "nodeproxy_routes_objects 1" in page
        assert "nodeproxy_routes_problems 0" in page
