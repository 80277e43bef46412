"""``explain`` says what the data plane does: same state, same random numbers, same endpoint."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptables.errors import CommandError
from nodeproxy import explanation
from nodeproxy.admin.views import ExplainQuery, ExplainView
from nodeproxy.config import Config
from nodeproxy.core.destination import host_port
from nodeproxy.core.errors import ConnectFailed, NoEndpoints
from nodeproxy.core.policy import Policy
from nodeproxy.dataplane.node import Node
from nodeproxy.dataplane.settings import Settings
from nodeproxy.parts import Parts
from nodeproxy.telemetry.accesslog import AccessLog, AccessLogSettings
from nodeproxy.telemetry.families import Families
from nodeproxy.telemetry.metrics import Metrics
from registry.catalog import Merger
from registry.model import Endpoint, Port, Service

WEB = ("10.96.0.10", 80)


def parts(service: Service | None = None, **policy: Any) -> Parts:
    """A node's parts without sockets, that know one service."""
    metrics = Metrics(1000)
    reactor: Any = SimpleNamespace(now=100.0, every=lambda *_: None)
    rng = random.Random(0)
    settings = Settings(policy=Policy(**policy))
    access = AccessLog(AccessLogSettings("off", 0.0, 0.0), lambda _: None, rng)
    node = Node(settings, reactor, Families(metrics), access, rng=rng, log=lambda *_, **__: None)
    known = [] if service is None else [service]
    catalog, changes = Merger(["file"]).apply("file", known, ())
    node.update(catalog, changes)
    registries: Any = SimpleNamespace(catalog=catalog, statuses=lambda: ())
    return Parts(Config(), "node-a", 0.0, metrics, reactor, node, registries, None)


def listening(made: Parts, service: str = "shop/web:80") -> Parts:
    """With an explicit listener, so that no kernel is asked."""
    listener: Any = SimpleNamespace(service=service, address=("127.0.0.1", 8080))
    made.node.listeners.append(listener)
    return made


def query(host: str = "127.0.0.1", port: int = 8080, scheme: Any = "http") -> ExplainQuery:
    return ExplainQuery("GET", f"{scheme}://{host}:{port}/", scheme, host, port, "/")


async def ask(made: Parts, **given: Any) -> ExplainView:
    return await explanation.explain(query(**given), made)


def run(made: Parts, **given: Any) -> ExplainView:
    """Without a loop: nothing on this way waits."""
    story = ask(made, **given)
    try:
        story.send(None)
    except StopIteration as done:
        view: ExplainView = done.value
        return view
    raise AssertionError("it waited")


# -- it is what happens -----------------------------------------------------------------------

endpoints = st.builds(
    Endpoint,
    address=st.sampled_from([f"10.244.0.{i}" for i in range(1, 7)]),
    port=st.sampled_from([8080, 8081]),
    weight=st.sampled_from([0, 1, 1, 1, 2, 5]),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
)
happenings = st.lists(
    st.tuples(
        st.sampled_from(["pick", "lease", "end", "fail", "ask", "later", "update"]),
        st.integers(0, 5),
        st.integers(0, 2**32),
        st.lists(endpoints, max_size=6, unique_by=lambda e: e.key),
    ),
    max_size=30,
)


@given(
    st.lists(endpoints, max_size=6, unique_by=lambda e: e.key),
    st.sampled_from(["least_request", "round_robin", "random"]),
    happenings,
)
def test_the_pick_is_what_the_data_plane_picks(known: list[Endpoint], balance: str, story: Any):
    service = Service("shop/web", (WEB[0],), (Port(80, protocol="http"),), tuple(known))
    made = listening(parts(service, balance=balance))
    upstream = made.node.upstream(service, service.ports[0])
    leased = []
    for what, which, seed, others in [*story, ("ask", 0, 1, [])]:
        targets = list(upstream.targets.values())
        match what:
            case "update":
                changed = Service("shop/web", service.vips, service.ports, tuple(others))
                upstream.update(changed, service.ports[0])
                made.registries.catalog = Merger(["file"]).apply("file", [changed], ())[0]  # type: ignore[misc]
            case "later":
                made.reactor.now += which * 20
                upstream.maintain(made.reactor.now)
            case "lease" if targets:
                leased.append(targets[which % len(targets)])
                leased[-1].load += 1
            case "end" if leased:
                leased.pop().load -= 1
            case "fail" if targets:
                for _ in range(5):
                    upstream.failed(targets[which % len(targets)], ConnectFailed("refused"))
            case "pick" if upstream.candidates:
                upstream.pick()
            case "ask":
                random.seed(seed)
                told = run(made)
                again = run(made) if balance == "round_robin" and upstream.picker else None
                upstream._rng = random.Random(seed).random
                try:
                    picked = upstream.pick().name
                except NoEndpoints:
                    picked = ""
                assert told.pick == picked
                if not picked:
                    assert (told.outcome, told.status, told.flags) == ("refused", 503, "UH")
                if again is not None and upstream.picker.next > 0:  # type: ignore[union-attr]
                    assert told.pick == picked  # asking twice moves no turn
                shown = {c.address: c for c in told.candidates}
                standing = {t.name: t.standing for t in upstream.targets.values()}
                assert {a: c.eligible for a, c in shown.items()} == {
                    a: s.takes_traffic for a, s in standing.items()
                }
                assert [a for a, c in shown.items() if c.picked] == ([picked] if picked else [])
                shares = [c.share for c in told.candidates if c.share is not None]
                assert not shares or sum(shares) == pytest.approx(1)
                assert all((c.share is not None) == c.eligible for c in told.candidates)


