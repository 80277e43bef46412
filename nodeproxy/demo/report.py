"""What the demo's results mean: which phase a request belongs to, why it failed, and whether
everything held that should have. Pure functions of the clients' results and of the moments at
which something was done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from nodeproxy.demo.load import Result
from nodeproxy.demo.processes import Span

__all__ = [
    "Moments",
    "Phase",
    "Verdict",
    "distribution",
    "explain",
    "phases",
    "reasons",
    "shares",
    "verdict",
]

AT_THE_KILL: Final = "in flight as the proxy was killed: its connections died with it"
HOST_REFUSED: Final = (
    "host process, before the switch expired: a SYN over loopback cannot be held back, it is "
    "refused where the proxy's listener was"
)
NOBODY: Final = "no proxy and no interception: nobody listens at the proxy's port"
AT_THE_BACKEND: Final = (
    "in flight at the back end that was killed: already sent, so not sent again elsewhere"
)
LATE: Final = 0.5
"""Seconds that the switch may take beyond its expiry: the kernel's timers have their grain."""
UNHEARD: Final = 0.1
"""Seconds that the proxy may take to hear that a connection has ended."""
MOST_UNEVEN: Final = 0.5
"""Of the even share, the least that an endpoint in service has to get for "balanced"."""


@dataclass
class Moments:
    """When what was done (time.monotonic). None: not yet."""

    intercepted: bool
    """The kernel carries on when the proxy is dead, as there is interception."""
    expiry: float = 0.0
    host_client: str = ""
    killed_backend: str = ""
    backend_killed: Span | None = None
    proxy_killed: Span | None = None
    proxy_started: float | None = None
    proxy_ready: float | None = None
    """When it was seen to be ready after its second start."""


