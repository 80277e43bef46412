"""Nothing that has no effect is taken in silence."""

from __future__ import annotations

from typing import Any

import pytest

from nodeproxy.core.routing.uncarried import uncarried
from tests.unit.routing_samples import load, parent, route, rule


def policy(kind: str = "HTTPRoute", **spec: Any) -> dict[str, Any]:
    group = "" if kind == "Service" else "gateway.networking.k8s.io"
    return {
        "apiVersion": "nodeproxy.dev/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {"targetRefs": [{"group": group, "kind": kind, "name": "r"}], **spec},
    }


BACKEND = {"name": "v1", "port": 80}
GATEWAY = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "Gateway",
    "metadata": {"name": "g", "namespace": "shop"},
    "spec": {
        "gatewayClassName": "nodeproxy",
        "listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}],
    },
}


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (GATEWAY, "kind"),
        (
            route(
                {"backendRefs": [{"name": "v1", "port": 80}]}, kind="TLSRoute", hostnames=["a.b"]
            ),
            "kind",
        ),
        (route(rule(), parents=[parent(namespace="other")]), "spec.parentRefs[0]"),
        (
            route(rule(sessionPersistence={"type": "Cookie"})),
            "spec.rules[0].sessionPersistence",
        ),
        (policy("Service", timeouts={"request": "1s"}), "spec.targetRefs"),
        (policy(timeouts={"connect": "1s"}), "spec.timeouts.connect"),
        (policy(hedging={"after": "50ms"}), "spec.hedging"),
        (policy(circuitBreaker={"maxRequests": 1}), "spec.circuitBreaker"),
    ],
)
def test_what_has_no_effect_is_warned_of(made: dict[str, Any], field: str) -> None:
    (told,) = uncarried(load(made))
    assert told.field == field
    assert "not carried yet" in told.message


def test_what_is_carried_is_not() -> None:
    made = [
        route(rule(timeouts={"request": "1s"}, retry={"codes": [503]}), name="r"),
        route({"backendRefs": [{"name": "v1", "port": 80}]}, kind="TCPRoute", name="t"),
        policy(timeouts={"request": "5s"}, retry={"on": ["5xx", "Timeout"], "attempts": 2}),
    ]
    assert list(uncarried(load(*made))) == []
