"""Short forms for the tests of routing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from nodeproxy.core.http1 import RequestHead, parse_request
from nodeproxy.core.routing.compile import Compiler, run
from nodeproxy.core.routing.objects import Objects, make
from nodeproxy.core.routing.table import HttpRules, RouteTable
from nodeproxy.routes.reading import read
from registry.base import Problem
from registry.catalog import Catalog, Merger
from registry.model import Port, Service

API = "gateway.networking.k8s.io/v1"


def read_all(*objects: dict[str, Any] | str) -> tuple[Objects, list[Problem]]:
    """Through JSON, as if a file had them."""
    texts = [o if isinstance(o, str) else json.dumps(o) for o in objects]
    loaded, problems = read("\n---\n".join(texts) or "# none", "routes.yaml")
    made, twice = make(loaded)
    return made, [*problems, *twice]


def load(*objects: dict[str, Any] | str) -> Objects:
    """Valid objects."""
    made, problems = read_all(*objects)
    assert problems == []
    return made


def problems_of(*objects: dict[str, Any] | str) -> list[str]:
    return [f"{p.field}: {p.message}" for p in read_all(*objects)[1]]


def catalog(*services: str) -> Catalog:
    """``shop/web:80:http,81:alt``; without ports: 80."""
    made = []
    for text in services:
        name, _, ports = text.partition(":")
        found = []
        for port in (ports or "80:http").split(","):
            number, _, port_name = port.partition(":")
            found.append(Port(int(number), port_name))
        made.append(Service(name, ports=tuple(found)))
    return Merger(["test"]).apply("test", made, [])[0]


CATALOG = catalog("shop/web:80:http,81:alt", "shop/v1", "shop/v2", "shop/v3", "other/v1")


def table(*objects: dict[str, Any] | str, services: Catalog = CATALOG) -> RouteTable:
    return run(Compiler(load(*objects)).build(services))


def parent(name: str = "web", **more: Any) -> dict[str, Any]:
    return {"group": "", "kind": "Service", "name": name, **more}


def route(
    *rules: dict[str, Any],
    name: str = "r",
    namespace: str = "shop",
    created: str = "",
    parents: Iterable[dict[str, Any]] | None = None,
    kind: str = "HTTPRoute",
    **spec: Any,
) -> dict[str, Any]:
    """An HTTPRoute for Service shop/web."""
    metadata = {"name": name, "namespace": namespace}
    if created:
        metadata["creationTimestamp"] = created
    parents = [parent()] if parents is None else list(parents)
    version = API if kind == "HTTPRoute" else API + "alpha2"
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": metadata,
        "spec": {"parentRefs": parents, "rules": list(rules), **spec},
    }


def rule(*matches: dict[str, Any], to: str = "v1", **more: Any) -> dict[str, Any]:
    """A rule with one backend (``to`` empty: none)."""
    made: dict[str, Any] = dict(more)
    if matches:
        made["matches"] = list(matches)
    if to and "backendRefs" not in made:
        made["backendRefs"] = [{"name": to, "port": 80}]
    return made


def exact(path: str, **more: Any) -> dict[str, Any]:
    return {"path": {"type": "Exact", "value": path}, **more}


def prefix(path: str, **more: Any) -> dict[str, Any]:
    return {"path": {"type": "PathPrefix", "value": path}, **more}


def regex(path: str, **more: Any) -> dict[str, Any]:
    return {"path": {"type": "RegularExpression", "value": path}, **more}


def headers(**values: str) -> dict[str, Any]:
    return {"headers": [{"name": k.replace("_", "-"), "value": v} for k, v in values.items()]}


def query(**values: str) -> dict[str, Any]:
    return {"queryParams": [{"name": k, "value": v} for k, v in values.items()]}


def request(
    target: str = "/", method: str = "GET", host: str = "web.shop", lines: str = ""
) -> RequestHead:
    """``lines``: further field lines, separated by |."""
    fields = "".join(f"{line}\r\n" for line in lines.split("|") if line)
    text = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"
    head = parse_request(text.encode("latin-1"))
    assert head is not None
    return head


def http(
    made: RouteTable, service: str = "shop/web", port: int = 80, client: str = ""
) -> HttpRules:
    found = made.find(service, port, client)
    assert found is not None
    assert found.http is not None
    return found.http


def target(rules: HttpRules, head: RequestHead) -> str:
    """The name of the one backend that a request goes to; ``404``."""
    decision = rules.match(head)
    if decision is None:
        return "404"
    backend = decision.rule.backends.draw(0.0)
    return backend.service.partition("/")[2] if backend is not None else "500"