@dataclass
class Phase:
    """The requests that succeeded having begun, or failed, within one part of the story."""

    title: str
    begins: float
    results: list[Result] = field(default_factory=list)

    @property
    def ok(self) -> list[Result]:
        return [result for result in self.results if result.ok]

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if not result.ok]

    @property
    def direct(self) -> list[Result]:
        return [result for result in self.ok if not result.via]

    @property
    def proxied(self) -> list[Result]:
        return [result for result in self.ok if result.via]

    @property
    def median(self) -> float:
        """Seconds, of the requests that succeeded; 0 without any."""
        times = sorted(result.seconds for result in self.ok)
        return times[len(times) // 2] if times else 0.0

    @property
    def slowest(self) -> float:
        return max((result.seconds for result in self.ok), default=0.0)


@dataclass(frozen=True)
class Verdict:
    """One thing that had to hold, and whether it did."""

    claim: str
    held: bool
    why: str = ""


def phases(results: Sequence[Result], moments: Moments) -> list[Phase]:
    """The parts that the story has come to, each with its requests."""
    found = [Phase("all is well", float("-inf"))]
    if moments.backend_killed:
        found.append(Phase("a back end is dead", moments.backend_killed.began))
    if moments.proxy_killed:
        found.append(Phase("the proxy is dead", moments.proxy_killed.began))
    if moments.proxy_ready is not None:
        found.append(Phase("the proxy is back", _back(results, moments)))
    for result in results:
        # What failed belongs to what made it fail, which came after it had begun.
        moment = result.started if result.ok else result.ended
        phase = next(p for p in reversed(found) if moment >= p.begins)
        phase.results.append(result)
    return found


def _back(results: Sequence[Result], moments: Moments) -> float:
    """When the new proxy's first request was begun, which may be before it was seen ready."""
    began = moments.proxy_started
    assert moments.proxy_ready is not None
    if began is None:
        return moments.proxy_ready
    served = (r.started for r in results if r.ok and r.via and r.started > began)
    return min(moments.proxy_ready, min(served, default=moments.proxy_ready))


def explain(result: Result, moments: Moments) -> str | None:
    """Why a request had to fail; None if there is no excuse."""
    killed = moments.proxy_killed
    if killed is not None:
        touched = result.started <= killed.ended and result.ended >= killed.began
        if touched and result.outcome in ("reset", "closed", "refused"):
            return AT_THE_KILL if result.outcome != "refused" else _refused(result, moments)
        if result.outcome == "refused" and result.ended >= killed.began:
            return _refused(result, moments)
    dead = moments.backend_killed
    if dead is None or result.outcome != "status" or not 502 <= result.status <= 504:
        return None
    # What the proxy sends at this very moment finds the connection open or just closed.
    touched = result.started <= dead.ended + UNHEARD and result.ended >= dead.began
    return AT_THE_BACKEND if touched else None


def _refused(result: Result, moments: Moments) -> str | None:
    killed = moments.proxy_killed
    assert killed is not None
    if not moments.intercepted:
        until = moments.proxy_ready
        return NOBODY if until is None or result.started <= until else None
    in_time = result.started <= killed.ended + moments.expiry + LATE
    return HOST_REFUSED if result.client == moments.host_client and in_time else None


def shares(results: Sequence[Result]) -> list[tuple[str, int, float]]:
    """(back end, requests, part of all), by name."""
    counts = Counter(result.backend for result in results if result.ok)
    total = counts.total()
    return [(name, count, count / total) for name, count in sorted(counts.items())]


def distribution(results: Sequence[Result]) -> str:
    """``pod1-2 49%, pod2-2 51%``"""
    return ", ".join(f"{name} {part:.0%}" for name, _, part in shares(results)) or "nobody"


def reasons(results: Iterable[Result], moments: Moments) -> list[tuple[str, int, str]]:
    """Failures of one kind together: (client and outcome, how many, why); without an excuse,
    the reason begins with NOT EXPLAINED."""
    counts: Counter[tuple[str, str]] = Counter()
    for result in results:
        if result.ok:
            continue
        what = f"{result.client}: {result.outcome}"
        if result.status:
            what += f" {result.status}"
        detail = f" ({result.detail})" if result.detail else ""
        counts[what, explain(result, moments) or f"NOT EXPLAINED{detail}"] += 1
    return [(what, count, why) for (what, why), count in sorted(counts.items())]


def verdict(
    found: Sequence[Phase],
    moments: Moments,
    *,
    clients: Sequence[str],
    backends: Sequence[str],
    sent: int | None,
) -> list[Verdict]:
    """Everything that the requests have to show. ``sent``: how many results there must be, or
    None if a client did not say."""
    results = [result for phase in found for result in phase.results]
    unexplained = [r for r in results if not r.ok and explain(r, moments) is None]
    says = [
        _complete(results, sent),
        Verdict(
            "no request failed without a reason that is given",
            not unexplained,
            "; ".join(f"{n} x {what}: {why}" for what, n, why in reasons(unexplained, moments)[:3]),
        ),
        _balanced(found[0], backends),
    ]
    by_title = {phase.title: phase for phase in found}
    if phase := by_title.get("a back end is dead"):
        says.append(_moved(phase, moments))
    if (phase := by_title.get("the proxy is dead")) and moments.intercepted:
        says.append(
            _each(
                "while the proxy was dead, the kernel carried every client's requests",
                clients,
                [r for r in phase.direct if _after_kill(r, moments)],
            )
        )
    if phase := by_title.get("the proxy is back"):
        says.append(_each("the traffic came back to the proxy", clients, phase.proxied))
        if phase.results:
            last = max(phase.ok, key=lambda r: r.started, default=None)
            says.append(
                Verdict(
                    "the last request went through the proxy",
                    last is not None and last.via,
                    "" if last is not None and last.via else "it went past it",
                )
            )
    return says


def _complete(results: Sequence[Result], sent: int | None) -> Verdict:
    claim = "every request that was sent has a result"
    if sent is None:
        return Verdict(claim, False, "a client did not come to its end")
    missing = sent - len(results)
    return Verdict(claim, missing == 0, f"{missing} are missing" if missing else "")


def _balanced(phase: Phase, backends: Sequence[str]) -> Verdict:
    claim = "the requests were balanced over all back ends, through the proxy"
    even = len(phase.ok) / len(backends)
    counts = Counter(result.backend for result in phase.proxied)
    short = [name for name in backends if counts[name] < even * MOST_UNEVEN]
    if not phase.ok:
        return Verdict(claim, False, "there were none")
    if phase.direct:
        return Verdict(claim, False, f"{len(phase.direct)} went past the proxy")
    return Verdict(
        claim,
        not short,
        ", ".join(f"{name} got {counts[name]} of {len(phase.ok)}" for name in short),
    )


def _moved(phase: Phase, moments: Moments) -> Verdict:
    dead = moments.backend_killed
    assert dead is not None
    wrong = [r for r in phase.ok if r.backend == moments.killed_backend and r.started > dead.ended]
    claim = "nothing went to the dead back end, and requests went on without it"
    return Verdict(claim, bool(phase.ok) and not wrong, f"{len(wrong)} did" if wrong else "")


def _each(claim: str, clients: Sequence[str], results: Sequence[Result]) -> Verdict:
    seen = {result.client for result in results}
    missing = [client for client in clients if client not in seen]
    return Verdict(claim, not missing, f"not those of {', '.join(missing)}" if missing else "")


def _after_kill(result: Result, moments: Moments) -> bool:
    return moments.proxy_killed is not None and result.started > moments.proxy_killed.ended
