"""The part of ``explain`` that tells of routes: every match by precedence with the first condition
that fails, the backend that was drawn, what filters answer, and the rule's settings.

The rules' own conditions tell, and :func:`nodeproxy.core.routing.way.way` decides, as for traffic.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from nodeproxy.admin.views import ExplainQuery, SettingView, StepView
from nodeproxy.core.destination import Found
from nodeproxy.core.errors import BadRequest, ProxyError, RouteNotFound
from nodeproxy.core.http1 import RequestHead, parse_request
from nodeproxy.core.routing.explain import explain
from nodeproxy.core.routing.rules import Backends, Rule
from nodeproxy.core.routing.table import HttpRules, TcpRule
from nodeproxy.core.routing.way import tcp_target, way
from registry.catalog import Catalog
from registry.model import Port, Service

__all__ = ["Routed", "explain_http", "explain_tcp", "own"]

SHOWN: Final = 100
"""Matches that are told of; a service may have tens of thousands."""


class Routed(NamedTuple):
    """What routes make of a request."""

    steps: list[StepView]
    rule: str = ""
    """The metric label."""
    found: Found | None = None
    """The backend's service port; None: the request ends here."""
    error: ProxyError | None = None
    answer: bytes | None = None
    settings: tuple[SettingView, ...] = ()


def explain_http(
    query: ExplainQuery, rules: HttpRules, port: int, catalog: Catalog, drawn: float
) -> Routed:
    """``drawn``: a random number in [0, 1); ``port``: that the client dials."""
    try:
        head = _head(query)
    except BadRequest as error:
        return Routed([_step("the request", False, str(error))], error=error)
    traces = explain(rules, head)
    decision = next((trace.decision for trace in traces if trace.chosen), None)
    steps = [
        _step(f"{t.decision.rule.origin}: {t}", t.chosen, " and ".join(t.wants))
        for i, t in enumerate(traces)
        if i < SHOWN or t.chosen
    ]
    if len(traces) > SHOWN:
        steps.append(_step(f"{len(traces)} matches in all", False, f"{SHOWN} are shown"))
    if decision is None:
        steps.append(_step("no rule matches", False, "the answer is 404"))
        return Routed(steps, error=RouteNotFound("the service has routes, and no rule matches"))
    rule = decision.rule
    settings = tuple(_settings(rule))
    try:
        taken = way(decision, head, catalog, drawn, port)
    except ProxyError as error:
        steps.append(_step(f"backend of rule {rule.label}", False, str(error)))
        return Routed(steps, rule.label, error=error, settings=settings)
    if taken.backend is not None:
        steps.append(_drawn(rule.label, rule.backends, taken.backend.index))
    if taken.answer is not None:
        line = taken.answer.partition(b"\r\n")[0].decode()
        why = "a filter gives the whole answer: no endpoint sees the request"
        steps.append(_step(line, True, why))
        return Routed(steps, rule.label, answer=taken.answer, settings=settings)
    return Routed(steps, rule.label, taken.found, settings=settings)


def explain_tcp(rule: TcpRule, catalog: Catalog, drawn: float) -> Routed:
    """A rule of a TCPRoute: all connections take it."""
    steps = [_step(f"{rule.origin}: {rule.route}", True, "it takes every connection of the port")]
    try:
        found = tcp_target(rule, catalog, drawn)
    except ProxyError as error:
        steps.append(_step(f"backend of rule {rule.label}", False, str(error)))
        return Routed(steps, rule.label, error=error)
    backend = rule.backends.draw(drawn)
    assert backend is not None
    steps.append(_drawn(rule.label, rule.backends, backend.index))
    return Routed(steps, rule.label, found)


def own(service: Service, port: Port) -> StepView:
    """Without a route."""
    return _step("no route applies", True, f"all requests go to {service.name}:{port.port}")


def _drawn(label: str, backends: Backends, index: int) -> StepView:
    backend = backends.entries[index]
    share = backends.share(backend)
    others = ", ".join(
        f"{b.label} {backends.share(b):.1%}" for b in backends.entries if b is not backend
    )
    why = f"drawn with a share of {share:.1%}; the others: {others}" if others else "the only one"
    return _step(f"rule {label}: backendRefs[{index}] {backend.label}", True, why)


def _step(what: str, matched: bool, why: str = "") -> StepView:
    return StepView("route", what, matched, why)


def _head(query: ExplainQuery) -> RequestHead:
    """The request as a client would send it. Raises BadRequest."""
    given = {name.lower() for name, _ in query.headers}
    lines = [f"{query.method} {query.path or '/'} HTTP/1.1"]
    if "host" not in given:
        host = f"[{query.host}]" if ":" in query.host else query.host
        lines.append(f"Host: {host}" if query.port == 80 else f"Host: {host}:{query.port}")
    lines += [f"{name}: {value}" for name, value in query.headers]
    head = parse_request("".join(f"{line}\r\n" for line in (*lines, "")).encode())
    if head is None:
        raise BadRequest("the request is not complete")
    return head


_TIMEOUTS: Final = (
    ("timeouts.request", "request"),
    ("timeouts.backend_request", "backend_request"),
)


def _settings(rule: Rule) -> list[SettingView]:
    """The rule's settings, each with who says so: the rule itself or a policy."""
    made = []
    for field, name in _TIMEOUTS:
        value = getattr(rule.timeouts, name)
        if value is not None:
            made.append(_setting(rule, field, value, f"{value:g}s" if value else "no limit"))
    retry = rule.retry
    if retry is not None:
        codes = ",".join(map(str, sorted(retry.codes)))
        made += [
            _setting(rule, "retry.attempts", retry.attempts, str(retry.attempts)),
            _setting(rule, "retry.codes", tuple(sorted(retry.codes)), codes or "none"),
            _setting(rule, "retry.on", retry.on, ",".join(sorted(retry.on))),
            _setting(rule, "retry.backoff", retry.backoff, f"{retry.backoff:g}s"),
            _setting(rule, "retry.max_backoff", retry.max_backoff, f"{retry.max_backoff:g}s"),
        ]
    return made


def _setting(rule: Rule, field: str, value: object, text: str) -> SettingView:
    said = rule.policy.get(field)
    if isinstance(value, float) and said is not None:
        said = float(said)
    elif isinstance(value, frozenset) and said is not None:
        said = frozenset(said)
    elif isinstance(value, tuple) and said is not None:
        said = tuple(sorted(said))
    origin = rule.policy.origin(field) if said == value else rule.origin
    return SettingView(_camel(field), text, origin)


def _camel(field: str) -> str:
    """``timeouts.backend_request`` as it stands in files: ``timeouts.backendRequest``."""
    first, *others = field.split("_")
    return first + "".join(part.title() for part in others)
