"""Policies: the Gateway API's XBackendTrafficPolicy and our TrafficPolicy.

A TrafficPolicy is for Services or HTTPRoutes of its own namespace (with ``sectionName``: for one
port by name, or one rule by name). Every field is optional; what is set nowhere comes from
``traffic:`` of nodeproxy.yaml. See :mod:`nodeproxy.core.routing.policies` for which one counts.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from nodeproxy.core.routing.httproute import SessionPersistence
from nodeproxy.core.routing.schema import (
    HeaderName,
    Metadata,
    PortNumber,
    Spec,
    Status,
    TargetRef,
    Timestamp,
)
from registry.duration import Duration

__all__ = ["TrafficPolicy", "TrafficSpec", "XBackendTrafficPolicy"]

Percent = Annotated[int, Meta(ge=0, le=100)]
Exactly = Annotated[float, Meta(ge=0, le=100)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
CountOrOff = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Targets = Annotated[tuple[TargetRef, ...], Meta(min_length=1, max_length=16)]


class Budget(Spec, frozen=True, kw_only=True, omit_defaults=True):
    percent: Percent = 20
    interval: Duration = Duration("10s")


class Rate(Spec, frozen=True, kw_only=True, omit_defaults=True):
    count: Annotated[int, Meta(ge=1, le=1_000_000)] = 10
    interval: Duration = Duration("1s")


class RetryConstraint(Spec, frozen=True, kw_only=True, omit_defaults=True):
    budget: Budget = Budget()
    min_retry_rate: Rate = Rate()


class XBackendSpec(Spec, frozen=True, kw_only=True, omit_defaults=True):
    target_refs: Targets
    retry_constraint: RetryConstraint | None = None
    session_persistence: SessionPersistence | None = None


class XBackendTrafficPolicy(
    Spec, frozen=True, kw_only=True, tag_field="kind", tag="XBackendTrafficPolicy"
):
    api_version: Literal["gateway.networking.x-k8s.io/v1alpha1"]
    metadata: Metadata
    spec: XBackendSpec
    status: Status | None = None


class Timeouts(Spec, frozen=True, kw_only=True, omit_defaults=True):
    connect: Duration | None = None
    """For one attempt to connect."""
    request: Duration | None = None
    """The whole exchange with all its retries; 0s: no limit."""
    backend_request: Duration | None = None
    """One attempt; 0s: no limit."""
    idle: Duration | None = None
    """A TCP connection without a byte."""


RetryOn = Literal["ConnectFailure", "Reset", "Timeout", "5xx", "GatewayError", "RetriableHeader"]


class Retry(Spec, frozen=True, kw_only=True, omit_defaults=True):
    on: tuple[RetryOn, ...] | None = None
    codes: tuple[Annotated[int, Meta(ge=400, le=599)], ...] | None = None
    attempts: CountOrOff | None = None
    """Retries, not tries; 0: none."""
    backoff: Duration | None = None
    max_backoff: Duration | None = None
    body_limit: CountOrOff | None = None
    """Bytes of a request's body that are kept for another try."""


class SlowStart(Spec, frozen=True, kw_only=True, omit_defaults=True):
    window: Duration
    aggression: Annotated[float, Meta(gt=0, le=100)] = 1.0
    minimum_percent: Percent = 10


class LocalityPreference(Spec, frozen=True, kw_only=True, omit_defaults=True):
    prefer: Literal["None", "Zone", "Node"] = "None"
    spill_percent: Annotated[int, Meta(ge=100, le=1000)] = 140


class HashOn(Spec, frozen=True, kw_only=True, omit_defaults=True):
    type: Literal["Header", "Cookie", "Source", "Path"]
    name: HeaderName | None = None


class LoadBalancing(Spec, frozen=True, kw_only=True, omit_defaults=True):
    algorithm: (
        Literal["LeastRequest", "RoundRobin", "Random", "PeakEwma", "RingHash", "Maglev"] | None
    ) = None
    hash_on: HashOn | None = None
    slow_start: SlowStart | None = None
    locality: LocalityPreference | None = None
    panic_percent: Percent | None = None
    """Below this share of healthy endpoints, all take part; 0: never."""
    subset: dict[str, str] | None = None
    """Only endpoints with these labels."""


