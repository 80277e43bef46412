"""How the demo ends: what is left, the table of all phases, what held and what did not."""

from __future__ import annotations

from collections.abc import Sequence

from nodeproxy.demo.narrator import Narrator
from nodeproxy.demo.report import Moments, Phase, Verdict, reasons, shares

__all__ = ["judgement", "nothing_left", "removed", "summary"]

LOOKED = "Looked for namespaces, processes and files of this demo: nothing is left."


def nothing_left(left: Sequence[str]) -> Verdict:
    return Verdict("nothing is left on this machine", not left, "; ".join(left))


def removed(narrator: Narrator, left: Sequence[str]) -> None:
    """The last act. It has happened already, silently: nobody may have been listening."""
    narrator.act("Everything is removed")
    narrator.say(f"LEFT BEHIND: {', '.join(left)}." if left else LOOKED)


def summary(
    narrator: Narrator, found: Sequence[Phase], moments: Moments, backends: Sequence[str]
) -> None:
    """The table of all phases, and every failure with its reason."""
    titles = ["PHASE", "REQUESTS", "PROXIED", "DIRECT", "FAILED", "MEDIAN", "SLOWEST", *backends]
    narrator.table(titles, [_row(phase, backends) for phase in found])
    narrator.say("Failures (there must be none but where it says why):")
    failures = [(phase, *reason) for phase in found for reason in reasons(phase.results, moments)]
    for phase, what, count, why in failures:
        narrator.say(f"  {phase.title}: {count} x {what}: {why}")
    if not failures:
        narrator.say("  none")


def _row(phase: Phase, backends: Sequence[str]) -> list[str]:
    parts = {name: f"{part:.0%}" for name, _, part in shares(phase.results)}
    return [
        phase.title,
        f"{len(phase.results):,}",
        f"{len(phase.proxied):,}",
        f"{len(phase.direct):,}",
        f"{len(phase.failed):,}",
        f"{phase.median * 1000:.1f} ms",
        f"{phase.slowest * 1000:,.0f} ms",
        *(parts.get(name, "-") for name in backends),
    ]


def judgement(
    narrator: Narrator, verdicts: Sequence[Verdict], log: str, keep_logs: str | None
) -> int:
    """What held. Returns the exit code: 0 if everything did."""
    for claim in verdicts:
        why = f": {claim.why}" if claim.why else ""
        style = "green" if claim.held else "bold red"
        narrator.say(f"{'held' if claim.held else 'NOT HELD'}  {claim.claim}{why}", style)
    if all(claim.held for claim in verdicts):
        narrator.say(f"Everything held, in {narrator.elapsed:.0f} seconds.", "bold green")
        return 0
    where = f"the logs are in {keep_logs}" if keep_logs else "--keep-logs DIR keeps all logs"
    narrator.say(f"Not everything held; {where}. The proxy's log ends with:", "bold red")
    narrator.quote(log)
    return 1
