"""A node that the admin API and the command line can be tested against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import httpx
import pytest
import trio
from click.testing import CliRunner, Result

from nodeproxy.admin import api, messages, views
from nodeproxy.cli.main import cli
from nodeproxy.cli.session import Session


class FakeView:
    """A View with one service, which tests may change."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.level: views.LogLevel = "info"
        self.drift: tuple[views.DriftView, ...] = ()
        self.known = [
            views.ServiceView(
                "shop/web",
                vips=("10.96.0.10", "fd00:96::a"),
                ports=(views.PortView(80, "http", "http"), views.PortView(9000, "admin", "")),
                endpoints=3,
                endpoints_eligible=1,
                registries=("file",),
            ),
            views.ServiceView("shop/cart", endpoints=0, registries=("file",)),
        ]
        self.ends = [
            views.EndpointView("shop/web", "10.244.1.11:8080", "ready", True, zone="zone-1"),
            views.EndpointView(
                "shop/web",
                "10.244.2.12:8080",
                "ejected",
                False,
                reason="5 consecutive connect failures",
                ejected_seconds=12.0,
                last_failure="connection_refused",
                last_failure_age_seconds=18.0,
                labels={"version": "v2"},
            ),
        ]
        self.announced = (
            views.RegistrationView(
                "shop/web",
                "10.1.0.7:8080",
                "main",
                "etcd",
                "grpc",
                "withdrawn",
                meaning="not announced: its checks fail",
                since_seconds=42.0,
                place="/mesh/shop/web/10.1.0.7:8080",
                losses=1,
                checks=(views.CheckView("http /health", "down", 9, 3, 3, "status 503", 0.4),),
            ),
        )
        self.registry = views.RegistryView("file", "file", "synced", True, 2.0, 2, 3)
        self.state = views.StatusView(
            version="0.1.0",
            pid=4242,
            node="node-a",
            ready=True,
            zone="zone-1",
            uptime_seconds=11520.0,
            config="/etc/nodeproxy/nodeproxy.yaml",
            services=2,
            endpoints=3,
            endpoints_ejected=1,
            listeners=(views.ListenerView("169.254.171.1:15001", "outbound", connections=12),),
            interception=views.InterceptionView(
                mode="iptables",
                installed=True,
                live=True,
                backend="nft",
                families=("ipv4", "ipv6"),
                kernel_path="nodeproxy",
                fail="open",
                last_beat_age_seconds=0.3,
                expiry_seconds=2,
                frontends=4,
            ),
            registries=(self.registry,),
        )

    def status(self) -> views.StatusView:
        return self.state

    def ready(self) -> views.ProbeView:
        return views.ProbeView(self.state.ready, self.state.reasons)

    def live(self) -> views.ProbeView:
        return views.ProbeView(True)

    def services(self) -> Iterable[views.ServiceView]:
        return iter(self.known)

    def hosts(self, suffix: str = "") -> Iterable[views.HostView]:
        for service in self.known:
            namespace, _, name = service.name.partition("/")
            for vip in service.vips:
                short = f"{name}.{namespace}"
                yield views.HostView(vip, (f"{short}.{suffix or 'mesh'}", short), service.name)

    def service(self, name: str) -> views.ServiceDetail | None:
        for service in self.known:
            if service.name == name:
                return views.ServiceDetail(service, tuple(self.ends))
        return None

    def endpoints(self, service: str = "") -> Iterable[views.EndpointView] | None:
        if service and service not in [s.name for s in self.known]:
            return None
        return (end for end in self.ends if not service or end.service == service)

    def routes(self, service: str = "") -> Iterable[views.RouteView] | None:
        if service and service not in [s.name for s in self.known]:
            return None
        return iter([views.RouteView("10.96.0.10:80", "vip", "shop/web", 80, "http")])

    def registries(self) -> tuple[views.RegistryView, ...]:
        return (self.registry,)

    def registrations(self) -> tuple[views.RegistrationView, ...]:
        return self.announced

    async def explain(self, query: views.ExplainQuery) -> views.ExplainView:
        if query.host == "192.0.2.1":
            return views.ExplainView(
                query, "refused", "no service has 192.0.2.1:80", status=502, flags="NR"
            )
        return views.ExplainView(
            query,
            "proxied",
            "10.244.1.11:8080 answers, one of 2 endpoints of shop/web",
            steps=(
                views.StepView("interception", "nat NP-PRE -j DNAT", True, "10.96.0.10,80 is in"),
                views.StepView("destination", "listener 127.0.0.1:8080", False, "other address"),
            ),
            destination="10.96.0.10:80",
            service="shop/web",
            port=80,
            balance="least_request",
            balance_why="the only one that takes traffic",
            candidates=(
                views.CandidateView("10.244.1.11:8080", True, "ready", drawn=True, picked=True),
                views.CandidateView("10.244.2.12:8080", False, "ejected for 12 s more"),
            ),
            pick="10.244.1.11:8080",
            settings=(views.SettingView("traffic.connect_timeout", "1s"),),
            notes=("headers: " + " ".join(f"{k}={v}" for k, v in query.headers),),
        )

    def metrics(self) -> Iterator[bytes]:
        yield b"# TYPE up gauge\n"
        yield b"up 1\n"

    def log_level(self) -> views.LogLevel:
        return self.level

    def set_log_level(self, level: views.LogLevel) -> None:
        self.level = level

    async def rules(self) -> views.RulesView:
        return views.RulesView(self.state.interception, "*nat\n:NP-PRE - [0:0]\nCOMMIT\n")

    async def rules_verify(self) -> views.VerifyView:
        self.calls.append("verify")
        return views.VerifyView(not self.drift, self.drift)

    async def rules_repair(self) -> views.VerifyView:
        self.calls.append("repair")
        repaired, self.drift = len(self.drift), ()
        return views.VerifyView(True, (), repaired)

    async def rules_remove(self) -> views.RulesView:
        self.calls.append("remove")
        return views.RulesView(views.InterceptionView(mode="iptables"))


@pytest.fixture
def fake_view() -> FakeView:
    return FakeView()


@pytest.fixture
def fake_daemon(fake_view: FakeView) -> httpx.BaseTransport:
    """Answers as the admin socket would, without a socket."""
    handler = api.admin_handler(fake_view)

    def answer(asked: httpx.Request) -> httpx.Response:
        target = asked.url.raw_path.decode("ascii")
        response = trio.run(handler, messages.request(asked.method, target, asked.read()))
        body = response.body
        content = body if isinstance(body, bytes) else b"".join(body)  # type: ignore[arg-type]
        return httpx.Response(response.status, content=content)

    return httpx.MockTransport(answer)


@pytest.fixture
def nodeproxy(fake_daemon: httpx.BaseTransport) -> Callable[..., Result]:
    """Runs a command against the fake daemon."""

    def run(*args: str) -> Result:
        return CliRunner().invoke(cli, args, obj=Session(socket="/x", transport=fake_daemon))

    return run


@pytest.fixture
def nodeproxy_alone(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command as it is: no daemon but one that ``--socket`` names."""
    for name in ("NODEPROXY_SOCKET", "NODEPROXY_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str) -> Result:
        return CliRunner().invoke(cli, args, obj=Session())

    return run
