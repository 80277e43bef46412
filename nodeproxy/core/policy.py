"""How traffic to a service is treated: frozen values with the defaults of the field."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["DEFAULT", "Balance", "Outlier", "Policy"]

Balance = Literal["least_request", "round_robin", "random"]


class Outlier(msgspec.Struct, frozen=True):
    """When an endpoint that fails is left out for a while. Envoy's terms and, where they are
    not said otherwise, its defaults."""

    consecutive_5xx: int = 5
    """Answers 5xx in a row (connect failures count as 503); 0: never."""
    consecutive_gateway_failures: int = 5
    """Answers 502, 503, 504 and connect failures in a row; 0: never."""
    base_ejection: float = 30.0
    """Seconds of the first ejection; the n-th lasts n times as long."""
    max_ejection: float = 300.0
    """Seconds; no ejection lasts longer."""
    max_ejection_percent: int = 30
    """Share of a service's endpoints that may be out at once; one may always be, and the last
    one never is."""


class Policy(msgspec.Struct, frozen=True):
    """All settings of one service's traffic. Times are seconds; 0 means no limit where the
    text says so."""

    balance: Balance = "least_request"
    connect_timeout: float = 1.0
    connect_tries: int = 3
    """Endpoints tried before a request is given up while nothing has been sent."""
    max_connections: int = 1024
    """Connections to all endpoints of one service port."""
    idle_connections: int = 64
    """Idle connections kept for one endpoint."""
    idle_timeout: float = 60.0
    """How long an idle connection to an endpoint is kept."""
    response_timeout: float = 0.0
    """From the request's end to the response's head; 0: no limit."""
    body_timeout: float = 300.0
    """Longest silence within a body."""
    outlier: Outlier = Outlier()


DEFAULT = Policy()
