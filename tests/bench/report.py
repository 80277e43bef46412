"""Results as text: tables, the check against the targets, the generated part of the docs. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.results import COST, Results, Summary, cost_ratio, rate_ratio, summaries
from bench.scenarios import BY_NAME, Unit

BASES = ("envoy", "haproxy")
NAMES = {"envoy": "Envoy", "haproxy": "HAProxy", "nginx": "nginx", "nodeproxy": "nodeproxy"}
RATE = {"request": "requests/s", "GiB": "MiB/s", "connection": "-"}
NOISY = 0.05

#: Between these lines of a document stands what run.py --write-docs made.
BLOCKS = {
    "full": ("<!-- benchmark results: begin", "<!-- benchmark results: end -->"),
    "summary": ("<!-- benchmark table: begin", "<!-- benchmark table: end -->"),
}


@dataclass(frozen=True, slots=True)
class Target:
    scenario: str
    by: Literal["cost", "rate"]
    least: float
    text: str


TARGETS = (
    Target("http-small", "cost", 1.3, "small keep-alive requests: at least 1.3 x Envoy by CPU"),
    Target("http-1m", "cost", 1.0, "1 MiB bodies: not above Envoy's CPU per byte"),
    Target("tcp-stream", "cost", 1.0, "TCP streams: not above Envoy's CPU per byte"),
    Target("tcp-connect", "rate", 1.0, "new TCP connections: at least Envoy's rate"),
)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, also aligned for the eye."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _rate(value: float | None, unit: Unit) -> str:
    return _figure(value / (1 << 20) if value is not None and unit == "GiB" else value)


def _row(row: Summary, others: dict[str, Summary], bases: Sequence[str], unit: Unit) -> list[str]:
    cells = [NAMES.get(row.peer, row.peer)]
    if row.cost is None:
        cells += ["invalid", *("-" for _ in bases), *("-" * 6), f"0/{row.total}"]
    else:
        cells += [_figure(row.cost)]
        cells += [_ratio(cost_ratio(others.get(base), row)) for base in bases]
        cells += [
            _rate(row.rate, unit),
            _figure(row.p50),
            _figure(row.p99),
            f"{row.busy:.0%}" if row.busy else "-",
            f"{row.foreign:.0%}" if row.busy else "-",
            f"{row.spread:.0%}",
            f"{row.valid}/{row.total}",
        ]
    if unit == "connection":  # nothing is timed there
        return cells[: 2 + len(bases)] + cells[-2:]
    return cells


def scenario_table(scenario: str, rows: dict[str, Summary]) -> str:
    unit = BY_NAME[scenario].unit
    bases = [base for base in BASES if base in rows]
    header = ["proxy", COST[unit], *(f"x {NAMES[base]}" for base in bases)]
    if unit != "connection":
        header += [RATE[unit], "p50 µs", "p99 µs", "core", "foreign"]
    header += ["spread", "valid"]
    return table(header, [_row(row, rows, bases, unit) for row in rows.values()])


def full(results: Results) -> str:
    environment = results.environment
    versions = ", ".join(f"{NAMES.get(k, k)} {v}" for k, v in environment.versions.items())
    parts = [
        f"Measured {environment.date} on {environment.machine}, Linux {environment.kernel}, "
        f"Python {environment.python}; {environment.cores}. {versions}. "
        f"{environment.rounds} alternating rounds of {environment.seconds} s:\n\n"
        f"```\n{environment.command}\n```"
    ]
    for scenario, rows in summaries(results).items():
        parts.append(f"**{scenario}**: {BY_NAME[scenario].title}")
        parts.append(scenario_table(scenario, rows))
        parts += [
            f"Left out of {row.total - row.valid} of {row.total} rounds: {NAMES.get(peer, peer)}, "
            f"{_one_line(row.problem)}"
            for peer, row in rows.items()
            if row.problem
        ]
        parts += [
            f"Noisy: others took {row.foreign:.0%} of the core beside {NAMES.get(peer, peer)}."
            for peer, row in rows.items()
            if row.foreign > NOISY
        ]
    parts += [f"Not measured: {peer}: {why}" for peer, why in results.absent.items()]
    return "\n\n".join(parts)


def _one_line(text: str) -> str:
    """Both ends of it: what happened, and the last words of a log, which mostly say why."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:60]} ... {line[-235:]}"


def summary(results: Results) -> str:
    """One line a scenario: nodeproxy beside the peers, for the README."""
    found = summaries(results)
    peers = list(dict.fromkeys(peer for rows in found.values() for peer in rows))
    header = ["scenario", "unit", *(NAMES.get(peer, peer) for peer in peers), "nodeproxy x Envoy"]
    lines = []
    for scenario, rows in found.items():
        costs = [_figure(rows[peer].cost) if peer in rows else "-" for peer in peers]
        ratio = _ratio(cost_ratio(rows.get("envoy"), rows.get("nodeproxy")))
        lines.append([scenario, COST[BY_NAME[scenario].unit], *costs, ratio])
    environment = results.environment
    note = (
        f"{environment.date}, {environment.machine}, medians of {environment.rounds} alternating "
        f"rounds; x Envoy: Envoy's cost / ours, above 1 means that nodeproxy is cheaper:\n\n"
        f"```\n{environment.command}\n```"
    )
    return table(header, lines) + "\n\n" + note


def check(results: Results) -> str:
    """One line a target. Information only: on a busy machine a figure is no verdict."""
    found = summaries(results)
    lines = []
    for target in TARGETS:
        rows = found.get(target.scenario, {})
        compare = cost_ratio if target.by == "cost" else rate_ratio
        ratio = compare(rows.get("envoy"), rows.get("nodeproxy"))
        if ratio is None:
            verdict = "none"
        else:
            verdict = "pass" if ratio >= target.least else "FAIL"
        lines.append(f"{verdict:4}  {_ratio(ratio):>5}  {target.scenario:11}  {target.text}")
    return "\n".join(lines)


def replace_blocks(text: str, results: Results) -> str:
    """The document with its generated blocks made anew; the marker lines stay as they are."""
    for name, render in (("full", full), ("summary", summary)):
        begin, end = BLOCKS[name]
        before, found, rest = text.partition(begin)
        if not found:
            continue
        comment, _, inside = rest.partition("\n")
        _, closed, after = inside.partition(end)
        if not closed:
            raise ValueError(f"no {end!r} after {begin!r}")
        text = f"{before}{begin}{comment}\n\n{render(results)}\n\n{end}{after}"
    return text
