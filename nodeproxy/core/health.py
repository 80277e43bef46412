"""Passive health: what an endpoint's answers say about it, and when it is ejected.

Consecutive failures only (Envoy's outlier detection without the statistical detectors). An
ejected endpoint comes back by itself when its time is over; the next real request is the probe.
"""

from __future__ import annotations

from nodeproxy.core.policy import Outlier

__all__ = ["Health", "ejection_allowed"]


class Health:
    """One endpoint's run of failures. Times are monotonic seconds."""

    __slots__ = ("ejected", "ejected_until", "ejections", "failures_5xx", "failures_gateway",
                 "last_failure")  # fmt: skip

    def __init__(self) -> None:
        self.failures_5xx = 0
        self.failures_gateway = 0
        self.ejections = 0
        """How often in a row it was ejected: each time is longer."""
        self.ejected = False
        """It is left out until ``readmitted``."""
        self.ejected_until = 0.0
        self.last_failure = ""
        """For people: what went wrong last, empty if nothing did."""

    def succeeded(self) -> None:
        """An answer below 500, or a TCP connection that was made."""
        self.failures_5xx = self.failures_gateway = 0

    def failed(self, status: int, why: str, outlier: Outlier) -> bool:
        """An answer of 500 or above (a connect failure is 503). True: it should be ejected."""
        self.last_failure = why
        self.failures_5xx += 1
        if status in (502, 503, 504):
            self.failures_gateway += 1
        else:
            self.failures_gateway = 0
        return (
            0 < outlier.consecutive_5xx <= self.failures_5xx
            or 0 < outlier.consecutive_gateway_failures <= self.failures_gateway
        )

    def eject(self, now: float, outlier: Outlier) -> float:
        """Eject it. Returns until when."""
        if now >= self.ejected_until + outlier.max_ejection:
            self.ejections = 0  # it behaved for long enough: begin anew
        self.ejected = True
        self.ejections += 1
        self.failures_5xx = self.failures_gateway = 0
        self.ejected_until = now + min(outlier.base_ejection * self.ejections, outlier.max_ejection)
        return self.ejected_until

    def readmitted(self, now: float) -> bool:
        """Whether its ejection has just come to its end. True once for each."""
        if self.ejected and now >= self.ejected_until:
            self.ejected = False
            return True
        return False


def ejection_allowed(total: int, ejected: int, outlier: Outlier) -> bool:
    """Whether one more of ``total`` endpoints may be ejected when ``ejected`` are already."""
    if ejected + 1 >= total:
        return False  # never the last one
    return ejected == 0 or (ejected + 1) * 100 <= total * outlier.max_ejection_percent
