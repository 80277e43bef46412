"""The admin API as a pure function: which request asks what of the view."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.admin import api, messages, views


async def ask(view: Any, target: str, method: str = "GET", public: bool = False) -> tuple[int, Any]:
    handler = (api.metrics_handler if public else api.admin_handler)(view)
    response = await handler(messages.request(method, target))
    body = response.body if isinstance(response.body, bytes) else b"".join(response.body)
    return response.status, body.decode() if "json" not in response.content_type else json.loads(
        body
    )


async def test_every_view_method_has_an_endpoint(fake_view: Any) -> None:
    asked: set[str] = set()

    class Spy:
        def __getattr__(self, name: str) -> Any:
            asked.add(name)
            return getattr(fake_view, name)

    for method, target in [
        ("GET", "/status"),
        ("GET", "/services"),
        ("GET", "/services/shop/web"),
        ("GET", "/hosts"),
        ("GET", "/endpoints"),
        ("GET", "/routes"),
        ("GET", "/registries"),
        ("GET", "/registrations"),
        ("GET", "/explain?url=http://10.96.0.10/"),
        ("GET", "/metrics"),
        ("GET", "/ready"),
        ("GET", "/live"),
        ("GET", "/rules"),
        ("GET", "/rules/verify"),
        ("POST", "/rules/repair"),
        ("POST", "/rules/remove?confirm=stop-intercepting"),
        ("GET", "/log-level"),
        ("POST", "/log-level?level=debug"),
    ]:
        status, _ = await ask(Spy(), target, method)
        assert status == 200, target
    wanted = {name for name, _ in inspect.getmembers(views.View, inspect.isfunction)}
    assert asked == {name for name in wanted if not name.startswith("_")}


async def test_listings_are_arrays_in_slices(fake_view: Any) -> None:
    fake_view.known = [views.ServiceView(f"shop/s{i}") for i in range(250)]
    response = await api.admin_handler(fake_view)(messages.request("GET", "/services"))
    slices = list(response.body)
    assert len(slices) == 4
    assert [s["name"] for s in json.loads(b"".join(slices))] == [f"shop/s{i}" for i in range(250)]
    fake_view.known = []
    assert await ask(fake_view, "/services") == (200, [])


async def test_endpoints_of_one_service(fake_view: Any) -> None:
    status, found = await ask(fake_view, "/endpoints?service=shop/web")
    assert status == 200
    assert [e["address"] for e in found] == ["10.244.1.11:8080", "10.244.2.12:8080"]
    assert found[1]["labels"] == {"version": "v2"}
    assert await ask(fake_view, "/endpoints?service=shop/cart") == (200, [])
    # A name without a namespace is in "default".
    status, found = await ask(fake_view, "/endpoints?service=web")
    assert (status, found["error"]) == (404, 'no registry knows a service "default/web"')


@pytest.mark.parametrize(
    "target", ["/services/shop/nothing", "/routes?service=shop/nothing", "/endpoints?service=x/y"]
)
async def test_unknown_services_are_404(fake_view: Any, target: str) -> None:
    status, found = await ask(fake_view, target)
    assert status == 404
    assert "nodeproxy services" in found["hint"]


async def test_wrong_path_and_method(fake_view: Any) -> None:
    status, found = await ask(fake_view, "/nothing")
    assert (status, found["error"]) == (404, "no such path: /nothing")
    assert "/status" in found["hint"]
    handler = api.admin_handler(fake_view)
    response = await handler(messages.request("DELETE", "/log-level"))
    assert response.status == 405
    assert response.headers == (("allow", "GET, POST"),)


async def test_the_metrics_port_shows_little_and_changes_nothing(fake_view: Any) -> None:
    assert (await ask(fake_view, "/metrics", public=True))[1] == "# TYPE up gauge\nup 1\n"
    assert (await ask(fake_view, "/live", public=True))[0] == 200
    for target in ("/status", "/services", "/rules", "/log-level", "/explain?url=http://x/"):
        assert (await ask(fake_view, target, public=True))[0] == 404
    for target in ("/rules/repair", "/rules/remove?confirm=stop-intercepting", "/log-level"):
        assert (await ask(fake_view, target, "POST", public=True))[0] == 404
    assert fake_view.calls == []


async def test_ready_is_503_with_reasons(fake_view: Any) -> None:
    fake_view.state = msgspec.structs.replace(fake_view.state, ready=False, reasons=("why",))
    assert await ask(fake_view, "/ready") == (503, {"ok": False, "reasons": ["why"]})


async def test_what_the_kernel_refuses_is_told(fake_view: Any) -> None:
    async def refused() -> views.VerifyView:
        raise messages.Unable("another program holds the lock", "see who holds it")

    fake_view.rules_verify = refused
    status, found = await ask(fake_view, "/rules/verify")
    assert (status, found) == (
        503,
        {"error": "another program holds the lock", "hint": "see who holds it"},
    )


async def test_rules_are_not_removed_under_a_daemon_by_accident(fake_view: Any) -> None:
    status, found = await ask(fake_view, "/rules/remove", "POST")
    assert status == 409
    assert "confirm=stop-intercepting" in found["hint"]
    assert fake_view.calls == []


async def test_log_level(fake_view: Any) -> None:
    assert await ask(fake_view, "/log-level?level=debug", "POST") == (200, {"level": "debug"})
    status, found = await ask(fake_view, "/log-level?level=loud", "POST")
    assert (status, fake_view.level) == (400, "debug")
    assert "info" in found["hint"]


async def test_explain_reads_its_question(fake_view: Any) -> None:
    target = (
        "/explain?method=POST&url=http%3A%2F%2F10.96.0.10%3A81%2Fcart%3Fa%3D1"
        "&header=Version%3A%20two&header=x-b:3&from=10.244.1.11"
    )
    status, found = await ask(fake_view, target)
    assert status == 200
    query = msgspec.convert(found["query"], views.ExplainQuery)
    assert query == views.ExplainQuery(
        method="POST",
        url="http://10.96.0.10:81/cart?a=1",
        scheme="http",
        host="10.96.0.10",
        port=81,
        path="/cart?a=1",
        headers=(("version", "two"), ("x-b", "3")),
        source="10.244.1.11",
    )


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("url=10.96.0.10", "no scheme"),
        ("url=ftp://10.96.0.10/", "not a scheme"),
        ("url=tcp://10.96.0.10", "no port"),
        ("url=http://:80/", "no host"),
        ("url=http://a:99999/", "not a URL"),
        ("url=http://[::1/", "not a URL"),
        ("url=http://a/&method=G%20T", "not a method"),
        ("url=http://a/&header=nocolon", "not a header"),
        ("url=http://a/&header=a:b%0Ac", "control character"),
        ("url=http://a/&from=pod-1", "not an address"),
    ],
)
async def test_explain_refuses_what_it_cannot_understand(
    fake_view: Any, query: str, message: str
) -> None:
    status, found = await ask(fake_view, f"/explain?{query}")
    assert status == 400
    assert message in found["error"]


@given(st.text(max_size=60))
def test_any_target_is_read_or_refused(target: str) -> None:
    try:
        request = messages.request("GET", target)
    except messages.BadTarget:
        return
    assert all(request.segments)


def test_segments_are_decoded_one_by_one() -> None:
    request = messages.request("GET", "/services/a%2Fb/c?x=1&x=2&y")
    assert request.segments == ("services", "a/b", "c")
    assert request.values("x") == ("1", "2")
    assert (request.value("x"), request.value("y", "?"), request.value("z", "?")) == ("2", "", "?")
    with pytest.raises(messages.BadTarget):
        messages.request("GET", "/%ff")
    with pytest.raises(messages.BadTarget):
        messages.request("OPTIONS", "*")


def test_the_documentation_lists_every_endpoint() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for route in api._ADMIN:
        names = iter(("NAMESPACE", "NAME"))
        path = "/".join(next(names) if part == "{}" else part for part in route.path)
        assert f"`{route.method} /{path}" in text
