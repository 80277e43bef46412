"""Routes on real sockets: matching, weights, filters both ways, refusals, changes under load."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio

from nodeproxy.core.retry import Budget
from nodeproxy.core.routing.compile import Compiler, run
from nodeproxy.dataplane.listener import listen
from registry.model import Endpoint, Port, Service
from tests.unit.routing_samples import exact, headers, load, parent, prefix, route, rule

Fields = dict[bytes, bytes]


class Named:
    """A back end that answers with its name, and remembers what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.asked: list[tuple[bytes, Fields, bytes]] = []
        self.status: list[int] = []
        """Of the next answers; then 200."""
        self.fields = b""
        self.silent = False

    async def __call__(self, talk: Any) -> None:
        while True:
            line, fields = await talk.request()
            body = b""
            if b"content-length" in fields:
                body = await talk.exactly(int(fields[b"content-length"]))
            self.asked.append((line, fields, body))
            if self.silent:
                await talk.rest()
                return
            status = self.status.pop(0) if self.status else 200
            await talk.send(
                b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n%b"
                % (status, self.fields, len(self.name), self.name)
            )


class Mesh:
    """Services shop/web, v1, v2 and an explicit listener for shop/web."""

    def __init__(self, harness: Any) -> None:
        self.harness = harness
        self.named = {name: Named(name) for name in ("web", "v1", "v2")}
        self.services: dict[str, Service] = {}
        self.address = ("", 0)

    async def start(self) -> None:
        for name, named in self.named.items():
            await self.serve(name, named)
        self.serve_nothing("empty")
        self.address = self.listen("shop/web")

    def listen(self, name: str, port: int = 80) -> tuple[str, int]:
        address: tuple[str, int] = self.harness.node.serve_port(
            listen(("127.0.0.1", 0)), name, port
        ).address
        return address

    async def serve(self, name: str, *scripts: Any, protocol: Any = "http") -> None:
        ends = [(await self.harness.backend(script)).endpoint for script in scripts]
        self.know(name, *ends, protocol=protocol)

    def serve_nothing(self, name: str) -> None:
        self.know(name)

    def know(self, name: str, *ends: Endpoint, protocol: Any = "http") -> None:
        full = f"shop/{name}"
        self.services[full] = Service(full, (), (Port(80, "main", protocol),), ends)
        self.harness.know(self.services[full])

    def route(self, *objects: dict[str, Any]) -> None:
        """These routes are in force from now on."""
        node = self.harness.node
        node.routes = run(Compiler(load(*objects), 1).build(node.catalog))

    async def ask(
        self, target: str = "/", lines: str = "", method: str = "GET", body: bytes = b""
    ) -> tuple[int, Fields, bytes]:
        talk = await self.harness.client(self.address)
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        text = f"{method} {target} HTTP/1.1\r\nHost: web.shop\r\n{length}{lines}\r\n"
        await talk.send(text.encode() + body)
        answer: tuple[int, Fields, bytes] = await talk.answer()
        talk.close()
        return answer

    def seen(self, name: str) -> tuple[bytes, Fields, bytes]:
        return self.named[name].asked[-1]


@pytest.fixture
async def mesh(harness: Any) -> Mesh:
    made = Mesh(harness)
    await made.start()
    return made


async def test_a_request_takes_the_rule_that_matches(mesh: Mesh) -> None:
    mesh.route(
        route(
            rule(exact("/a"), to="v1", name="exactly"),
            rule(prefix("/a"), to="v2"),
            rule(headers(x="1"), to="web"),
        )
    )
    assert (await mesh.ask("/a"))[2] == b"v1"
    assert (await mesh.ask("/a/b"))[2] == b"v2"
    assert (await mesh.ask("/c", "X: 1\r\n"))[2] == b"web"
    assert (await mesh.ask("/c"))[0] == 404
    records = mesh.harness.records
    assert [(r.route, r.backend, r.service, r.status, r.flags) for r in records] == [
        ("exactly", "shop/v1:80", "shop/web", 200, ""),
        ("shop/r/1", "shop/v2:80", "shop/web", 200, ""),
        ("shop/r/2", "shop/web:80", "shop/web", 200, ""),
        ("", "shop/web:80", "shop/web", 404, "NR"),
    ]
    page = b"".join(mesh.harness.metrics.render()).decode()
    assert 'service="shop/web",port="80",route="exactly",code="200"' in page