class SuccessRate(Spec, frozen=True, kw_only=True, omit_defaults=True):
    interval: Duration = Duration("10s")
    minimum_hosts: Count = 5
    request_volume: Count = 100
    stdev_factor: Annotated[float, Meta(gt=0, le=10)] = 1.9


class OutlierDetection(
    Spec,
    frozen=True,
    omit_defaults=True,
    rename={
        "consecutive_5xx": "consecutive5xx",
        "consecutive_gateway_failures": "consecutiveGatewayFailures",
        "base_ejection": "baseEjection",
        "max_ejection": "maxEjection",
        "max_ejection_percent": "maxEjectionPercent",
        "success_rate": "successRate",
    },
):
    consecutive_5xx: CountOrOff | None = None
    consecutive_gateway_failures: CountOrOff | None = None
    base_ejection: Duration | None = None
    max_ejection: Duration | None = None
    max_ejection_percent: Percent | None = None
    success_rate: SuccessRate | None = None


class CircuitBreaker(Spec, frozen=True, kw_only=True, omit_defaults=True):
    max_connections: Count | None = None
    max_pending: Count | None = None
    max_requests: Count | None = None


class HttpCheck(Spec, frozen=True, kw_only=True, omit_defaults=True):
    path: Annotated[str, Meta(max_length=1024, pattern="^/")] = "/"
    host: str | None = None
    statuses: tuple[Annotated[int, Meta(ge=100, le=599)], ...] = (200,)


class HealthCheck(Spec, frozen=True, kw_only=True, omit_defaults=True):
    type: Literal["HTTP", "TCP", "None"]
    http: HttpCheck | None = None
    port: PortNumber | None = None
    interval: Duration = Duration("10s")
    timeout: Duration = Duration("1s")
    healthy_threshold: Count = 2
    unhealthy_threshold: Count = 3
    jitter_percent: Percent = 10
    idle_interval: Duration = Duration("1m")
    """Between checks of endpoints that have no traffic from here."""


class Hedging(Spec, frozen=True, kw_only=True, omit_defaults=True):
    after: Duration
    """A second try starts when the first has not answered by then."""
    max_extra: Annotated[int, Meta(ge=1, le=3)] = 1


class RateLimit(Spec, frozen=True, kw_only=True, omit_defaults=True):
    by: Literal["Service", "Client", "Header"] = "Service"
    header: HeaderName | None = None
    rate: Rate
    burst: Count = 1


class Gate(Spec, frozen=True, kw_only=True):
    name: HeaderName
    value: Annotated[str, Meta(min_length=1, max_length=4096)]


class Delay(Spec, frozen=True, kw_only=True, omit_defaults=True):
    duration: Duration
    percent: Exactly = 100.0


class Abort(Spec, frozen=True, kw_only=True, omit_defaults=True):
    status: Annotated[int, Meta(ge=400, le=599)]
    percent: Exactly = 100.0


class FaultInjection(Spec, frozen=True, kw_only=True, omit_defaults=True):
    until: Timestamp
    """When it ends by itself: a fault that is forgotten is an outage."""
    header: Gate | None = None
    """Only requests with this header."""
    delay: Delay | None = None
    abort: Abort | None = None


class Connections(Spec, frozen=True, kw_only=True, omit_defaults=True):
    max_age: Duration | None = None
    jitter_percent: Percent | None = None
    idle: Duration | None = None
    """How long an idle connection to an endpoint is kept."""


class TrafficSpec(Spec, frozen=True, kw_only=True, omit_defaults=True):
    target_refs: Targets
    timeouts: Timeouts | None = None
    retry: Retry | None = None
    load_balancing: LoadBalancing | None = None
    outlier_detection: OutlierDetection | None = None
    circuit_breaker: CircuitBreaker | None = None
    health_check: HealthCheck | None = None
    hedging: Hedging | None = None
    rate_limits: Annotated[tuple[RateLimit, ...], Meta(max_length=8)] | None = None
    fault_injection: FaultInjection | None = None
    connections: Connections | None = None


class TrafficPolicy(Spec, frozen=True, kw_only=True, tag_field="kind", tag="TrafficPolicy"):
    api_version: Literal["nodeproxy.dev/v1alpha1"]
    metadata: Metadata
    spec: TrafficSpec
    status: Status | None = None
