"""nodeproxy beside Envoy, HAProxy and nginx: CPU per request, rates, latencies, memory.

    python tests/bench/run.py                                  # everything, about 25 minutes
    python tests/bench/run.py --scenario http-small --seconds 3 --rounds 3 --check
    python tests/bench/run.py --write-docs                     # ... and fill the docs from it
    python tests/bench/run.py --from results.json --write-docs # ... from an earlier one

The proxy under test has one core for itself; back end, load and this program share the other.
"""

import argparse
import datetime
import os
import platform
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from bench import report
from bench.backend import backend
from bench.peers import envoy, haproxy, nginx, nodeproxy
from bench.processes import StartFailed, free_port
from bench.results import Environment, Results, Run
from bench.rounds import Bench, open_file_limit, run_scenario
from bench.scenarios import BY_NAME, SCENARIOS

PEERS = {peer.name: peer for peer in (envoy.PEER, haproxy.PEER, nginx.PEER, nodeproxy.PEER)}
ROOT = Path(__file__).resolve().parents[2]
#: The results that the documents show, so that a test can hold them together.
SHOWN = "docs/performance.json"
DOCUMENTS = ("docs/performance.md", "README.md")


def _names(known: Sequence[str], what: str) -> Callable[[str], list[str]]:
    def convert(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        if wrong := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(
                f"unknown {what} {', '.join(wrong)}; known: {', '.join(known)}"
            )
        return names

    return convert


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/bench/run.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    names = [scenario.name for scenario in SCENARIOS]
    add(
        "--scenario",
        type=_names(names, "scenario"),
        default=names,
        metavar="A,B",
        help="which ones (default: all): " + ", ".join(names),
    )
    add(
        "--peers",
        type=_names(list(PEERS), "proxy"),
        default=list(PEERS),
        metavar="A,B",
        help="which proxies, in this order (default: " + ",".join(PEERS) + ")",
    )
    add("--seconds", type=_positive, default=8, help="length of one run (default: 8)")
    add("--rounds", type=_positive, default=5, help="runs of each proxy (default: 5)")
    add("--idle", type=_positive, default=5000, help="idle connections (default: 5000)")
    add("--load-core", type=int, help="core of back end and load (default: the first)")
    add("--proxy-core", type=int, help="core of the proxy under test (default: the last)")
    add("-o", "--output", choices=("table", "json"), default="table")
    add("--check", action="store_true", help="compare with the targets; never fails")
    add("--save", type=Path, metavar="FILE", help="write the results there as JSON")
    add("--from", dest="source", type=Path, metavar="FILE", help="measure nothing: read these")
    add(
        "--write-docs",
        action="store_true",
        help="fill the generated blocks of " + " and ".join(DOCUMENTS),
    )
    return parser.parse_args(argv)


def machine() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{os.cpu_count()} x {line.partition(':')[2].strip()}"
    return f"{os.cpu_count()} x {platform.machine()}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure(options: argparse.Namespace, argv: Sequence[str]) -> Results:
    """Runs what was asked for; SystemExit when back end or load generator are missing."""
    allowed = sorted(os.sched_getaffinity(0))
    load_core = allowed[0] if options.load_core is None else options.load_core
    proxy_core = allowed[-1] if options.proxy_core is None else options.proxy_core
    if load_core == proxy_core:
        say("warning: load and proxy share one core: rates and latencies say little")
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("wrk is missing: apt-get install wrk")
    limit = open_file_limit()
    if options.idle > (limit - 200) // 2:
        raise SystemExit(f"--idle: the limit of {limit} open files allows {(limit - 200) // 2}")

    found = {name: PEERS[name].binary() for name in options.peers}
    versions = {n: PEERS[n].version(binary) for n, binary in found.items() if binary is not None}
    absent = {n: PEERS[n].install for n, binary in found.items() if binary is None}
    for name, install in absent.items():
        say(f"{name} is missing, going on without it: {install}")

    peers = [PEERS[name] for name in versions]
    port = free_port()
    bench = Bench(port, proxy_core, options.seconds, options.rounds, options.idle, wrk, say)
    runs: list[Run] = []
    os.sched_setaffinity(0, {load_core})
    with tempfile.TemporaryDirectory(prefix="nodeproxy-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        try:
            with backend(
                directory / "backend", port, core=load_core, connections=(limit - 200) // 2
            ):
                for scenario in options.scenario:
                    runs += run_scenario(BY_NAME[scenario], peers, bench)
        except StartFailed as error:
            raise SystemExit(str(error)) from None
    environment = Environment(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=machine(),
        kernel=platform.release(),
        python=platform.python_version(),
        cores=f"the proxy alone on core {proxy_core}, back end and load on core {load_core}",
        command=shlex.join(["python", "tests/bench/run.py", *argv]),
        seconds=options.seconds,
        rounds=options.rounds,
        versions=versions,
    )
    return Results(environment, tuple(runs), absent)


def write_docs(results: Results, encoded: bytes) -> None:
    (ROOT / SHOWN).write_bytes(encoded)
    for name in DOCUMENTS:
        path = ROOT / name
        if path.exists():
            before = path.read_text()
            after = report.replace_blocks(before, results)
            if after != before:
                path.write_text(after)
                say(f"wrote {name}")


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    # SIGTERM must run the `finally` blocks that end the proxies.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.source is not None:
        results = msgspec.json.decode(options.source.read_bytes(), type=Results)
    else:
        results = measure(options, argv)
    encoded = msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n"
    if options.save is not None:
        options.save.write_bytes(encoded)
    if options.write_docs:
        write_docs(results, encoded)
    if options.output == "json":
        print(encoded.decode(), end="")
    else:
        print(report.full(results))
    if options.check:
        text = report.check(results)
        print("\n" + text, file=sys.stderr if options.output == "json" else sys.stdout)