async def test_a_service_without_routes_is_as_before(mesh: Mesh) -> None:
    mesh.route(route(rule(to="v1"), parents=[parent("v2")]))
    assert (await mesh.ask())[2] == b"web"


async def test_requests_of_one_connection_take_their_own_ways(mesh: Mesh) -> None:
    mesh.route(route(rule(exact("/1"), to="v1"), rule(exact("/2"), to="v2")))
    talk = await mesh.harness.client(mesh.address)
    for path, name in [("1", b"v1"), ("2", b"v2"), ("1", b"v1")]:
        await talk.send(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
        assert (await talk.answer())[2] == name
    assert len(mesh.harness.backends[1].open) == 1  # v1's connection was kept


async def test_weights_hold_within_bounds(mesh: Mesh) -> None:
    refs = [{"name": "v1", "port": 80, "weight": 7}, {"name": "v2", "port": 80, "weight": 3}]
    mesh.route(route(rule(backendRefs=refs)))
    talk = await mesh.harness.client(mesh.address)
    found: Counter[bytes] = Counter()
    for _ in range(500):
        await talk.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        found[(await talk.answer())[2]] += 1
    assert 0.65 <= found[b"v1"] / 500 <= 0.75


@pytest.mark.parametrize(
    ("refs", "status", "flags"),
    [
        ([{"name": "nobody", "port": 80}], 500, "NC"),
        ([{"name": "v1", "port": 81}], 500, "NC"),
        ([{"name": "v1", "port": 80, "weight": 0}], 500, "NC"),
        ([], 500, "NC"),
        ([{"name": "empty", "port": 80}], 503, "UH"),
    ],
)
async def test_a_share_that_nobody_takes(
    mesh: Mesh, refs: list[Any], status: int, flags: str
) -> None:
    mesh.route(route(rule(backendRefs=refs, name="n")))
    assert (await mesh.ask())[0] == status
    record = await mesh.harness.record()
    assert (record.route, record.status, record.flags) == ("n", status, flags)


async def test_a_filter_that_is_not_known_fails_the_request(mesh: Mesh) -> None:
    unknown = {"type": "ExtensionRef", "extensionRef": {"group": "g", "kind": "K", "name": "n"}}
    mesh.route(route(rule(filters=[unknown])))
    assert (await mesh.ask())[0] == 500
    assert not mesh.named["v1"].asked


async def test_a_redirect_keeps_the_connection(mesh: Mesh) -> None:
    redirect = {
        "type": "RequestRedirect",
        "requestRedirect": {"hostname": "new.example", "statusCode": 301},
    }
    mesh.route(route(rule(prefix("/old"), to="", filters=[redirect]), rule(to="v1")))
    talk = await mesh.harness.client(mesh.address)
    await talk.send(b"GET /old/x?y=1 HTTP/1.1\r\nHost: a\r\n\r\n")
    status, fields, _ = await talk.answer()
    assert (status, fields[b"location"]) == (301, b"http://new.example/old/x?y=1")
    await talk.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await talk.answer())[2] == b"v1"
    assert [(r.status, r.flags) for r in mesh.harness.records] == [(301, ""), (200, "")]


async def test_a_redirected_body_is_not_read_as_a_request(mesh: Mesh) -> None:
    redirect = {"type": "RequestRedirect", "requestRedirect": {"hostname": "new.example"}}
    mesh.route(route(rule(to="", filters=[redirect])))
    talk = await mesh.harness.client(mesh.address)
    await talk.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\nGET /evil")
    assert (await talk.answer())[0] == 302
    assert await talk.rest() == b""
    assert len(mesh.harness.records) == 1


async def test_preflights_are_answered_and_origins_are_told(mesh: Mesh) -> None:
    cors = {
        "type": "CORS",
        "cors": {"allowOrigins": ["https://a.example"], "allowMethods": ["PUT"]},
    }
    mesh.route(route(rule(filters=[cors])))
    asked = "Origin: https://a.example\r\n"
    status, fields, _ = await mesh.ask(
        "/", asked + "Access-Control-Request-Method: PUT\r\n", "OPTIONS"
    )
    assert status == 204
    assert fields[b"access-control-allow-origin"] == b"https://a.example"
    assert not mesh.named["v1"].asked
    status, fields, body = await mesh.ask("/", asked)
    assert (status, body) == (200, b"v1")
    assert fields[b"access-control-allow-origin"] == b"https://a.example"


