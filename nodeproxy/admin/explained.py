"""The answer to ``explain``: one request's way, with everything that was looked at.

Part of :mod:`nodeproxy.admin.views`, whose rules hold here too.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["CandidateView", "ExplainQuery", "ExplainView", "SettingView", "StepView"]


class ExplainQuery(msgspec.Struct, frozen=True):
    """A request that nobody has sent."""

    method: str
    url: str
    """As it was asked for."""
    scheme: Literal["http", "https", "tcp"]
    host: str
    """An address, a service's name, or a host name, without brackets."""
    port: int
    path: str
    """With its query."""
    headers: tuple[tuple[str, str], ...] = ()
    source: str = ""
    """Address of the client: a pod's or a host's. Empty: a process on this node."""


class StepView(msgspec.Struct, frozen=True):
    """One thing that was looked at on the way, in order."""

    stage: Literal["interception", "destination", "protocol", "route", "balance", "outcome"]
    what: str
    """What was looked at: ``nat NP-PRE: -p tcp -m set --match-set NP-OUT-LIVE dst,dst -j DNAT
    ...``, ``catalog 10.96.0.10:80``, ``explicit listener 127.0.0.1:8080``."""
    matched: bool
    why: str = ""
    """Why it matched; of a miss, the first condition that failed."""


class CandidateView(msgspec.Struct, frozen=True):
    """An endpoint that was looked at for one request."""

    address: str
    eligible: bool
    why: str
    """Why it is in or out: ``ready``, ``ejected for 12 s more: 5 consecutive connect
    failures``, ``not ready according to registry "file"``."""
    state: str = "ready"
    weight: int = 1
    zone: str = ""
    active_requests: int = 0
    share: float | None = None
    """Part of the traffic that this endpoint can expect, 0 to 1, where the policy tells."""
    drawn: bool = False
    """It was one of those that the policy compared."""
    picked: bool = False


class SettingView(msgspec.Struct, frozen=True):
    """A setting in force for this request."""

    name: str
    """``traffic.connect_timeout``"""
    value: str
    """As it would stand in the file: ``1s``."""
    origin: str = "default"
    """``nodeproxy.yaml:14``, or ``default``."""


class ExplainView(msgspec.Struct, frozen=True):
    """What the proxy would do with a request now, and why. It is answered by the very
    functions that handle traffic, so that it can't say anything else than what happens."""

    query: ExplainQuery
    outcome: Literal["proxied", "answered", "passthrough", "kernel", "refused", "unreachable"]
    """``proxied``: to an endpoint. ``answered``: by the proxy, as a route says (a redirect, a CORS
    preflight). ``passthrough``: relayed untouched, no service has the
    address. ``kernel``: not intercepted, so that the proxy never sees it. ``refused``: the
    proxy answers with an error. ``unreachable``: dropped or rejected by a rule, or no address is
    known for the host."""
    summary: str
    """The answer in one sentence."""
    steps: tuple[StepView, ...] = ()
    destination: str = ""
    """``address:port`` that the packet is taken to carry."""
    service: str = ""
    port: int = 0
    service_origin: str = ""
    """Where the registry read it."""
    protocol: str = ""
    protocol_why: str = ""
    """``declared by the registry``, ``detected from the first bytes``, ..."""
    route: str = ""
    """The rule, as it is called in metrics; empty: no route."""
    backend: str = ""
    """``namespace/name:port``"""
    balance: str = ""
    balance_why: str = ""
    """How the policy chose, as a sentence."""
    candidates: tuple[CandidateView, ...] = ()
    pick: str = ""
    """``address:port``. The draw is random where the policy is: ask again for another one."""
    retry: str = ""
    """Where the request goes if the pick can't be reached."""
    status: int = 0
    """Of a refusal or an answer: the status that the client is given (0: the connection is
    reset)."""
    flags: str = ""
    """Of a refusal: the response flags of the access log."""
    settings: tuple[SettingView, ...] = ()
    notes: tuple[str, ...] = ()
    """What else is worth knowing: headers that are added, stale registries, warnings."""
