"""What routes cost: ``python tests/bench/routing.py``.

Microseconds for a match, the best of several rounds on one core; then how long it takes to compile
many routes, and the longest slice of that, which is how long traffic waits: CPU time of this thread
with the garbage collector off, as in the daemon.
"""

from __future__ import annotations

import argparse
import os
import sys
import timeit
from pathlib import Path
from random import random
from time import monotonic, thread_time
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec

from nodeproxy.core.http1 import RequestHead, parse_request
from nodeproxy.core.record import Record
from nodeproxy.core.routing.compile import Compiler
from nodeproxy.core.routing.explain import explain
from nodeproxy.core.routing.forward import draw, outgoing
from nodeproxy.core.routing.httproute import (
    Filter,
    Header,
    HeaderFilter,
    HeaderMatch,
    HttpBackendRef,
    HTTPRoute,
    HttpRule,
    HttpSpec,
    Match,
    PathMatch,
    RetrySpec,
    TimeoutsSpec,
)
from nodeproxy.core.routing.objects import Loaded, Objects, make
from nodeproxy.core.routing.schema import Metadata, ParentRef
from nodeproxy.core.routing.table import HttpRules, RouteTable
from nodeproxy.dataplane.course import set_out
from nodeproxy.dataplane.timers import Wheel
from registry.bulk import bulk
from registry.catalog import Catalog, Merger
from registry.duration import Duration
from registry.model import Port, Service

HEAD = (
    b"GET %b HTTP/1.1\r\nHost: web.shop.svc\r\nUser-Agent: python-httpx/0.28\r\n"
    b"Accept: application/json\r\nX-Request-Id: 6f0c1d5b1c4a4a5e8b6f0c1d5b1c4a4a\r\n"
    b"X-Version: v%d\r\n"
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
)


def head(path: bytes, version: int = 0) -> RequestHead:
    found = parse_request(HEAD % (path, version))
    assert found is not None
    return found


def catalog(services: int) -> Catalog:
    made = [Service(f"shop/s{i}", ports=(Port(80, "http"),)) for i in range(services)]
    return Merger(["bench"]).apply("bench", made, [])[0]


def route(name: str, rules: tuple[HttpRule, ...], service: str = "s0") -> Loaded:
    made = HTTPRoute(
        api_version="gateway.networking.k8s.io/v1",
        metadata=Metadata(name=name, namespace="shop"),
        spec=HttpSpec(
            parent_refs=(ParentRef(group="", kind="Service", name=service),), rules=rules
        ),
    )
    return Loaded(made, "bench.yaml", 1)


def rule(match: Match, filters: tuple[Filter, ...] = ()) -> HttpRule:
    refs = (HttpBackendRef(name="s0", port=80, weight=9), HttpBackendRef(name="s0", port=80))
    return HttpRule(matches=(match,), backend_refs=refs, filters=filters)


def prefixes(count: int) -> list[Loaded]:
    """``count`` rules for one service, by path."""
    rules = [rule(Match(path=PathMatch(value=f"/api/v1/resource{i}/"))) for i in range(count)]
    return [route(f"r{i}", tuple(rules[i : i + 16])) for i in range(0, count, 16)]


def by_header(count: int) -> list[Loaded]:
    """``count`` rules for one service, all of one path, told apart by a header."""
    rules = [
        rule(Match(headers=(HeaderMatch(name="x-version", value=f"v{i}"),))) for i in range(count)
    ]
    return [route(f"r{i}", tuple(rules[i : i + 16])) for i in range(0, count, 16)]


def compiled(objects: Objects, known: Catalog) -> tuple[RouteTable, float, float, int]:
    """The table, seconds in all, the longest slice, and how many slices."""
    with bulk():
        return _compiled(objects, known)


def _compiled(objects: Objects, known: Catalog) -> tuple[RouteTable, float, float, int]:
    compiler = Compiler(objects)
    steps = compiler.build(known)
    began = last = thread_time()
    longest, count = 0.0, 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            now = thread_time()
            table: RouteTable = stop.value
            return table, now - began, max(longest, now - last), count + 1
        now = thread_time()
        longest, last = max(longest, now - last), now
        count += 1


def rules_of(loaded: list[Loaded]) -> HttpRules | None:
    objects, _ = make(loaded)
    table = compiled(objects, catalog(1))[0]
    found = table.find("shop/s0", 80)
    return found.http if found is not None else None


def show(title: str, step: object, seconds: float) -> None:
    timer = timeit.Timer(step, timer=thread_time)  # type: ignore[arg-type]
    number = max(1, int(seconds / 5 / max(timer.timeit(100) / 100, 1e-9)))
    best = min(timer.repeat(5, number)) / number * 1e6
    print(f"  {title:<58} {best:8.2f}")