async def test_filters_change_requests_and_answers(mesh: Mesh) -> None:
    filters = [
        {
            "type": "RequestHeaderModifier",
            "requestHeaderModifier": {
                "set": [{"name": "X-Set", "value": "new"}],
                "add": [{"name": "X-Add", "value": "more"}],
                "remove": ["X-Remove"],
            },
        },
        {
            "type": "ResponseHeaderModifier",
            "responseHeaderModifier": {
                "set": [{"name": "X-Answer", "value": "yes"}],
                "remove": ["Server"],
            },
        },
        {
            "type": "URLRewrite",
            "urlRewrite": {
                "hostname": "inner.example",
                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2"},
            },
        },
    ]
    mesh.named["v1"].fields = b"Server: x\r\nX-Keep: 1\r\n"
    mesh.route(route(rule(prefix("/api"), filters=filters)))
    status, fields, body = await mesh.ask(
        "/api/cart?x=1", "X-Set: old\r\nX-Add: one\r\nX-Remove: it\r\n"
    )
    assert (status, body) == (200, b"v1")
    assert (fields[b"x-answer"], fields[b"x-keep"]) == (b"yes", b"1")
    assert b"server" not in fields
    line, seen, _ = mesh.seen("v1")
    assert line == b"GET /v2/cart?x=1 HTTP/1.1"
    assert seen[b"host"] == b"inner.example"
    assert (seen[b"x-set"], seen[b"x-add"]) == (b"new", b"one,more")
    assert b"x-remove" not in seen
    record = await mesh.harness.record()
    assert record.head is not None
    assert record.head.target == b"/api/cart?x=1"  # the log has what the client asked for
    assert record.head.request_id == seen[b"x-request-id"]


async def test_a_backends_own_filters_run_only_for_it(mesh: Mesh) -> None:
    def sets(value: str) -> list[dict[str, Any]]:
        change = {"set": [{"name": "X-Backend", "value": value}]}
        return [{"type": "RequestHeaderModifier", "requestHeaderModifier": change}]

    refs = [
        {"name": "v1", "port": 80, "filters": sets("one")},
        {"name": "v2", "port": 80, "filters": sets("two")},
    ]
    mesh.route(route(rule(backendRefs=refs)))
    for _ in range(20):
        await mesh.ask()
    assert {f[b"x-backend"] for _, f, _ in mesh.named["v1"].asked} == {b"one"}
    assert {f[b"x-backend"] for _, f, _ in mesh.named["v2"].asked} == {b"two"}


async def test_mirrors_get_copies_whose_answers_nobody_sees(mesh: Mesh) -> None:
    copies = [
        {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "v2", "port": 80}}},
        {
            "type": "RequestMirror",
            "requestMirror": {"backendRef": {"name": "nobody", "port": 80}},
        },
        {
            "type": "RequestMirror",
            "requestMirror": {"backendRef": {"name": "web", "port": 80}, "percent": 0},
        },
    ]
    mesh.named["v2"].status = [500]
    mesh.route(route(rule(filters=copies)))
    assert (await mesh.ask("/", method="POST", body=b"hello"))[2] == b"v1"
    await mesh.harness.until(lambda: mesh.named["v2"].asked)
    assert mesh.seen("v2")[2] == mesh.seen("v1")[2] == b"hello"
    assert not mesh.named["web"].asked
    await mesh.harness.until(lambda: not mesh.harness.node.mirroring)
    assert len(mesh.harness.records) == 1


async def test_a_mirror_that_is_slow_or_gone_holds_nobody_up(mesh: Mesh) -> None:
    copy = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "v2", "port": 80}}}
    mesh.named["v2"].silent = True
    mesh.route(route(rule(filters=[copy])))
    for _ in range(80):
        assert (await mesh.ask())[0] == 200
    assert mesh.harness.node.mirroring == 64  # no more than that
    mesh.harness.backends[2].die()
    await mesh.harness.until(lambda: not mesh.harness.node.mirroring)
    assert (await mesh.ask())[0] == 200


async def test_routes_change_under_load_without_a_failed_request(mesh: Mesh) -> None:
    ways = [
        [route(rule(to="v1"))],
        [route(rule(prefix("/"), to="v2", name="other"), rule(exact("/x"), to="v1"))],
        [],
    ]
    found: Counter[bytes] = Counter()
    statuses: Counter[int] = Counter()
    done = trio.Event()

    async def client() -> None:
        talk = await mesh.harness.client(mesh.address)
        while not done.is_set():
            await talk.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            status, _, body = await talk.answer()
            found[body] += 1
            statuses[status] += 1
        talk.close()

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(client)
        for i in range(90):
            mesh.route(*ways[i % 3])
            seen = sum(found.values())
            await mesh.harness.until(lambda seen=seen: sum(found.values()) > seen + 3)
        done.set()
    assert set(statuses) == {200}
    assert set(found) == {b"v1", b"v2", b"web"}


