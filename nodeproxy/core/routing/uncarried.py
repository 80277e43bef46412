"""What is valid and yet has no effect in this version: nobody shall believe that it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nodeproxy.core.routing.gateway import Gateway
from nodeproxy.core.routing.httproute import HTTPRoute
from nodeproxy.core.routing.objects import Loaded, Objects
from nodeproxy.core.routing.otherroutes import TLSRoute
from nodeproxy.core.routing.policyobjects import TrafficPolicy, XBackendTrafficPolicy
from registry.base import Problem

__all__ = ["uncarried", "uncarried_of"]

_SECTIONS: Final = {
    "load_balancing": "loadBalancing",
    "outlier_detection": "outlierDetection",
    "circuit_breaker": "circuitBreaker",
    "health_check": "healthCheck",
    "hedging": "hedging",
    "rate_limits": "rateLimits",
    "fault_injection": "faultInjection",
    "connections": "connections",
}
NOT_YET: Final = "is not carried yet"


def uncarried(objects: Objects) -> Iterator[Problem]:
    """A warning for each object, or part of one, that no traffic follows."""
    for loaded in objects.all:
        yield from uncarried_of(loaded)


def uncarried_of(loaded: Loaded) -> Iterator[Problem]:
    """The same of one object."""
    one = loaded.object
    if isinstance(one, Gateway):
        yield loaded.problem(f"a Gateway {NOT_YET}: nothing listens for it", "kind")
    elif isinstance(one, TLSRoute):
        message = f"TLSRoute {NOT_YET}: connections go to the service's own endpoints"
        yield loaded.problem(message, "kind")
    elif isinstance(one, HTTPRoute):
        for i, rule in enumerate(one.spec.rules):
            if rule.session_persistence is not None:
                field = f"spec.rules[{i}].sessionPersistence"
                yield loaded.problem(f"sessionPersistence {NOT_YET}", field, i)
        home = one.metadata.namespace
        for i, ref in enumerate(one.spec.parent_refs):
            if ref.is_service and ref.full_name(home).partition("/")[0] != home:
                message = f"a consumer's route {NOT_YET}: the namespaces of clients are not known"
                yield loaded.problem(message, f"spec.parentRefs[{i}]")
    elif isinstance(one, XBackendTrafficPolicy):
        yield loaded.problem(f"XBackendTrafficPolicy {NOT_YET}", "kind")
    elif isinstance(one, TrafficPolicy):
        yield from _policy(loaded, one)


def _policy(loaded: Loaded, policy: TrafficPolicy) -> Iterator[Problem]:
    spec = policy.spec
    if any(ref.kind == "Service" for ref in spec.target_refs):
        yield loaded.problem(f"a policy for a Service {NOT_YET}", "spec.targetRefs")
    for section, name in _SECTIONS.items():
        if getattr(spec, section):
            yield loaded.problem(f"{name} {NOT_YET}", f"spec.{name}")
    if spec.timeouts is not None:
        for name in ("connect", "idle"):
            if getattr(spec.timeouts, name) is not None:
                yield loaded.problem(f"timeouts.{name} {NOT_YET}", f"spec.timeouts.{name}")
    if spec.retry is not None and "RetriableHeader" in (spec.retry.on or ()):
        yield loaded.problem(f"RetriableHeader {NOT_YET}", "spec.retry.on")
