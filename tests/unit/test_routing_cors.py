"""The CORS filter (gep-1767, Fetch 3.2)."""

from __future__ import annotations

from typing import Any

import pytest

from nodeproxy.core.routing.forward import answer_fields, direct_answer, draw
from nodeproxy.core.routing.rules import Decision
from tests.unit.routing_samples import http, request, route, rule, table

PREFLIGHT = "Access-Control-Request-Method: PUT|Access-Control-Request-Headers: x-a, x-b"


def decide(**what: Any) -> Decision:
    made = table(route(rule(filters=[{"type": "CORS", "cors": what}])))
    decision = http(made).match(request())
    assert decision is not None
    return decision


def preflight(origin: str, **what: Any) -> dict[str, str] | None:
    decision = decide(**what)
    head = request(method="OPTIONS", lines=f"Origin: {origin}|{PREFLIGHT}")
    answer = direct_answer(head, decision.rule.filters, b"", scheme=b"http", port=80)
    if answer is None:
        return None
    assert answer.startswith(b"HTTP/1.1 204 ")
    lines = answer.decode().split("\r\n")[1:-2]
    return {n.lower().removeprefix("access-control-"): v for n, v in (x.split(": ") for x in lines)}


@pytest.mark.parametrize(
    ("allowed", "origin", "hit"),
    [
        ("https://a.example", "https://a.example", True),
        ("https://a.example", "https://A.example", True),
        ("https://a.example", "http://a.example", False),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example:8443", "https://a.example:8443", True),
        ("https://*.example", "https://x.y.example", True),
        ("https://*.example", "https://example", False),
        ("https://*.example", "https://.example", False),
        ("https://*.example", "https://evilexample", False),
        ("*", "https://any", True),
        ("*", "null", True),
        ("https://a.example", "null", False),
    ],
)
def test_origins(allowed: str, origin: str, hit: bool) -> None:
    answer = preflight(origin, allowOrigins=[allowed])
    assert answer is not None
    assert ("allow-origin" in answer) is hit


def test_preflight_is_answered_here() -> None:
    answer = preflight(
        "https://a.example",
        allowOrigins=["https://a.example"],
        allowMethods=["PUT", "GET"],
        allowHeaders=["x-a", "x-b"],
        allowCredentials=True,
        maxAge=600,
    )
    assert answer == {
        "allow-origin": "https://a.example",
        "allow-credentials": "true",
        "allow-methods": "PUT, GET, HEAD, POST",
        "allow-headers": "x-a, x-b",
        "max-age": "600",
        "vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    }


def test_stars_without_and_with_credentials() -> None:
    stars = {"allowOrigins": ["*"], "allowMethods": ["*"], "allowHeaders": ["*"]}
    answer = preflight("https://a", **stars)
    assert answer is not None
    assert (answer["allow-origin"], answer["allow-methods"], answer["allow-headers"]) == tuple(
        "***"
    )
    assert answer["max-age"] == "5"
    # A star is a word like others once credentials are allowed: what was asked is named.
    answer = preflight("https://a", allowCredentials=True, **stars)
    assert answer is not None
    assert answer["allow-origin"] == "https://a"
    assert (answer["allow-methods"], answer["allow-headers"]) == ("PUT", "x-a, x-b")


def test_what_is_no_preflight_is_forwarded() -> None:
    decision = decide(allowOrigins=["*"])
    for head in (
        request(method="OPTIONS"),
        request(method="OPTIONS", lines="Origin: https://a"),
        request(lines=f"Origin: https://a|{PREFLIGHT}"),
    ):
        filters = decision.rule.filters
        assert direct_answer(head, filters, b"", scheme=b"http", port=80) is None


def test_answers_get_the_fields_and_lose_those_of_the_endpoint() -> None:
    decision = decide(
        allowOrigins=["https://a"], allowCredentials=True, exposeHeaders=["x-one", "x-two"]
    )
    backend = draw(decision, 0)
    endpoint = b"A: 1\r\nAccess-Control-Allow-Origin: *\r\nB: 2\r\n"
    allowed = answer_fields(request(lines="Origin: https://a"), decision, backend, endpoint)
    assert allowed == (
        b"A: 1\r\nB: 2\r\nAccess-Control-Allow-Origin: https://a\r\n"
        b"Access-Control-Allow-Credentials: true\r\n"
        b"Access-Control-Expose-Headers: x-one, x-two\r\nVary: Origin\r\n"
    )
    denied = answer_fields(request(lines="Origin: https://b"), decision, backend, endpoint)
    assert denied == b"A: 1\r\nB: 2\r\nVary: Origin\r\n"
    assert answer_fields(request(), decision, backend, b"Vary: origin\r\n") == b"Vary: origin\r\n"