@given(st.lists(endpoints, max_size=6, unique_by=lambda e: e.key), st.integers(0, 2**32))
def test_a_service_that_is_not_in_use_is_told_like_one_that_is(known: list[Endpoint], seed: int):
    service = Service("shop/web", (WEB[0],), (Port(80, protocol="http"),), tuple(known))
    idle, busy = listening(parts(service)), listening(parts(service))
    busy.node.upstream(service, service.ports[0])
    random.seed(seed)
    told = run(idle)
    random.seed(seed)
    assert run(busy) == told


# -- where it ends ----------------------------------------------------------------------------


def web(protocol: Any = "http", *, vips: tuple[str, ...] = (WEB[0],)) -> Service:
    ready = (Endpoint("10.244.0.1", 8080), Endpoint("10.244.0.2", 8080))
    return Service(
        "shop/web", vips, (Port(80, protocol=protocol),), ready, origin="services.yaml:2"
    )


class Kernel:
    """Rules that say one thing of every packet."""

    def __init__(self, verdict: str) -> None:
        self.verdict = verdict
        self.asked: list[Any] = []

    async def trace(self, packet: Any) -> Any:
        self.asked.append(packet)
        if self.verdict == "error":
            raise CommandError(["iptables-save"], 1, "no")
        step = SimpleNamespace(table="nat", chain="NP-PRE", rule="-j DNAT", matched=True, why="so")
        return SimpleNamespace(verdict=self.verdict, steps=(step,), sentence="it goes on")


def intercepted(made: Parts, verdict: str) -> Kernel:
    kernel = Kernel(verdict)
    made.intercepting = SimpleNamespace(kernel=kernel)  # type: ignore[assignment]
    return kernel


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        ("proxy", "proxied"),
        ("endpoint", "kernel"),
        ("accept", "kernel"),
        ("drop", "unreachable"),
        ("reject", "unreachable"),
        ("error", "unreachable"),
    ],
)
def test_the_kernel_is_asked_first(verdict: str, outcome: str):
    made = parts(web())
    kernel = intercepted(made, verdict)
    told = run(made, host=WEB[0], port=80)
    assert told.outcome == outcome
    assert told.steps[0].stage == "interception"
    assert kernel.asked[0].interface == "lo"
    assert told.destination == host_port(WEB)


def test_a_pod_is_asked_for_as_a_pod():
    made = parts(web())
    kernel = intercepted(made, "proxy")
    asked = ExplainQuery("GET", "http://x/", "http", WEB[0], 80, "/", (), "10.244.0.9")
    with pytest.raises(StopIteration):
        explanation.explain(asked, made).send(None)
    assert (kernel.asked[0].source, kernel.asked[0].interface) == ("10.244.0.9", "pod")


@pytest.mark.parametrize("host", ["web.shop", "web.shop.svc.cluster.local", "web.shop."])
def test_names_stand_for_virtual_addresses(host: str):
    made = parts(web())
    intercepted(made, "proxy")
    told = run(made, host=host, port=80)
    assert (told.outcome, told.destination) == ("proxied", "10.96.0.10:80")
    assert told.service_origin == "services.yaml:2"


def test_what_nobody_knows():
    made = parts(web())
    assert run(made, host="wbe.shop", port=80).outcome == "unreachable"
    intercepted(made, "proxy")
    assert run(made, host="192.0.2.1", port=80).outcome == "passthrough"
    made = parts(web())
    made.node.settings = Settings(registry_only=True)
    intercepted(made, "proxy")
    told = run(made, host="192.0.2.1", port=80)
    assert (told.outcome, told.status, told.flags) == ("refused", 0, "NR")


def test_a_service_without_a_virtual_address_is_known_by_its_name():
    told = run(parts(web(vips=())), host="web.shop", port=80)
    assert told.outcome == "unreachable"
    assert "no virtual address" in told.summary
    assert "explicit listener" in told.summary


def test_a_listener_whose_service_is_gone():
    told = run(listening(parts(), "shop/web:80"))
    assert (told.outcome, told.status, told.flags) == ("refused", 0, "UH")


@pytest.mark.parametrize(("declared", "status"), [("http", 503), ("tcp", 0)])
def test_how_a_refusal_is_told_to_the_client(declared: Any, status: int):
    service = Service("shop/web", (), (Port(80, protocol=declared),))
    told = run(listening(parts(service)))
    assert (told.outcome, told.status, told.flags) == ("refused", status, "UH")
    assert ("reset" in told.summary) == (status == 0)


@pytest.mark.parametrize(
    ("declared", "scheme", "protocol"),
    [
        ("http", "http", "http"),
        ("tcp", "http", "tcp"),
        ("tls", "https", "tcp"),
        ("", "http", "http"),
        ("", "https", "tcp"),
        ("", "tcp", "tcp"),
    ],
)
def test_how_the_connection_is_read(declared: str, scheme: str, protocol: str):
    told = run(listening(parts(web(declared))), scheme=scheme)
    assert told.protocol == protocol
    assert told.protocol_why


def test_the_endpoint_that_is_out_says_for_how_long_and_why():
    made = listening(parts(web()))
    upstream = made.node.upstream(web(), web().ports[0])
    broken = upstream.targets["10.244.0.1", 8080, ""]
    for _ in range(5):
        upstream.failed(broken, None, 503)
    told = run(made)
    assert told.pick == "10.244.0.2:8080"
    out = next(c for c in told.candidates if not c.eligible)
    assert out.state == "ejected"
    assert "30 s more; last: answered 503" in out.why
    assert told.retry == "there is no other endpoint to try"