async def test_an_undeclared_port_is_routed_when_it_speaks_http(mesh: Mesh) -> None:
    await mesh.serve("web", mesh.named["web"], protocol="")
    mesh.route(route(rule(to="v1")))
    assert (await mesh.ask())[2] == b"v1"


async def test_a_tcp_route_sends_connections_elsewhere(mesh: Mesh) -> None:
    async def greets(talk: Any) -> None:
        await talk.send(b"hello " + await talk.some())

    await mesh.serve("db", greets, protocol="tcp")
    mesh.know("front", protocol="tcp")
    to = {"backendRefs": [{"name": "db", "port": 80}]}
    mesh.route(route(to, kind="TCPRoute", parents=[parent("front")], name="t"))
    talk = await mesh.harness.client(mesh.listen("shop/front"))
    await talk.send(b"you")
    talk.end()
    assert await talk.rest() == b"hello you"
    record = await mesh.harness.record()
    assert (record.service, record.backend, record.route) == ("shop/front", "shop/db:80", "shop/t")
    mesh.harness.know(gone=["shop/db"])
    talk = await mesh.harness.client(mesh.listen("shop/front"))
    assert await talk.is_reset()
    assert (await mesh.harness.record(2)).flags == "NC"


# -- tries and times --------------------------------------------------------------------------


RETRY = {"codes": [503], "attempts": 2, "backoff": "1ms"}


async def test_an_answer_with_a_code_is_tried_again(mesh: Mesh) -> None:
    mesh.named["v1"].status = [503, 503]
    mesh.route(route(rule(retry=RETRY)))
    status, _, body = await mesh.ask("/", method="POST", body=b"once more")
    assert (status, body) == (200, b"v1")
    assert [b for _, _, b in mesh.named["v1"].asked] == [b"once more"] * 3
    record = await mesh.harness.record()
    assert (record.tries, record.flags, record.status) == (3, "", 200)


async def test_the_last_answer_counts_when_tries_are_used_up(mesh: Mesh) -> None:
    mesh.named["v1"].status = [503] * 5
    mesh.route(route(rule(retry=RETRY)))
    assert (await mesh.ask())[0] == 503
    assert len(mesh.named["v1"].asked) == 3
    assert (await mesh.harness.record()).flags == "URX"


async def test_other_codes_and_rules_without_retry_are_tried_once(mesh: Mesh) -> None:
    mesh.named["v1"].status = [500]
    mesh.route(route(rule(retry=RETRY)))
    assert (await mesh.ask())[0] == 500
    mesh.named["v1"].status = [503]
    mesh.route(route(rule()))
    assert (await mesh.ask())[0] == 503
    assert len(mesh.named["v1"].asked) == 2


async def test_another_endpoint_is_tried_first(mesh: Mesh) -> None:
    bad, good = Named("bad"), Named("good")
    bad.status = [503] * 50
    await mesh.serve("v1", bad, good)
    mesh.route(route(rule(retry={**RETRY, "attempts": 1})))
    for _ in range(20):
        assert (await mesh.ask())[2] == b"good"
    assert bad.asked


