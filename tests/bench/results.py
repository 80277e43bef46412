"""Figures of runs, and what follows from them: medians, costs, ratios. Pure."""

from statistics import median

import msgspec
from bench.scenarios import BY_NAME, SCENARIOS, Unit

GIB = 1 << 30
COST = {"request": "CPU µs/request", "GiB": "CPU ms/GiB", "connection": "bytes/connection"}


class Run(msgspec.Struct, frozen=True):
    """One measured run. Times in seconds, latencies in microseconds, sizes in bytes."""

    scenario: str
    peer: str
    round: int
    requests: int = 0
    bytes: int = 0
    connections: int = 0
    memory: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    foreign: float = 0.0
    p50: float | None = None
    p99: float | None = None
    problem: str | None = None  # set: the run is invalid and counts for nothing


class Environment(msgspec.Struct, frozen=True):
    date: str
    machine: str
    kernel: str
    python: str
    cores: str
    command: str
    seconds: int
    rounds: int
    versions: dict[str, str]


class Results(msgspec.Struct, frozen=True):
    environment: Environment
    runs: tuple[Run, ...]
    absent: dict[str, str]  # proxy -> what to install, or why it was left out


class Summary(msgspec.Struct, frozen=True):
    """The medians over the valid rounds of one proxy in one scenario."""

    scenario: str
    peer: str
    valid: int
    total: int
    cost: float | None = None  # CPU µs/request, CPU ms/GiB, or bytes/connection
    spread: float = 0.0  # (largest - smallest cost) / median
    rate: float | None = None  # requests/s, or bytes/s where the unit is a GiB
    p50: float | None = None
    p99: float | None = None
    busy: float = 0.0  # share of the time that the proxy ran
    foreign: float = 0.0  # share of the time that others took the proxy's core
    problem: str | None = None


def percentile(values: list[float], percent: int) -> float | None:
    """The nearest rank; None when there are less than 100 values and so no 99th percentile."""
    if len(values) < 100:
        return None
    return sorted(values)[-(-len(values) * percent // 100) - 1]


def cost(run: Run, unit: Unit) -> float | None:
    """None where nothing was done, so nothing can be divided."""
    if unit == "request":
        return run.cpu * 1e6 / run.requests if run.requests else None
    if unit == "GiB":
        return run.cpu * 1e3 / (run.bytes / GIB) if run.bytes else None
    return run.memory / run.connections if run.connections else None


def _rate(run: Run, unit: Unit) -> float | None:
    if unit == "connection" or not run.seconds:
        return None
    return (run.requests if unit == "request" else run.bytes) / run.seconds


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def summarise(scenario: str, peer: str, runs: list[Run]) -> Summary:
    unit = BY_NAME[scenario].unit
    valid = [run for run in runs if run.problem is None]
    problem = next((run.problem for run in runs if run.problem is not None), None)
    costs = [value for run in valid if (value := cost(run, unit)) is not None]
    if not costs:
        return Summary(scenario, peer, 0, len(runs), problem=problem or "nothing was measured")
    timed = [run for run in valid if run.seconds]
    middle = median(costs)
    return Summary(
        scenario,
        peer,
        len(valid),
        len(runs),
        cost=middle,
        spread=(max(costs) - min(costs)) / middle if middle else 0.0,
        rate=_median([_rate(run, unit) for run in valid]),
        p50=_median([run.p50 for run in valid]),
        p99=_median([run.p99 for run in valid]),
        busy=_median([run.cpu / run.seconds for run in timed]) or 0.0,
        foreign=_median([run.foreign / run.seconds for run in timed]) or 0.0,
        problem=problem,
    )


def summaries(results: Results) -> dict[str, dict[str, Summary]]:
    """scenario -> proxy -> summary, in the order of SCENARIOS and of the command line."""
    order = [*results.environment.versions]
    grouped: dict[str, dict[str, list[Run]]] = {}
    for run in results.runs:
        grouped.setdefault(run.scenario, {}).setdefault(run.peer, []).append(run)
    return {
        scenario.name: {
            peer: summarise(scenario.name, peer, runs)
            for peer, runs in sorted(
                grouped[scenario.name].items(),
                key=lambda item: order.index(item[0]) if item[0] in order else len(order),
            )
        }
        for scenario in SCENARIOS
        if scenario.name in grouped
    }


def cost_ratio(base: Summary | None, ours: Summary | None) -> float | None:
    """Above 1: ours is cheaper than the base."""
    if base is None or ours is None or base.cost is None or not ours.cost:
        return None
    return base.cost / ours.cost


def rate_ratio(base: Summary | None, ours: Summary | None) -> float | None:
    """Above 1: ours does more a second than the base."""
    if base is None or ours is None or not base.rate or ours.rate is None:
        return None
    return ours.rate / base.rate
