"""Filters, backends, session persistence (gateway-api 4.3 to 4.5), by table."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.core.errors import InvalidBackend, UnresolvedFilter
from nodeproxy.core.http1 import RequestHead, parse_request
from nodeproxy.core.routing.edits import edits
from nodeproxy.core.routing.forward import (
    answer_fields,
    direct_answer,
    draw,
    mirrors,
    outgoing,
)
from nodeproxy.core.routing.httproute import Header, HeaderFilter
from nodeproxy.core.routing.paths import Redirect, replace_prefix, strip_port
from nodeproxy.core.routing.rules import Decision
from nodeproxy.core.routing.session import Token, choose
from tests.unit.routing_samples import http, prefix, request, route, rule, table


def decide(made: dict[str, Any], head: RequestHead, *more: dict[str, Any]) -> Decision:
    decision = http(table(route(made), *more)).match(head)
    assert decision is not None
    return decision


def sent(made: dict[str, Any], head: RequestHead) -> RequestHead:
    decision = decide(made, head)
    return outgoing(head, decision, draw(decision, 0.0))


# --- path ---


@pytest.mark.parametrize(
    ("path", "matched", "replacement", "result"),
    [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/a/b", "/", "/x", "/x/a/b"),
        ("/", "/", "/x", "/x/"),
    ],
)
def test_replace_prefix_match(path: str, matched: str, replacement: str, result: str) -> None:
    new = replace_prefix(path.encode(), matched.encode(), replacement.encode())
    assert new == result.encode()
    made = rule(
        prefix(matched),
        filters=[
            {
                "type": "URLRewrite",
                "urlRewrite": {
                    "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": replacement}
                },
            }
        ],
    )
    head = sent(made, request(f"{path}?q=1"))
    assert (head.path, head.target) == (result.encode(), f"{result}?q=1".encode())


@pytest.mark.parametrize(
    ("host", "bare"),
    [(b"a:80", b"a"), (b"a", b"a"), (b"[fd00::1]:80", b"[fd00::1]"), (b"[::1]", b"[::1]")],
)
def test_strip_port(host: bytes, bare: bytes) -> None:
    assert strip_port(host) == bare


def rewriting(**what: Any) -> dict[str, Any]:
    return rule(prefix("/"), filters=[{"type": "URLRewrite", "urlRewrite": what}])


def test_rewrite_of_hostname_and_full_path() -> None:
    full = {"type": "ReplaceFullPath", "replaceFullPath": "/one"}
    head = sent(rewriting(hostname="one.example.org", path=full), request("/x/y?a=1", lines="A: 1"))
    assert head.target == b"/one?a=1"
    assert head.host == b"one.example.org"
    assert head.fields == b"Host: one.example.org\r\nA: 1\r\n"


def test_a_rule_without_filters_sends_the_very_same_head() -> None:
    head = request()
    assert sent(rule(), head) is head
    assert decide(rule(), head).rule.plain


# --- redirects ---


@pytest.mark.parametrize(
    ("filter_", "scheme", "port", "target", "status", "location"),
    [
        pytest.param(
            {"hostname": "example.org"}, "http", 80, "/h", 302, "http://example.org/h",
            id="default-302",
        ),
        pytest.param(
            {"hostname": "example.org", "statusCode": 301}, "http", 80, "/h?x=1", 301,
            "http://example.org/h?x=1", id="301-keeps-query",
        ),
        *(
            pytest.param(
                {"statusCode": code}, "http", 80, "/", code, "http://web.shop/", id=f"{code}"
            )
            for code in (303, 307, 308)
        ),
        pytest.param(
            {"port": 8083}, "http", 80, "/p", 302, "http://web.shop:8083/p", id="port",
        ),
        pytest.param(
            {"port": 8083, "scheme": "https"}, "http", 80, "/p", 302, "https://web.shop:8083/p",
            id="port-and-scheme",
        ),
        pytest.param({"scheme": "https"}, "http", 80, "/p", 302, "https://web.shop/p",
            id="scheme-brings-its-port"),
        pytest.param({"scheme": "https"}, "http", 8080, "/p", 302, "https://web.shop/p",
            id="scheme-not-the-listeners-port"),
        pytest.param({"scheme": "http"}, "https", 443, "/p", 302, "http://web.shop/p",
            id="scheme-http"),
        pytest.param({"scheme": "http", "port": 80}, "https", 443, "/p", 302, "http://web.shop/p",
            id="http-80-omitted"),
        pytest.param({"scheme": "https", "port": 443}, "http", 80, "/p", 302, "https://web.shop/p",
            id="https-443-omitted"),
        pytest.param({"hostname": "o.org"}, "http", 8080, "/p", 302, "http://o.org:8080/p",
            id="no-scheme-listener-port"),
        pytest.param({"hostname": "o.org"}, "https", 443, "/p", 302, "https://o.org/p",
            id="no-scheme-https-443"),
        pytest.param({"hostname": "o.org"}, "https", 8443, "/p", 302, "https://o.org:8443/p",
            id="no-scheme-https-8443"),
        pytest.param({"port": 80}, "https", 443, "/p", 302, "https://web.shop:80/p",
            id="https-80-written"),
        pytest.param({"port": 443}, "http", 80, "/p", 302, "http://web.shop:443/p",
            id="http-443-written"),
        pytest.param({"path": {"type": "ReplaceFullPath", "replaceFullPath": "/full"}}, "http", 80,
            "/p/x", 302, "http://web.shop/full", id="full-path"),
        pytest.param(
            {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}, "http", 80,
            "/p/x?q", 302, "http://web.shop/new/x?q", id="prefix",
        ),
    ],
)  # fmt: skip
def test_redirect(
    filter_: dict[str, Any], scheme: str, port: int, target: str, status: int, location: str
) -> None:
    made = rule(
        prefix("/p" if target.startswith("/p") else "/"),
        to="",
        filters=[{"type": "RequestRedirect", "requestRedirect": filter_}],
    )
    head = request(target, host="web.shop:1234")
    decision = decide(made, head)
    answer = direct_answer(
        head, decision.rule.filters, decision.prefix, scheme=scheme.encode(), port=port
    )
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nLocation: %b\r\n" % location.encode() in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_redirect_without_a_host_is_relative() -> None:
    head = parse_request(b"GET /a?b HTTP/1.0\r\n\r\n")
    assert head is not None
    assert Redirect(302).location(head, b"", scheme=b"http", port=80) == b"/a?b"


def test_an_answer_of_our_own_closes_behind_a_body_that_is_not_read() -> None:
    made = rule(to="", filters=[{"type": "RequestRedirect", "requestRedirect": {}}])
    head = request(method="POST", lines="Content-Length: 5")
    answer = direct_answer(head, decide(made, head).rule.filters, b"", scheme=b"http", port=80)
    assert answer is not None
    assert b"\r\nConnection: close\r\n" in answer


# --- header fields ---


def modifier(**what: Any) -> dict[str, Any]:
    lists = {
        key: [{"name": n, "value": v} for n, v in value.items()] if key != "remove" else value
        for key, value in what.items()
    }
    return {"type": "RequestHeaderModifier", "requestHeaderModifier": lists}


@pytest.mark.parametrize(
    ("filter_", "before", "after"),
    [
        pytest.param(modifier(set={"X": "1"}), "", "X: 1|", id="set-absent"),
        pytest.param(modifier(set={"X": "1"}), "A: 0|x: 2|B: 0", "A: 0|X: 1|B: 0|", id="set-there"),
        pytest.param(modifier(set={"X": "1"}), "x: 2|x: 3", "X: 1|", id="set-repeated"),
        pytest.param(modifier(add={"X": "1"}), "", "X: 1|", id="add-absent"),
        pytest.param(modifier(add={"X": "1"}), "x: a", "x: a,1|", id="add-appends-with-comma"),
        pytest.param(modifier(add={"X": "b,c"}), "x: a|x: z", "x: a,b,c|x: z|", id="add-repeated"),
        pytest.param(modifier(remove=["X"]), "x: a|Y: 1|x: b", "Y: 1|", id="remove-all"),
        pytest.param(modifier(remove=["x"]), "Y: 1", "Y: 1|", id="remove-absent"),
        pytest.param(
            modifier(set={"S": "1"}, add={"A": "2"}, remove=["R"]),
            "r: 0|Keep: B|a: 1|keep: C",
            "Keep: B|a: 1,2|keep: C|S: 1|",
            id="all-three-keep-the-rest",
        ),
    ],
)
def test_request_header_modifier(filter_: dict[str, Any], before: str, after: str) -> None:
    head = sent(rule(filters=[filter_]), request(lines=before))
    assert head.fields == b"Host: web.shop\r\n" + after.replace("|", "\r\n").encode()


def test_modified_fields_that_the_head_knows() -> None:
    made = rule(
        filters=[
            modifier(
                set={"Host": "other", "X-Forwarded-For": "9.9.9.9", "X-Request-Id": "7"},
                remove=["traceparent"],
            )
        ]
    )
    lines = "X-Forwarded-For: 1.1.1.1|x-request-id: 3|traceparent: 00-1|X-Forwarded-Proto: https"
    head = sent(made, request(lines=lines))
    assert (head.host, head.x_forwarded_for, head.request_id) == (b"other", b"9.9.9.9", b"7")
    assert (head.traceparent, head.x_forwarded_proto) == (b"", b"https")
    assert b"orwarded-For" not in head.fields
    assert head.fields.count(b"equest-") == 1


def test_response_header_modifier_of_rule_and_backend() -> None:
    def response(**what: Any) -> dict[str, Any]:
        made = modifier(**what)
        return {
            "type": "ResponseHeaderModifier",
            "responseHeaderModifier": made["requestHeaderModifier"],
        }

    made = rule(
        filters=[response(set={"A": "rule"}, add={"Set-Cookie": "b=2"})],
        backendRefs=[
            {"name": "v1", "port": 80, "filters": [response(set={"A": "x", "B": "backend"})]}
        ],
    )
    head = request()
    decision = decide(made, head)
    fields = answer_fields(head, decision, draw(decision, 0), b"a: 1\r\nSet-Cookie: a=1\r\n")
    # Cookies are never joined by a comma.
    assert fields == b"A: rule\r\nSet-Cookie: a=1\r\nB: backend\r\nSet-Cookie: b=2\r\n"
    assert not decision.rule.plain


def test_filters_of_a_backend_run_only_if_it_is_chosen() -> None:
    made = rule(
        backendRefs=[
            {"name": "v1", "port": 80, "filters": [modifier(set={"Backend": "v1"})]},
            {"name": "v2", "port": 80, "filters": [modifier(set={"Backend": "v2"})]},
        ]
    )
    head = request()
    decision = decide(made, head)
    for drawn, name in ((0.0, b"v1"), (0.9, b"v2")):
        backend = draw(decision, drawn)
        assert outgoing(head, decision, backend).header(b"backend") == name


NAMES = st.sampled_from(["A", "b", "C-d", "x", "Y"])
VALUES = st.text("abc,;= ", min_size=1, max_size=5).map(lambda s: s.strip() or "v")


@given(
    st.lists(st.tuples(NAMES, VALUES)),
    st.dictionaries(st.sampled_from(["a", "B"]), VALUES),
    st.dictionaries(st.sampled_from(["c-D", "set-cookie"]), VALUES),
    st.sets(st.sampled_from(["X", "z"])),
)
def test_untouched_fields_stay_byte_for_byte(
    lines: list[tuple[str, str]], set_: dict[str, str], add: dict[str, str], remove: set[str]
) -> None:
    filter_ = HeaderFilter(
        set=tuple(Header(name=n, value=v) for n, v in set_.items()),
        add=tuple(Header(name=n, value=v) for n, v in add.items()),
        remove=tuple(remove),
    )
    compiled = edits([filter_])
    raw = [f"{n}: {v}\r\n".encode() for n, v in lines]
    if compiled is None:
        assert set_ == add == {}
        assert not remove
        return
    out = compiled.apply(b"".join(raw)).splitlines(keepends=True)
    touched = {n.lower().encode() for n in (*set_, *add, *remove)}

    def rest(all_lines: list[bytes]) -> list[bytes]:
        return [x for x in all_lines if x.partition(b":")[0].lower() not in touched]

    assert rest(out) == rest(raw)
    names = Counter(x.partition(b":")[0].lower() for x in out)
    assert all(names[n.lower().encode()] == 1 for n in set_)
    assert all(names[n.lower().encode()] >= 1 for n in add)
    assert all(names[n.lower().encode()] == 0 for n in remove)


# --- backends ---


def test_weights_within_five_points_of_500_requests() -> None:
    """The conformance suite's tolerance (httproute-weight, mesh: 70/30)."""
    rng = random.Random(3)
    for weights in ((70, 30, 0), (1, 1, 1), (5, 90, 5), (0, 0, 1), (1_000_000, 1, 0)):
        refs = [
            {"name": f"v{i + 1}", "port": 80, "weight": weight} for i, weight in enumerate(weights)
        ]
        decision = decide(rule(backendRefs=refs), request())
        seen = Counter(draw(decision, rng.random()).index for _ in range(500))
        for i, weight in enumerate(weights):
            assert abs(seen[i] / 500 - weight / sum(weights)) <= 0.05
            assert weight or not seen[i]
        # ... and nearer with more of them.
        seen = Counter(draw(decision, rng.random()).index for _ in range(20_000))
        for i, weight in enumerate(weights):
            assert abs(seen[i] / 20_000 - weight / sum(weights)) <= 0.01


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.floats(0, 1, exclude_max=True))
def test_a_backend_without_weight_is_never_drawn(weights: list[int], drawn: float) -> None:
    refs = [{"name": "v1", "port": 80, "weight": w} for w in weights]
    decision = decide(rule(backendRefs=refs), request())
    if not sum(weights):
        with pytest.raises(InvalidBackend, match="sum to 0"):
            draw(decision, drawn)
    else:
        backend = draw(decision, drawn)
        assert weights[backend.index]
        assert decision.rule.backends.share(backend) == backend.weight / sum(weights)


