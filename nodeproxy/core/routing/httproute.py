"""HTTPRoute, as kubernetes-sigs/gateway-api ``apis/v1/httproute_types.go`` has it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from nodeproxy.core.routing.schema import (
    BackendObjectRef,
    BackendRef,
    HeaderName,
    Hostname,
    Metadata,
    ObjectRef,
    ParentRef,
    PortNumber,
    PreciseHostname,
    SectionName,
    Spec,
    Status,
)
from registry.duration import Duration

__all__ = [
    "CorsFilter",
    "Filter",
    "HTTPRoute",
    "HeaderFilter",
    "HeaderMatch",
    "HttpBackendRef",
    "HttpRule",
    "Match",
    "MirrorFilter",
    "PathMatch",
    "PathModifier",
    "QueryParamMatch",
    "RedirectFilter",
    "RetrySpec",
    "RewriteFilter",
    "SessionPersistence",
    "TimeoutsSpec",
]

Method = Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]
HeaderValue = Annotated[
    str, Meta(min_length=1, max_length=4096, pattern=r"^[^\x00-\x08\x0a-\x1f\x7f]*$")
]


class PathMatch(Spec, frozen=True, kw_only=True, omit_defaults=True):
    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: Annotated[str, Meta(max_length=1024)] = "/"


class HeaderMatch(Spec, frozen=True, kw_only=True, omit_defaults=True):
    type: Literal["Exact", "RegularExpression"] = "Exact"
    name: HeaderName
    value: Annotated[str, Meta(min_length=1, max_length=4096)]


class QueryParamMatch(Spec, frozen=True, kw_only=True, omit_defaults=True):
    type: Literal["Exact", "RegularExpression"] = "Exact"
    name: HeaderName
    value: Annotated[str, Meta(min_length=1, max_length=1024)]


class Match(Spec, frozen=True, kw_only=True, omit_defaults=True):
    """Its conditions are ANDed; the matches of a rule are ORed."""

    path: PathMatch = PathMatch()
    headers: Annotated[tuple[HeaderMatch, ...], Meta(max_length=16)] = ()
    query_params: Annotated[tuple[QueryParamMatch, ...], Meta(max_length=16)] = ()
    method: Method | None = None


class Header(Spec, frozen=True, kw_only=True):
    name: HeaderName
    value: HeaderValue


class HeaderFilter(Spec, frozen=True, kw_only=True, omit_defaults=True):
    set: Annotated[tuple[Header, ...], Meta(max_length=16)] = ()
    add: Annotated[tuple[Header, ...], Meta(max_length=16)] = ()
    remove: Annotated[tuple[HeaderName, ...], Meta(max_length=16)] = ()


class PathModifier(Spec, frozen=True, kw_only=True, omit_defaults=True):
    type: Literal["ReplaceFullPath", "ReplacePrefixMatch"]
    replace_full_path: Annotated[str, Meta(max_length=1024)] | None = None
    replace_prefix_match: Annotated[str, Meta(max_length=1024)] | None = None


class RedirectFilter(Spec, frozen=True, kw_only=True, omit_defaults=True):
    scheme: Literal["http", "https"] | None = None
    hostname: PreciseHostname | None = None
    path: PathModifier | None = None
    port: PortNumber | None = None
    status_code: Literal[301, 302, 303, 307, 308] = 302


class RewriteFilter(Spec, frozen=True, kw_only=True, omit_defaults=True):
    hostname: PreciseHostname | None = None
    path: PathModifier | None = None


class Fraction(Spec, frozen=True, kw_only=True, omit_defaults=True):
    numerator: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    denominator: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 100


class MirrorFilter(Spec, frozen=True, kw_only=True, omit_defaults=True):
    backend_ref: BackendObjectRef
    percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    fraction: Fraction | None = None


Origin = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=253,
        pattern=r"^\*$|^[a-zA-Z][a-zA-Z0-9+\-.]*://[^:/?#\s]+(:[0-9]{1,5})?$",
    ),
]
HeaderOrStar = HeaderName
"""``*`` is a header name by its grammar."""


class CorsFilter(Spec, frozen=True, kw_only=True, omit_defaults=True):
    allow_origins: Annotated[tuple[Origin, ...], Meta(max_length=64)] = ()
    allow_credentials: bool = False
    allow_methods: Annotated[tuple[Method | Literal["*"], ...], Meta(max_length=9)] = ()
    allow_headers: Annotated[tuple[HeaderOrStar, ...], Meta(max_length=64)] = ()
    expose_headers: Annotated[tuple[HeaderOrStar, ...], Meta(max_length=64)] = ()
    max_age: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 5


FilterType = Literal[
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestMirror",
    "RequestRedirect",
    "URLRewrite",
    "CORS",
    "ExternalAuth",
    "ExtensionRef",
]


class Filter(
    Spec,
    frozen=True,
    omit_defaults=True,
    rename=lambda name: (
        {"url_rewrite": "urlRewrite"}.get(name)
        or name.split("_")[0] + "".join(p.title() for p in name.split("_")[1:])
    ),
):
    """One of the fields is set: the one that ``type`` names."""

    type: FilterType
    request_header_modifier: HeaderFilter | None = None
    response_header_modifier: HeaderFilter | None = None
    request_mirror: MirrorFilter | None = None
    request_redirect: RedirectFilter | None = None
    url_rewrite: RewriteFilter | None = None
    cors: CorsFilter | None = None
    external_auth: dict[str, Any] | None = None
    """Not done here: such a rule answers 500, as the API says that it must fail closed."""
    extension_ref: ObjectRef | None = None


Filters = Annotated[tuple[Filter, ...], Meta(max_length=16)]


class HttpBackendRef(BackendRef, frozen=True, kw_only=True, omit_defaults=True):
    filters: Filters = ()


class TimeoutsSpec(Spec, frozen=True, kw_only=True, omit_defaults=True):
    request: Duration | None = None
    backend_request: Duration | None = None


class RetrySpec(Spec, frozen=True, kw_only=True, omit_defaults=True):
    codes: tuple[Annotated[int, Meta(ge=400, le=599)], ...] = ()
    attempts: Annotated[int, Meta(ge=1, le=100)] | None = None
    backoff: Duration | None = None


class CookieConfig(Spec, frozen=True, kw_only=True, omit_defaults=True):
    lifetime_type: Literal["Session", "Permanent"] = "Session"


class SessionPersistence(Spec, frozen=True, kw_only=True, omit_defaults=True):
    session_name: (
        Annotated[str, Meta(max_length=128, pattern=r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]*$")] | None
    ) = None
    absolute_timeout: Duration | None = None
    idle_timeout: Duration | None = None
    type: Literal["Cookie", "Header"] = "Cookie"
    cookie_config: CookieConfig | None = None


class HttpRule(Spec, frozen=True, kw_only=True, omit_defaults=True):
    name: SectionName | None = None
    matches: Annotated[tuple[Match, ...], Meta(max_length=64)] = (Match(),)
    filters: Filters = ()
    backend_refs: Annotated[tuple[HttpBackendRef, ...], Meta(max_length=16)] = ()
    timeouts: TimeoutsSpec | None = None
    retry: RetrySpec | None = None
    session_persistence: SessionPersistence | None = None


class HttpSpec(Spec, frozen=True, kw_only=True, omit_defaults=True):
    parent_refs: Annotated[tuple[ParentRef, ...], Meta(max_length=32)] = ()
    hostnames: Annotated[tuple[Hostname, ...], Meta(max_length=16)] = ()
    rules: Annotated[tuple[HttpRule, ...], Meta(min_length=1, max_length=16)] = (HttpRule(),)


class HTTPRoute(Spec, frozen=True, kw_only=True, tag_field="kind", tag="HTTPRoute"):
    api_version: Literal["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"]
    metadata: Metadata
    spec: HttpSpec
    status: Status | None = None
