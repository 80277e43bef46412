"""One HTTPRoute's rules, compiled: conditions, filters, settings, and their index by path."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Final

from nodeproxy.core.routing import rules as r
from nodeproxy.core.routing.conditions import (
    Condition,
    HeaderIs,
    HeaderMatches,
    MethodIs,
    PathIs,
    PathMatches,
    PathStarts,
    QueryIs,
    QueryMatches,
)
from nodeproxy.core.routing.cors import cors
from nodeproxy.core.routing.edits import edits
from nodeproxy.core.routing.groups import Candidate, Group, Order, group_steps
from nodeproxy.core.routing.httproute import Filter, HTTPRoute, Match, RetrySpec, TimeoutsSpec
from nodeproxy.core.routing.paths import redirect, rewrite
from nodeproxy.core.routing.patterns import BadPattern, compile_pattern
from nodeproxy.core.routing.policies import EffectivePolicy
from nodeproxy.core.routing.schema import BackendObjectRef
from nodeproxy.core.routing.table import HttpRules

__all__ = [
    "candidates_of",
    "compile_match",
    "filtering",
    "http_rules",
    "retry_settings",
    "timeout_settings",
]

BITE: Final = 500
"""Matches that are indexed between two yields."""


def http_rules(found: list[Candidate]) -> Generator[None, None, HttpRules]:
    exact: dict[bytes, list[Candidate]] = {}
    prefixes: dict[bytes, list[Candidate]] = {}
    patterns: dict[PathMatches, list[Candidate]] = {}
    lengths: set[int] = set()
    for i, candidate in enumerate(found):
        path = candidate.path
        if isinstance(path, PathIs):
            exact.setdefault(path.value, []).append(candidate)
        elif isinstance(path, PathStarts):
            prefixes.setdefault(path.value, []).append(candidate)
            lengths.add(len(path.value))
        else:
            patterns.setdefault(path, []).append(candidate)
        if i % BITE == BITE - 1:
            yield
    yield
    left = BITE

    def grouped(
        of: dict[bytes, list[Candidate]],
    ) -> Generator[None, None, dict[bytes, r.Decision | Group]]:
        nonlocal left
        groups: dict[bytes, r.Decision | Group] = {}
        for key, members in of.items():
            groups[key] = yield from group_steps(members)
            left -= len(members)
            if left <= 0:
                left = BITE
                yield
        return groups

    by_exact = yield from grouped(exact)
    by_prefix = yield from grouped(prefixes)
    ordered = sorted(patterns.items(), key=lambda item: min(c.order for c in item[1]))
    by_pattern = []
    for path_, members in ordered:
        by_pattern.append((path_.pattern, (yield from group_steps(members))))
    return HttpRules(by_exact, tuple(by_pattern), by_prefix, frozenset(lengths), found)


def candidates_of(route: HTTPRoute, index: int, rule: r.Rule) -> list[Candidate]:
    """One for each match of a rule; a match whose pattern is refused makes none."""
    found = []
    for number, match in enumerate(route.spec.rules[index].matches or (Match(),)):
        try:
            path, conditions = compile_match(match)
        except BadPattern:
            continue
        kind = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}[match.path.type]
        order: Order = (
            kind,
            -len(match.path.value),
            match.method is None,
            -sum(isinstance(c, HeaderIs | HeaderMatches) for c in conditions),
            -sum(isinstance(c, QueryIs | QueryMatches) for c in conditions),
            route.metadata.age,
            index,
            number,
        )
        prefix = path.value if isinstance(path, PathStarts) else b""
        found.append(Candidate(order, path, conditions, r.Decision(rule, number, prefix)))
    return found


def compile_match(
    match: Match,
) -> tuple[PathIs | PathStarts | PathMatches, tuple[Condition, ...]]:
    """Raises BadPattern."""
    value = match.path.value
    path: PathIs | PathStarts | PathMatches
    if match.path.type == "Exact":
        path = PathIs(value.encode())
    elif match.path.type == "PathPrefix":
        path = PathStarts(value.rstrip("/").encode())
    else:
        path = PathMatches(compile_pattern(value))
    conditions: list[Condition] = []
    if match.method is not None:
        conditions.append(MethodIs(match.method.encode()))
    names: set[bytes] = set()
    for header in match.headers:
        name = header.name.lower().encode()
        if name in names:  # of equal names the first counts
            continue
        names.add(name)
        if header.type == "Exact":
            text = header.value.lower() if name == b"host" else header.value
            conditions.append(HeaderIs(name, text.encode()))
        else:
            conditions.append(HeaderMatches(name, compile_pattern(header.value)))
    names = set()
    for parameter in match.query_params:
        name = parameter.name.encode()
        if name in names:
            continue
        names.add(name)
        if parameter.type == "Exact":
            conditions.append(QueryIs(name, parameter.value.encode()))
        else:
            conditions.append(QueryMatches(name, compile_pattern(parameter.value)))
    return path, tuple(conditions)


def filtering(
    filters: Sequence[Filter], reach: Callable[[BackendObjectRef, int], r.Backend]
) -> r.Filtering:
    """All filters of one rule or one backend."""
    if not filters:
        return r.NO_FILTERS
    mirrors = []
    changes: dict[str, object] = {}
    requests = [f.request_header_modifier for f in filters if f.request_header_modifier]
    answers = [f.response_header_modifier for f in filters if f.response_header_modifier]
    for each in filters:
        if each.type == "RequestMirror" and each.request_mirror is not None:
            mirror = each.request_mirror
            fraction = 1.0
            if mirror.fraction is not None:
                fraction = mirror.fraction.numerator / mirror.fraction.denominator
            elif mirror.percent is not None:
                fraction = mirror.percent / 100
            mirrors.append(r.Mirror(reach(mirror.backend_ref, -1), fraction))
        elif each.type == "RequestRedirect" and each.request_redirect is not None:
            changes["redirect"] = redirect(each.request_redirect)
        elif each.type == "URLRewrite" and each.url_rewrite is not None:
            changes["rewrite"] = rewrite(each.url_rewrite)
        elif each.type == "CORS" and each.cors is not None:
            changes["cors"] = cors(each.cors)
        elif each.type == "ExtensionRef":
            ref = each.extension_ref
            what = f"{ref.kind} {ref.name}" if ref is not None else "filter"
            changes["failure"] = f"the ExtensionRef {what} is not known here"
        elif each.type == "ExternalAuth":
            changes["failure"] = "ExternalAuth is not done here, and must not be skipped"
    return r.Filtering(
        request=edits(requests),
        response=edits(answers),
        mirrors=tuple(mirrors),
        **changes,  # type: ignore[arg-type]
    )


def timeout_settings(own: TimeoutsSpec | None, policy: EffectivePolicy) -> r.Timeouts:
    """A rule's own times go before those of policies. For a service alone, ``own`` is None."""
    request = own.request if own is not None else None
    backend = own.backend_request if own is not None else None
    if request is None:
        request = policy.get("timeouts.request")
    if backend is None:
        backend = policy.get("timeouts.backend_request")
    if request is None and backend is None:
        return r.NO_TIMEOUTS
    return r.Timeouts(
        None if request is None else float(request), None if backend is None else float(backend)
    )


def retry_settings(own: RetrySpec | None, policy: EffectivePolicy) -> r.RetrySettings | None:
    """The same for retries. A rule that has ``retry`` without ``attempts`` gets one."""
    attempts = own.attempts if own is not None else None
    if attempts is None:
        attempts = policy.get("retry.attempts", 1 if own is not None else None)
    if not attempts:
        return None
    codes = own.codes if own is not None and own.codes else policy.get("retry.codes", ())
    backoff = own.backoff if own is not None else None
    if backoff is None:
        backoff = policy.get("retry.backoff", 0.025)
    longest = policy.get("retry.max_backoff", max(0.25, 10 * float(backoff)))
    return r.RetrySettings(
        attempts,
        frozenset(codes),
        float(backoff),
        max(float(longest), float(backoff)),
        frozenset(policy.get("retry.on", r.RETRY_ON)),
        policy.get("retry.body_limit", r.BODY_LIMIT),
    )