@pytest.mark.parametrize(
    ("refs", "error"),
    [
        pytest.param(None, "no backend", id="omitted-backendRefs"),
        pytest.param([], "no backend", id="empty-backendRefs"),
        pytest.param([{"name": "v1", "port": 80, "weight": 0}], "sum to 0", id="weights-sum-to-0"),
        pytest.param([{"kind": "Pod", "name": "p", "port": 80}], "Pod", id="unknown-kind"),
        pytest.param([{"name": "v1"}], "needs a port", id="no-port"),
    ],
)
def test_invalid_backends_answer_500(refs: list[dict[str, Any]] | None, error: str) -> None:
    made = rule(to="") if refs is None else rule(to="", backendRefs=refs)
    decision = decide(made, request())
    with pytest.raises(InvalidBackend, match=error) as info:
        draw(decision, 0.5)
    assert info.value.status == 500


def test_the_share_of_an_invalid_backend_gets_500_and_the_rest_is_served() -> None:
    refs = [{"name": "v1", "port": 80}, {"kind": "Nope", "name": "x", "port": 80}]
    decision = decide(rule(backendRefs=refs), request())
    assert draw(decision, 0.49).service == "shop/v1"
    with pytest.raises(InvalidBackend):
        draw(decision, 0.5)


def test_mesh_backends_of_other_namespaces_need_no_grant() -> None:
    refs = [{"name": "v1", "namespace": "other", "port": 80}]
    assert draw(decide(rule(backendRefs=refs), request()), 0).service == "other/v1"


