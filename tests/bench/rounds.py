"""Alternating rounds: every proxy is started, then A B C, A B C, ... is measured."""

import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import load
from bench.measure import resident_bytes, usage
from bench.peers.base import Peer, Site
from bench.processes import StartFailed, free_port, running
from bench.results import COST, Run, cost, percentile
from bench.scenarios import Scenario

WARM_UP = 1  # seconds of load before the first round
WARM_CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Bench:
    """What stays the same for all scenarios."""

    endpoint_port: int
    proxy_core: int
    seconds: int
    rounds: int
    idle: int
    wrk: str
    say: Callable[[str], None] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Started:
    peer: Peer
    pid: int
    port: int


def open_file_limit() -> int:
    """Raises the soft limit to the hard one, for the processes that we start too; gives it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = 65536 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


@contextmanager
def started(peer: Peer, scenario: Scenario, bench: Bench) -> Iterator[Started]:
    binary = peer.binary()
    missing = peer.install if binary is None else None
    if missing is None and scenario.listener == "tcp":
        missing = peer.tcp()
    if binary is None or missing is not None:
        raise StartFailed(f"missing: {missing}")
    with tempfile.TemporaryDirectory(prefix="nodeproxy-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        site = Site(
            directory=directory,
            http_port=free_port(),
            tcp_port=free_port(),
            metrics_port=free_port(),
            endpoint_port=bench.endpoint_port,
            max_connections=min((open_file_limit() - 200) // 2, 20000),
        )
        for file, text in peer.files(site).items():
            (directory / file).write_text(text)
        port = site.tcp_port if scenario.listener == "tcp" else site.http_port
        command = peer.command(binary, site)
        core = bench.proxy_core
        with running(peer.name, command, core=core, directory=directory, ports=[port]) as pid:
            yield Started(peer, pid, port)


def _measure(scenario: Scenario, proxy: Started, number: int, bench: Bench) -> Run:
    """One run under load. LoadFailed when the proxy answers wrongly."""
    load.probe(scenario, proxy.port)
    name = proxy.peer.name
    if scenario.kind == "wrk":
        with usage(proxy.pid, bench.proxy_core) as used:
            out = load.wrk(bench.wrk, scenario, proxy.port, bench.seconds)
        return Run(
            scenario=scenario.name,
            peer=name,
            round=number,
            requests=out.requests,
            bytes=out.requests * scenario.size,
            seconds=used.wall,
            cpu=used.cpu,
            foreign=used.foreign,
            p50=out.p50,
            p99=out.p99,
            problem=out.problem,
        )
    with usage(proxy.pid, bench.proxy_core) as used:
        moved = load.download(scenario, proxy.port, bench.seconds)
    return Run(
        scenario=scenario.name,
        peer=name,
        round=number,
        requests=len(moved.durations),
        bytes=moved.bytes,
        seconds=used.wall,
        cpu=used.cpu,
        foreign=used.foreign,
        p50=percentile(moved.durations, 50),
        p99=percentile(moved.durations, 99),
    )


def _measure_idle(scenario: Scenario, proxy: Started, number: int, bench: Bench) -> Run:
    load.probe(scenario, proxy.port)
    with load.idle_connections(scenario, proxy.port, WARM_CONNECTIONS):
        pass
    before = resident_bytes(proxy.pid)
    with load.idle_connections(scenario, proxy.port, bench.idle):
        grown = resident_bytes(proxy.pid) - before
    return Run(
        scenario=scenario.name,
        peer=proxy.peer.name,
        round=number,
        connections=bench.idle,
        memory=grown,
    )


def _invalid(scenario: Scenario, peer: Peer, number: int, why: object) -> Run:
    return Run(scenario=scenario.name, peer=peer.name, round=number, problem=str(why))


def _idle_rounds(scenario: Scenario, peers: Sequence[Peer], bench: Bench) -> Iterator[Run]:
    """A process that has served connections keeps their memory, so each round has a new one."""
    for number in range(1, bench.rounds + 1):
        for peer in peers:
            try:
                with started(peer, scenario, bench) as proxy:
                    yield _measure_idle(scenario, proxy, number, bench)
            except (StartFailed, load.LoadFailed, OSError) as error:
                yield _invalid(scenario, peer, number, error)


def _load_rounds(scenario: Scenario, peers: Sequence[Peer], bench: Bench) -> Iterator[Run]:
    warm = replace(bench, seconds=WARM_UP)
    with ExitStack() as stack:
        proxies: list[Started] = []
        for peer in peers:
            try:
                proxy = stack.enter_context(started(peer, scenario, bench))
                _measure(scenario, proxy, 0, warm)
                proxies.append(proxy)
            except (StartFailed, load.LoadFailed, OSError) as error:
                yield _invalid(scenario, peer, 0, error)
        for number in range(1, bench.rounds + 1):
            for proxy in proxies:
                try:
                    yield _measure(scenario, proxy, number, bench)
                except (load.LoadFailed, OSError) as error:
                    yield _invalid(scenario, proxy.peer, number, error)


def run_scenario(scenario: Scenario, peers: Sequence[Peer], bench: Bench) -> list[Run]:
    rounds = _idle_rounds if scenario.kind == "idle" else _load_rounds
    runs = []
    for run in rounds(scenario, peers, bench):
        bench.say(
            f"{run.scenario} round {run.round}/{bench.rounds} {run.peer}: "
            + (run.problem or f"{cost(run, scenario.unit) or 0:,.1f} {COST[scenario.unit]}")
        )
        runs.append(run)
    return runs