async def test_a_connection_that_breaks_is_tried_again_where_routes_say_so(mesh: Mesh) -> None:
    seen = []

    async def breaks(talk: Any) -> None:
        seen.append(await talk.request())
        if len(seen) == 1:
            talk.reset()
            return
        await talk.send(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok")

    await mesh.serve("v1", breaks)
    mesh.route(route(rule(retry=RETRY)))
    assert (await mesh.ask(method="POST"))[0] == 200
    assert len(seen) == 2


async def test_a_body_in_pieces_is_kept_and_a_long_one_is_not(mesh: Mesh) -> None:
    mesh.route(route(rule(retry=RETRY)))
    for size, asked in [(1000, 2), (70_000, 1)]:
        mesh.named["v1"].asked.clear()
        mesh.named["v1"].status = [503]
        talk = await mesh.harness.client(mesh.address)
        await talk.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\nab" % size)
        await mesh.harness.until(lambda: mesh.harness.node.lanes.lanes)
        await talk.send(b"x" * (size - 2))
        assert (await talk.answer())[0] == (200 if asked == 2 else 503)
        assert len(mesh.named["v1"].asked) == asked
        talk.close()


async def test_over_budget_the_last_answer_counts(mesh: Mesh) -> None:
    mesh.named["v1"].status = [503] * 10
    mesh.route(route(rule(retry=RETRY)))
    service = mesh.services["shop/v1"]
    mesh.harness.node.upstream(service, service.ports[0]).budget = Budget(0, floor=0)
    assert (await mesh.ask())[0] == 503
    record = await mesh.harness.record()
    assert (record.flags, record.tries) == ("UO", 1)


async def test_a_request_that_takes_too_long_gets_504(mesh: Mesh) -> None:
    mesh.named["v1"].silent = True
    mesh.route(route(rule(timeouts={"request": "40ms"}, retry=RETRY)))
    status, _, _ = await mesh.ask()
    record = await mesh.harness.record()
    assert (status, record.status, record.flags, record.tries) == (504, 504, "UT", 1)


async def test_a_try_that_takes_too_long_is_tried_again_for_504(mesh: Mesh) -> None:
    mesh.named["v1"].silent = True
    mesh.route(route(rule(timeouts={"backendRequest": "40ms"}, retry={**RETRY, "codes": [504]})))
    status, _, _ = await mesh.ask()
    record = await mesh.harness.record()
    assert (status, record.flags, record.tries) == (504, "UT,URX", 3)
    assert len(mesh.named["v1"].asked) == 3


async def test_the_limit_of_a_request_counts_for_all_its_tries(mesh: Mesh) -> None:
    mesh.named["v1"].status = [503] * 50
    mesh.route(
        route(
            rule(
                timeouts={"request": "100ms"},
                retry={"codes": [503], "attempts": 9, "backoff": "60ms"},
            )
        )
    )
    assert (await mesh.ask())[0] == 504
    assert len(mesh.named["v1"].asked) < 4


async def test_a_limit_that_is_kept_leaves_nothing_behind(mesh: Mesh) -> None:
    mesh.route(route(rule(timeouts={"request": "10s", "backendRequest": "5s"})))
    before = len(mesh.harness.reactor.wheel)
    assert (await mesh.ask())[0] == 200
    await mesh.harness.record()
    assert len(mesh.harness.reactor.wheel) <= before + 1


async def test_an_answer_that_stops_in_its_middle_is_cut_off(mesh: Mesh) -> None:
    async def stops(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nabc")
        await talk.rest()

    await mesh.serve("v1", stops)
    mesh.route(route(rule(timeouts={"request": "50ms"}, retry={**RETRY, "codes": [504]})))
    talk = await mesh.harness.client(mesh.address)
    await talk.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert await talk.is_reset()
    record = await mesh.harness.record()
    assert (record.status, record.flags) == (200, "UT")


@pytest.mark.parametrize(
    ("on", "status", "tries"),
    [(["5xx"], 500, 2), (["GatewayError"], 502, 2), (["GatewayError"], 500, 1), ([], 502, 1)],
)
async def test_a_policy_says_what_else_is_tried_again(
    mesh: Mesh, on: list[str], status: int, tries: int
) -> None:
    policy = {
        "apiVersion": "nodeproxy.dev/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {
            "targetRefs": [
                {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "r"}
            ],
            "retry": {"attempts": 1, "backoff": "1ms", **({"on": on} if on else {})},
        },
    }
    mesh.named["v1"].status = [status]
    mesh.route(route(rule()), policy)
    assert (await mesh.ask())[0] == (200 if tries == 2 else status)
    assert (await mesh.harness.record()).tries == tries


async def test_a_connection_outlives_what_routes_refuse(mesh: Mesh) -> None:
    nobody = [{"name": "nobody", "port": 80}]
    mesh.route(route(rule(exact("/a"), to="v1"), rule(exact("/b"), backendRefs=nobody)))
    talk = await mesh.harness.client(mesh.address)
    asked = b"POST /%b HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
    await talk.send(asked % b"none" + asked % b"b" + asked % b"a")
    found = [await talk.answer() for _ in range(3)]
    assert [status for status, _, _ in found] == [404, 500, 200]
    assert all(b"connection" not in fields for _, fields, _ in found)
    # A body that has not come may never do so.
    await talk.send(b"POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nhi")
    status, fields, _ = await talk.answer()
    assert (status, fields[b"connection"]) == (404, b"close")
    assert await talk.rest() == b""