@pytest.mark.parametrize(
    "filter_",
    [
        {"type": "ExtensionRef", "extensionRef": {"group": "x", "kind": "K", "name": "n"}},
        {"type": "ExternalAuth", "externalAuth": {"protocol": "HTTP"}},
    ],
    ids=["unresolved-ExtensionRef-is-not-skipped", "ExternalAuth-fails-closed"],
)
def test_filters_that_are_not_known_fail_the_request(filter_: dict[str, Any]) -> None:
    head = request()
    decision = decide(rule(filters=[filter_]), head)
    with pytest.raises(UnresolvedFilter) as info:
        direct_answer(head, decision.rule.filters, b"", scheme=b"http", port=80)
    assert info.value.status == 500


def test_mirrors_by_percent_and_fraction() -> None:
    def mirror(name: str, **more: Any) -> dict[str, Any]:
        ref = {"name": name, "port": 80}
        return {"type": "RequestMirror", "requestMirror": {"backendRef": ref, **more}}

    filters = [
        mirror("v1"),
        mirror("v2", percent=20),
        mirror("v3", fraction={"numerator": 1, "denominator": 3}),
        mirror("v3", fraction={"numerator": 50}),
        mirror("v3", percent=0),
    ]
    decision = decide(rule(filters=filters), request())
    found = mirrors(decision, draw(decision, 0))
    assert [m.backend.service for m in found[:3]] == ["shop/v1", "shop/v2", "shop/v3"]
    assert [m.fraction for m in found] == [1.0, 0.2, 1 / 3, 0.5, 0.0]
    assert found[1].wants(0.19)
    assert not found[1].wants(0.2)
    assert not found[4].wants(0.0)


