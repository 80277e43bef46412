"""Which policy's fields count for a service or a route.

Field by field, the first that sets it wins: a rule's own fields (``timeouts``, ``retry``), then
policies for the HTTPRoute's rule by name, for the HTTPRoute, for the Service's port by name, for
the Service. Of several policies for one target the oldest wins, then the first by name, as for
routes. What nobody sets comes from ``traffic:`` of nodeproxy.yaml.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from nodeproxy.core.routing.objects import Loaded, Objects
from nodeproxy.core.routing.policyobjects import (
    TrafficPolicy,
    XBackendTrafficPolicy,
)
from nodeproxy.core.routing.schema import GATEWAY_GROUP

__all__ = ["NO_POLICY", "EffectivePolicy", "PolicyIndex"]

_SECTIONS: Final = (
    "timeouts",
    "retry",
    "load_balancing",
    "outlier_detection",
    "circuit_breaker",
    "health_check",
    "hedging",
    "rate_limits",
    "fault_injection",
    "connections",
)
_BY_FIELD: Final = frozenset(
    ("timeouts", "retry", "load_balancing", "outlier_detection", "circuit_breaker", "connections")
)
"""Sections of which each field counts for itself. The others count as a whole: half a health
check of one policy and half of another would be a check that nobody wrote."""


class Setting(msgspec.Struct, frozen=True, gc=False):
    """A value, and who says so."""

    value: Any
    origin: str
    """``TrafficPolicy shop/web (policies.yaml:3)``"""


class EffectivePolicy(msgspec.Struct, frozen=True, gc=False):
    """All that is set for one target: ``timeouts.connect`` -> Setting. Compared by value."""

    settings: dict[str, Setting] = msgspec.field(default_factory=dict)

    def get(self, field: str, default: Any = None) -> Any:
        """The value of ``timeouts.connect``, or ``hedging`` as a whole."""
        found = self.settings.get(field)
        return default if found is None else found.value

    def origin(self, field: str) -> str:
        """Who sets a field; empty: nobody."""
        found = self.settings.get(field)
        return "" if found is None else found.origin

    def over(self, below: EffectivePolicy) -> EffectivePolicy:
        """Both; where both set a field, this one counts."""
        if not self.settings:
            return below
        if not below.settings:
            return self
        return EffectivePolicy({**below.settings, **self.settings})


NO_POLICY: Final = EffectivePolicy()

Target = tuple[str, str, str]
"""Kind, ``namespace/name``, section or empty."""


class PolicyIndex:
    """All policies by what they are for."""

    def __init__(self, objects: Objects) -> None:
        found: dict[Target, list[Loaded]] = {}
        policies: list[tuple[Loaded, TrafficPolicy | XBackendTrafficPolicy]] = [
            *objects.of(TrafficPolicy),
            *objects.of(XBackendTrafficPolicy),
        ]
        for loaded, policy in policies:
            for ref in policy.spec.target_refs:
                kind = ref.kind if (ref.group, ref.kind) in TARGETS else ""
                name = f"{policy.metadata.namespace}/{ref.name}"
                found.setdefault((kind, name, ref.section_name or ""), []).append(loaded)
        for policies_of in found.values():
            policies_of.sort(key=lambda one: one.object.metadata.age)
        self._found = found
        self._merged: dict[Target, EffectivePolicy] = {}

    def targets(self) -> Iterable[tuple[Target, list[Loaded]]]:
        return self._found.items()

    def _of(self, target: Target) -> EffectivePolicy:
        if target not in self._found:
            return NO_POLICY
        if target not in self._merged:
            merged: dict[str, Setting] = {}
            for loaded in self._found[target]:
                for field, setting in _settings(loaded):
                    merged.setdefault(field, setting)
            self._merged[target] = EffectivePolicy(merged)
        return self._merged[target]

    def service(self, name: str, port_name: str = "") -> EffectivePolicy:
        """For a port of a service."""
        whole = self._of(("Service", name, ""))
        return self._of(("Service", name, port_name)).over(whole) if port_name else whole

    def route(self, name: str, rule: str = "") -> EffectivePolicy:
        """For a rule of an HTTPRoute."""
        whole = self._of(("HTTPRoute", name, ""))
        return self._of(("HTTPRoute", name, rule)).over(whole) if rule else whole


TARGETS: Final = frozenset((("", "Service"), (GATEWAY_GROUP, "HTTPRoute")))


def _settings(loaded: Loaded) -> Iterable[tuple[str, Setting]]:
    policy = loaded.object
    origin = f"{loaded.key} ({loaded.origin})"
    if isinstance(policy, XBackendTrafficPolicy):
        if policy.spec.retry_constraint is not None:
            yield "retry_constraint", Setting(policy.spec.retry_constraint, origin)
        if policy.spec.session_persistence is not None:
            yield "session_persistence", Setting(policy.spec.session_persistence, origin)
    elif isinstance(policy, TrafficPolicy):
        for section in _SECTIONS:
            value = getattr(policy.spec, section)
            if value is None:
                continue
            if section not in _BY_FIELD:
                yield section, Setting(value, origin)
                continue
            for field in value.__struct_fields__:
                part = getattr(value, field)
                if part is not None:
                    yield f"{section}.{field}", Setting(part, origin)
