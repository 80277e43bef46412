"""A rule, compiled: what is to be done with a request that it matches. All values are frozen."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Final

import msgspec

from nodeproxy.core.routing.cors import Cors
from nodeproxy.core.routing.edits import Edits
from nodeproxy.core.routing.objects import Key
from nodeproxy.core.routing.paths import Redirect, Rewrite
from nodeproxy.core.routing.policies import NO_POLICY, EffectivePolicy
from nodeproxy.core.routing.session import Session

__all__ = [
    "Backend",
    "Backends",
    "Decision",
    "Mirror",
    "RetrySettings",
    "Rule",
    "Timeouts",
]


class Timeouts(msgspec.Struct, frozen=True, gc=False):
    """Seconds; 0: no limit; None: nothing is said, so the service's own settings count."""

    request: float | None = None
    backend_request: float | None = None


RETRY_ON: Final = frozenset(("ConnectFailure", "Reset"))
BODY_LIMIT: Final = 65536


class RetrySettings(msgspec.Struct, frozen=True, gc=False):
    """What is tried again, and how."""

    attempts: int
    """Retries after the first try."""
    codes: frozenset[int]
    backoff: float = 0.025
    """Seconds; the wait before the first retry is at least that."""
    max_backoff: float = 0.25
    on: frozenset[str] = RETRY_ON
    """Reasons besides the codes: ``ConnectFailure``, ``Reset``, ``Timeout``, ``5xx``, ..."""
    body_limit: int = BODY_LIMIT
    """Bytes of a request's body that are kept for another try; a longer one is not tried again."""


class Filtering(msgspec.Struct, frozen=True, gc=False):
    """What filters do to a request and its answer; of a rule, or of one backend."""

    request: Edits | None = None
    response: Edits | None = None
    rewrite: Rewrite | None = None
    redirect: Redirect | None = None
    mirrors: tuple[Mirror, ...] = ()
    cors: Cors | None = None
    failure: str = ""
    """Why nothing may be forwarded (ExtensionRef, ExternalAuth): 500."""


NO_FILTERS: Final = Filtering()


class Backend(msgspec.Struct, frozen=True, gc=False):
    """Where a share of the traffic goes."""

    service: str
    """``namespace/name``"""
    port: int
    weight: int = 1
    problem: str = ""
    """Why it can't be used, whatever the registry knows; else empty."""
    filters: Filtering = NO_FILTERS
    index: int = 0
    """Its place among the rule's backendRefs."""
    reason: str = ""
    """Of the condition ResolvedRefs: ``InvalidKind``, ``RefNotPermitted``."""

    @property
    def label(self) -> str:
        return f"{self.service}:{self.port}"


class Mirror(msgspec.Struct, frozen=True, gc=False):
    """A copy of some requests; its answer is thrown away."""

    backend: Backend
    fraction: float = 1.0

    def wants(self, drawn: float) -> bool:
        """``drawn``: a random number in [0, 1)."""
        return drawn < self.fraction


class Backends(msgspec.Struct, frozen=True, gc=False):
    """The backends of a rule, ready for drawing."""

    entries: tuple[Backend, ...] = ()
    single: Backend | None = None
    """The one that takes all traffic, if there is such a one."""
    _bounds: tuple[int, ...] = ()
    total: int = 0

    def draw(self, drawn: float) -> Backend | None:
        """The backend for a random number in [0, 1), by weight. None: no backend at all, or
        none with a weight; the answer is 500, as for a backend that has a ``problem``."""
        if self.single is not None:
            return self.single
        if not self.total:
            return None
        return self.entries[bisect_right(self._bounds, int(drawn * self.total))]

    def share(self, backend: Backend) -> float:
        """Its part of the traffic."""
        return backend.weight / self.total if self.total else 0.0


def backends(entries: tuple[Backend, ...]) -> Backends:
    bounds = tuple(accumulate(entry.weight for entry in entries))
    total = bounds[-1] if bounds else 0
    weighty = [entry for entry in entries if entry.weight]
    return Backends(entries, weighty[0] if len(weighty) == 1 else None, bounds, total)


NO_TIMEOUTS: Final = Timeouts()


class Rule(msgspec.Struct, frozen=True, gc=False):
    """One rule of one HTTPRoute."""

    route: Key
    index: int
    backends: Backends
    filters: Filtering = NO_FILTERS
    timeouts: Timeouts = NO_TIMEOUTS
    retry: RetrySettings | None = None
    session: Session | None = None
    policy: EffectivePolicy = NO_POLICY
    """What TrafficPolicies for this route say."""
    name: str = ""
    origin: str = ""
    """``routes.yaml:12``"""
    plain: bool = True
    """Neither the rule nor a backend of it changes requests or answers."""

    @property
    def label(self) -> str:
        """The metric label ``route_rule``: the rule's name, or the route's and its number."""
        return self.name or f"{self.route.namespace}/{self.route.name}/{self.index}"


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Which rule a request takes, and by which of its matches. Made at compile time."""

    rule: Rule
    match: int
    """Index in the rule's matches."""
    prefix: bytes = b""
    """The path prefix that matched, for ReplacePrefixMatch."""