# --- timeouts and retries ---


def test_timeouts_and_retries_are_resolved() -> None:
    made = rule(
        timeouts={"request": "500ms", "backendRequest": "0s"},
        retry={"codes": [500, 503], "attempts": 2, "backoff": "100ms"},
    )
    found = decide(made, request()).rule
    assert (found.timeouts.request, found.timeouts.backend_request) == (0.5, 0.0)
    assert found.retry is not None
    assert (found.retry.attempts, found.retry.codes) == (2, {500, 503})
    assert (found.retry.backoff, found.retry.max_backoff) == (0.1, 1.0)
    plain = decide(rule(), request()).rule
    assert (plain.timeouts.request, plain.retry) == (None, None)
    bare = decide(rule(retry={}), request()).rule.retry
    assert bare is not None
    assert (bare.attempts, bare.codes, bare.backoff) == (1, frozenset(), 0.025)
    # Connection errors are tried again wherever there are retries.
    assert bare.on == {"ConnectFailure", "Reset"}


# --- session persistence ---

KEY = ("10.0.0.1", 8080, "http")


def with_session(**what: Any) -> Decision:
    return decide(rule(sessionPersistence={"sessionName": "S", **what}), request())


def test_a_cookie_brings_the_client_back() -> None:
    session = with_session().rule.session
    assert session is not None
    assert session.read(request(), 1000.0) is None
    token = session.begin("shop/v1", 80, KEY, 1000.0)
    line = session.field(token, 1000.0, fresh=True)
    assert line.startswith(b"Set-Cookie: S=1.3e8.3e8.")
    assert line.endswith(b"; Path=/; HttpOnly; SameSite=Lax\r\n")
    assert b"10.0.0.1" not in line
    cookie = line.partition(b": ")[2].partition(b";")[0].decode()
    back = session.read(request(lines=f"Cookie: a=1; {cookie}; b=2"), 2000.0)
    assert back == token
    others = [(("10.0.0.2", 8080, "http"), "two"), (KEY, "one")]
    assert choose(token, others) == "one"
    assert choose(token, others[:1]) is None
    assert session.field(token, 2000.0, fresh=False) == b""


