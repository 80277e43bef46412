"""What one object alone must keep to, beyond its schema: the rules that the API server of
Kubernetes checks by expressions (CEL) in the Gateway API's definitions, and our own limits.

Every problem has its field; the reader adds file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from nodeproxy.core.routing.edits import FORBIDDEN
from nodeproxy.core.routing.gateway import Gateway
from nodeproxy.core.routing.httproute import (
    Filter,
    HeaderFilter,
    HTTPRoute,
    HttpRule,
    Match,
    PathMatch,
    PathModifier,
    SessionPersistence,
)
from nodeproxy.core.routing.objects import Object
from nodeproxy.core.routing.otherroutes import GRPCRoute, TCPRoute, TLSRoute
from nodeproxy.core.routing.patterns import BadPattern, compile_pattern
from nodeproxy.core.routing.policies import TARGETS
from nodeproxy.core.routing.policyobjects import TrafficPolicy, TrafficSpec, XBackendTrafficPolicy
from nodeproxy.core.routing.schema import GATEWAY_GROUP, OUR_GROUP, ParentRef
from registry.strict import Path, near

__all__ = ["Finding", "check"]


class Finding(NamedTuple):
    """What is wrong at a path inside an object."""

    path: Path
    message: str


MAX_MATCHES: Final = 128
_PATH: Final = re.compile(r"(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+")
_FIELD_OF: Final = {
    "RequestHeaderModifier": "request_header_modifier",
    "ResponseHeaderModifier": "response_header_modifier",
    "RequestMirror": "request_mirror",
    "RequestRedirect": "request_redirect",
    "URLRewrite": "url_rewrite",
    "CORS": "cors",
    "ExternalAuth": "external_auth",
    "ExtensionRef": "extension_ref",
}
_WRITTEN: Final = {field.name: field.encode_name for field in msgspec.structs.fields(Filter)}
_ONCE: Final = (
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestRedirect",
    "URLRewrite",
    "CORS",
)


def check(found: Object) -> Iterator[Finding]:
    """Every problem of one object."""
    if isinstance(found, HTTPRoute | TCPRoute | TLSRoute | GRPCRoute):
        yield from _parents(found.spec.parent_refs)
    if isinstance(found, HTTPRoute):
        yield from _http(found)
    elif isinstance(found, Gateway):
        yield from _gateway(found)
    elif isinstance(found, TrafficPolicy | XBackendTrafficPolicy):
        yield from _policy(found)


def _parents(refs: Sequence[ParentRef]) -> Iterator[Finding]:
    seen: set[object] = set()
    for i, ref in enumerate(refs):
        path: Path = ("spec", "parentRefs", i)
        if ref.kind == "Service" and ref.group == GATEWAY_GROUP:
            yield Finding(path, 'a Service is of the core group: write group: ""')
        elif not (ref.is_service or ref.is_gateway):
            known = 'Service (group: "") and Gateway'
            yield Finding(
                path,
                f"a route can't be attached to a {ref.kind} of the group {ref.group!r}; "
                f"known are {known}",
            )
        key = (ref.group, ref.kind, ref.namespace, ref.name, ref.section_name, ref.port)
        if key in seen:
            yield Finding(path, "this parent stands twice; tell them apart by sectionName or port")
        seen.add(key)


def _http(route: HTTPRoute) -> Iterator[Finding]:
    rules = route.spec.rules
    total = sum(len(rule.matches) for rule in rules)
    if total > MAX_MATCHES:
        path: Path = ("spec", "rules")
        yield Finding(path, f"{total} matches in all; at most {MAX_MATCHES} are allowed")
    names: set[str] = set()
    for i, rule in enumerate(rules):
        path = ("spec", "rules", i)
        if rule.name is not None:
            if rule.name in names:
                yield Finding((*path, "name"), f"another rule is called {rule.name!r}, too")
            names.add(rule.name)
        for j, match in enumerate(rule.matches):
            yield from _match(match, (*path, "matches", j))
        yield from _rule(rule, path)


def _rule(rule: HttpRule, path: Path) -> Iterator[Finding]:
    yield from _filters(rule.filters, (*path, "filters"), rule)
    redirects = any(f.type == "RequestRedirect" for f in rule.filters)
    if redirects and rule.backend_refs:
        yield Finding(
            (*path, "backendRefs"), "a rule with RequestRedirect sends nothing to backends"
        )
    for i, ref in enumerate(rule.backend_refs):
        yield from _filters(ref.filters, (*path, "backendRefs", i, "filters"), rule)
    times = rule.timeouts
    if times is not None and _longer(times.backend_request, times.request):
        where: Path = (*path, "timeouts", "backendRequest")
        yield Finding(where, f"is longer than request ({times.request})")
    yield from _session(rule.session_persistence, (*path, "sessionPersistence"))


def _match(match: Match, path: Path) -> Iterator[Finding]:
    yield from _path_match(match.path, (*path, "path", "value"))
    for i, header in enumerate(match.headers):
        where: Path = (*path, "headers", i)
        if header.type == "RegularExpression":
            yield from _pattern(header.value, (*where, "value"))
        if any(header.name == other.name for other in match.headers[:i]):
            yield Finding(where, f"the header {header.name} stands twice")
    for i, parameter in enumerate(match.query_params):
        where = (*path, "queryParams", i)
        if parameter.type == "RegularExpression":
            yield from _pattern(parameter.value, (*where, "value"))
        if any(parameter.name == other.name for other in match.query_params[:i]):
            yield Finding(where, f"the parameter {parameter.name} stands twice")


def _path_match(match: PathMatch, path: Path) -> Iterator[Finding]:
    value = match.value
    if match.type == "RegularExpression":
        yield from _pattern(value, path)
        return
    if not value.startswith("/"):
        yield Finding(path, f"{value!r} must begin with a slash")
        return
    for bad in ("//", "/./", "/../", "%2f", "%2F", "#"):
        if bad in value:
            yield Finding(path, f"{value!r} must not contain {bad!r}")
            return
    if value.endswith(("/.", "/..")):
        yield Finding(path, f"{value!r} must not end with '/.' or '/..'")
    elif not _PATH.fullmatch(value):
        yield Finding(path, f"{value!r} holds a character that no path has; write it as %XX")


def _pattern(text: str, path: Path) -> Iterator[Finding]:
    try:
        compile_pattern(text)
    except BadPattern as error:
        yield Finding(path, str(error))


def _filters(filters: Sequence[Filter], path: Path, rule: HttpRule) -> Iterator[Finding]:
    types = [each.type for each in filters]
    for kind in _ONCE:
        if types.count(kind) > 1:
            yield Finding(path, f"{kind} stands twice")
    if "RequestRedirect" in types and "URLRewrite" in types:
        yield Finding(path, "RequestRedirect and URLRewrite exclude each other")
    for i, each in enumerate(filters):
        yield from _filter(each, (*path, i), rule)


def _filter(each: Filter, path: Path, rule: HttpRule) -> Iterator[Finding]:
    own = _FIELD_OF[each.type]
    if getattr(each, own) is None:
        yield Finding(path, f"a filter of the type {each.type} needs {_WRITTEN[own]!r}")
    for field in _FIELD_OF.values():
        if field != own and getattr(each, field) is not None:
            written = _WRITTEN[field]
            yield Finding((*path, written), f"does not belong to a filter of type {each.type}")
    for field in ("request_header_modifier", "response_header_modifier"):
        headers = getattr(each, field)
        if headers is not None:
            yield from _headers(headers, (*path, _WRITTEN[field]), field[:7] == "request")
    mirror = each.request_mirror
    if mirror is not None:
        where: Path = (*path, "requestMirror")
        fraction = mirror.fraction
        if mirror.percent is not None and fraction is not None:
            yield Finding(where, "percent and fraction exclude each other")
        if fraction is not None and fraction.numerator > fraction.denominator:
            yield Finding((*where, "fraction"), "the numerator is above the denominator")
    if each.request_redirect is not None:
        yield from _modifier(each.request_redirect.path, (*path, "requestRedirect", "path"), rule)
    if each.url_rewrite is not None:
        yield from _modifier(each.url_rewrite.path, (*path, "urlRewrite", "path"), rule)
    if each.cors is not None:
        for name in ("allow_origins", "allow_methods", "allow_headers"):
            values = getattr(each.cors, name)
            if "*" in values and len(values) > 1:
                first, second = name.split("_")
                written = first + second.title()
                yield Finding((*path, "cors", written), "'*' stands alone or not at all")


def _headers(headers: HeaderFilter, path: Path, request: bool) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    named = [
        *(("set", i, h.name) for i, h in enumerate(headers.set)),
        *(("add", i, h.name) for i, h in enumerate(headers.add)),
        *(("remove", i, name) for i, name in enumerate(headers.remove)),
    ]
    for action, i, name in named:
        where: Path = (*path, action, i)
        low = name.lower()
        if low in FORBIDDEN:
            yield Finding(where, f"{name} frames the message on one connection: it is not ours")
        elif low == "host" and (action != "set" or not request):
            yield Finding(where, "Host can only be set, and of requests only")
        if low in seen:
            yield Finding(where, f"{name} is named by {seen[low]!r} already")
        seen[low] = action


def _modifier(modifier: PathModifier | None, path: Path, rule: HttpRule) -> Iterator[Finding]:
    if modifier is None:
        return
    full = modifier.type == "ReplaceFullPath"
    own = modifier.replace_full_path if full else modifier.replace_prefix_match
    other = modifier.replace_prefix_match if full else modifier.replace_full_path
    name = "replaceFullPath" if full else "replacePrefixMatch"
    if own is None:
        yield Finding(path, f"the type {modifier.type} needs {name!r}")
    elif own and not own.startswith("/"):
        yield Finding((*path, name), f"{own!r} must begin with a slash")
    elif own and not _PATH.fullmatch(own):
        yield Finding((*path, name), f"{own!r} holds a character that no path has")
    if other is not None:
        yield Finding(path, f"the type {modifier.type} goes with {name!r} alone")
    if not full and (len(rule.matches) != 1 or rule.matches[0].path.type != "PathPrefix"):
        yield Finding(path, "ReplacePrefixMatch needs a rule with exactly one match, a PathPrefix")


def _session(settings: SessionPersistence | None, path: Path) -> Iterator[Finding]:
    if settings is None:
        return
    cookie = settings.cookie_config
    permanent = cookie is not None and cookie.lifetime_type == "Permanent"
    if permanent and not settings.absolute_timeout:
        yield Finding(path, "a Permanent cookie needs absoluteTimeout")
    if cookie is not None and settings.type == "Header":
        yield Finding((*path, "cookieConfig"), "does not belong to the type Header")


def _gateway(gateway: Gateway) -> Iterator[Finding]:
    names: set[str] = set()
    for i, listener in enumerate(gateway.spec.listeners):
        path: Path = ("spec", "listeners", i)
        if listener.name in names:
            yield Finding((*path, "name"), f"another listener is called {listener.name!r}, too")
        names.add(listener.name)
        tls = listener.tls
        if listener.protocol in ("HTTP", "TCP", "UDP"):
            if tls is not None:
                yield Finding(
                    (*path, "tls"), f"does not belong to a listener for {listener.protocol}"
                )
            if listener.protocol != "HTTP" and listener.hostname:
                where: Path = (*path, "hostname")
                yield Finding(where, f"does not belong to a listener for {listener.protocol}")
        elif tls is None:
            yield Finding(path, f"a listener for {listener.protocol} needs 'tls'")
        elif listener.protocol == "HTTPS" and tls.mode == "Passthrough":
            yield Finding((*path, "tls", "mode"), "HTTPS is terminated: write protocol: TLS")
        elif tls.mode == "Terminate" and not tls.certificate_refs:
            yield Finding((*path, "tls"), "certificateRefs is needed to terminate TLS")
        for j, ref in enumerate(tls.certificate_refs if tls is not None else ()):
            known = (("", "Secret"), (OUR_GROUP, "File"))
            if (ref.group, ref.kind) not in known:
                where = (*path, "tls", "certificateRefs", j)
                yield Finding(where, f"write group: {OUR_GROUP}, kind: File, name: PATH")
        allowed = listener.allowed_routes.namespaces
        if (allowed.from_ == "Selector") != (allowed.selector is not None):
            where = (*path, "allowedRoutes", "namespaces")
            yield Finding(where, "from: Selector and selector go together")


def _policy(policy: TrafficPolicy | XBackendTrafficPolicy) -> Iterator[Finding]:
    kinds = [kind for _, kind in TARGETS]
    for i, ref in enumerate(policy.spec.target_refs):
        if (ref.group, ref.kind) not in TARGETS:
            hint = near(ref.kind, kinds) if ref.kind not in kinds else ""
            if ref.kind == "Service":
                hint = '; write group: ""'
            elif ref.kind == "HTTPRoute":
                hint = f"; write group: {GATEWAY_GROUP}"
            path: Path = ("spec", "targetRefs", i)
            yield Finding(path, f"{ref.kind} of {ref.group!r} can't be a target{hint}")
        elif ref.kind == "HTTPRoute" and isinstance(policy, XBackendTrafficPolicy):
            path = ("spec", "targetRefs", i)
            yield Finding(path, "an XBackendTrafficPolicy is for Services")
    if isinstance(policy, XBackendTrafficPolicy):
        yield from _session(policy.spec.session_persistence, ("spec", "sessionPersistence"))
        constraint = policy.spec.retry_constraint
        if constraint is not None:
            path = ("spec", "retryConstraint")
            if not 1 <= constraint.budget.interval <= 3600:
                yield Finding((*path, "budget", "interval"), "must be from 1s to 1h")
            if not 1 <= constraint.min_retry_rate.interval <= 3600:
                yield Finding((*path, "minRetryRate", "interval"), "must be from 1s to 1h")
    else:
        yield from _traffic(policy.spec)


def _traffic(spec: TrafficSpec) -> Iterator[Finding]:
    times = spec.timeouts
    if times is not None and _longer(times.backend_request, times.request):
        path: Path = ("spec", "timeouts", "backendRequest")
        yield Finding(path, f"is longer than request ({times.request})")
    balancing = spec.load_balancing
    if balancing is not None:
        path = ("spec", "loadBalancing")
        hashes = balancing.algorithm in ("RingHash", "Maglev")
        if hashes and balancing.hash_on is None:
            yield Finding(path, f"{balancing.algorithm} needs 'hashOn'")
        if balancing.hash_on is not None:
            if not hashes:
                yield Finding((*path, "hashOn"), "goes with RingHash and Maglev only")
            named = balancing.hash_on.type in ("Header", "Cookie")
            if named != (balancing.hash_on.name is not None):
                yield Finding((*path, "hashOn"), "Header and Cookie need a name, others have none")
    outlier = spec.outlier_detection
    if outlier is not None and _longer(outlier.base_ejection, outlier.max_ejection):
        yield Finding(("spec", "outlierDetection", "maxEjection"), "is below baseEjection")
    health = spec.health_check
    if health is not None:
        path = ("spec", "healthCheck")
        if health.http is not None and health.type != "HTTP":
            yield Finding((*path, "http"), "goes with the type HTTP only")
        if health.type != "None" and not 0 < health.timeout <= health.interval:
            yield Finding((*path, "timeout"), "must be above 0 and not above the interval")
    for i, limit in enumerate(spec.rate_limits or ()):
        path = ("spec", "rateLimits", i)
        if (limit.by == "Header") != (limit.header is not None):
            yield Finding(path, "by: Header and header go together")
        if not limit.rate.interval:
            yield Finding((*path, "rate", "interval"), "must be above 0")
    fault = spec.fault_injection
    if fault is not None and fault.delay is None and fault.abort is None:
        yield Finding(("spec", "faultInjection"), "needs 'delay' or 'abort'")
    if spec.hedging is not None and not spec.hedging.after:
        yield Finding(("spec", "hedging", "after"), "must be above 0")


def _longer(one: float | None, other: float | None) -> bool:
    """Both are set and limit something (0: no limit), and the first is longer."""
    return bool(one and other and one > other)