def matching(seconds: float) -> None:
    print("one request; microseconds")
    empty = compiled(make([])[0], catalog(1))[0]
    show("no routes: the look-up alone", lambda: empty.find("shop/s0", 80, "shop"), seconds)
    for count in (3, 100, 1000, 5000):
        rules = rules_of(prefixes(count))
        assert rules is not None
        hit = head(b"/api/v1/resource%d/items/42?page=2" % (count - 1))
        assert rules.match(hit) is not None
        show(f"{count:,} rules by path", lambda r=rules, h=hit: r.match(h), seconds)
        miss = head(b"/other/path/of/five/elements")
        show(f"{count:,} rules by path, none matches", lambda r=rules, h=miss: r.match(h), seconds)
    for count in (3, 1000, 5000):
        rules = rules_of(by_header(count))
        assert rules is not None
        hit = head(b"/api/v1/items/42", count - 1)
        assert rules.match(hit) is not None
        show(f"{count:,} rules by one header", lambda r=rules, h=hit: r.match(h), seconds)
    rules = rules_of(prefixes(3))
    assert rules is not None
    hit = head(b"/api/v1/resource0/items/42?page=2")
    decision = rules.match(hit)
    assert decision is not None
    show("draw of a backend, 9 to 1", lambda: draw(decision, 0.95), seconds)
    backend = draw(decision, 0)
    show("outgoing, no filters", lambda: outgoing(hit, decision, backend), seconds)
    header = HeaderFilter(set=(Header(name="x-env", value="a"),), remove=("x-version",))
    filters = (Filter(type="RequestHeaderModifier", request_header_modifier=header),)
    edited = rules_of([route("f", (rule(Match(), filters),))])
    assert edited is not None
    changed = edited.match(hit)
    assert changed is not None
    target = draw(changed, 0)
    show(
        "outgoing, one header set and one removed", lambda: outgoing(hit, changed, target), seconds
    )
    hundred = rules_of(prefixes(100))
    assert hundred is not None
    show("explain, 100 rules", lambda: explain(hundred, hit), seconds)


def carrying(seconds: float) -> None:
    """All that the data plane does for a route besides the exchange itself, on a connection that is
    none."""
    header = HeaderFilter(set=(Header(name="x-env", value="a"),), remove=("x-version",))
    change = Filter(type="RequestHeaderModifier", request_header_modifier=header)
    rich = msgspec.structs.replace(
        rule(Match(path=PathMatch(value="/rich")), (change,)),
        timeouts=TimeoutsSpec(request=Duration(5), backend_request=Duration(2)),
        retry=RetrySpec(codes=(503,), attempts=2),
    )
    known = catalog(1)
    objects, _ = make([route("r", (rich, rule(Match())))])
    table = compiled(objects, known)[0]
    service = known.get("shop/s0")
    assert service is not None
    upstream: Any = SimpleNamespace(
        service=service, port=service.ports[0], name="shop/s0:80", budget=None
    )
    reactor = SimpleNamespace(now=0.0, lane=object(), wheel=Wheel(0.0))
    node = SimpleNamespace(catalog=known, draw=random, upstream=lambda *_: upstream, routes=table)
    connection: Any = SimpleNamespace(node=node, client=SimpleNamespace(reactor=reactor))
    record = Record(monotonic(), "HTTP/1.1", "", "")

    def carry(hit: RequestHead) -> None:
        found = table.find("shop/s0", 80)
        assert found is not None
        assert found.http is not None
        course = set_out(connection, upstream, found.http, hit, record)
        course.body_limit()
        course.head(hit)
        course.copy(b"", hit.method)
        course.begin(upstream)
        course.again(200)
        course.end_limits()

    plain, full = head(b"/a"), head(b"/rich")
    show("carrying, two backends", lambda: carry(plain), seconds)
    title = "carrying, a header change, two time limits, retries"
    show(title, lambda: carry(full), seconds)


def compiling() -> None:
    print("compiling; milliseconds in all, the longest slice, slices")
    cases = {
        "5,000 routes, one rule each, 5,000 services": (
            [
                route(f"r{i}", (rule(Match(path=PathMatch(value="/a"))),), f"s{i}")
                for i in range(5000)
            ],
            5000,
        ),
        "5,000 routes of 16 rules, 5,000 services": (
            [
                route(
                    f"r{i}",
                    tuple(rule(Match(path=PathMatch(value=f"/a{j}"))) for j in range(16)),
                    f"s{i}",
                )
                for i in range(5000)
            ],
            5000,
        ),
        "5,000 routes of 16 rules by path, one service": (prefixes(80_000), 1),
        "5,000 rules of one path, one service": (by_header(5000), 1),
    }
    for title, (loaded, services) in cases.items():
        objects, _ = make(loaded)
        _, total, longest, count = compiled(objects, catalog(services))
        print(f"  {title:<58} {total * 1e3:8.1f} {longest * 1e3:8.2f} {count:8}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--seconds", type=float, default=0.3, help="time for each figure")
    arguments.add_argument("--core", type=int, help="pin the process to this core")
    options = arguments.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    matching(options.seconds)
    carrying(options.seconds)
    compiling()


if __name__ == "__main__":
    main()