def test_timeouts_of_a_session() -> None:
    session = with_session(absoluteTimeout="1h", idleTimeout="10m").rule.session
    assert session is not None
    token = Token(1000, 1000, b"0" * 8, b"0" * 16)

    def valid(now: float, token: Token = token) -> bool:
        head = request(lines=f"Cookie: S={token.encode().decode()}")
        return session.read(head, now) is not None

    assert valid(1599)
    assert not valid(1600)
    assert valid(4599, Token(1000, 4590, b"0" * 8, b"0" * 16))
    assert not valid(4600, Token(1000, 4590, b"0" * 8, b"0" * 16))
    assert not valid(900)
    renewed = session.field(token, 1300.0, fresh=False)
    assert b"1.3e8.514." in renewed


def test_a_permanent_cookie_has_an_age_and_a_header_has_none() -> None:
    permanent = with_session(
        absoluteTimeout="1h", cookieConfig={"lifetimeType": "Permanent"}
    ).rule.session
    assert permanent is not None
    token = permanent.begin("shop/v1", 80, KEY, 1000.0)
    assert b"; Max-Age=3600" in permanent.field(token, 1000.0, fresh=True)
    header = with_session(type="Header").rule.session
    assert header is not None
    line = header.field(token, 1000.0, fresh=True)
    assert line == b"s: " + token.encode() + b"\r\n"
    assert header.read(request(lines=line.decode().strip()), 1001.0) == token


@given(st.binary(max_size=60))
def test_any_cookie_can_be_read(value: bytes) -> None:
    session = with_session().rule.session
    assert session is not None
    text = value.decode("latin-1")
    if text.isprintable() and text.isascii():
        session.read(request(lines="Cookie: S=" + text.replace("|", "")), 0.0)
