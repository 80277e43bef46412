"""Reading what wrk and /proc print. Pure: text in, values out."""

import re
from dataclasses import dataclass

_DURATION = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6, "h": 3600e6}
_TOTAL = re.compile(r"^\s*(\d+) requests in ([\d.]+)(us|ms|s|m|h),", re.M)
_PERCENTILE = re.compile(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s|m|h)\s*$", re.M)
_SOCKET = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_STATUS = re.compile(r"Non-2xx or 3xx responses: (\d+)")


@dataclass(frozen=True, slots=True)
class WrkOutput:
    """One run of wrk. Latencies are in microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    socket_errors: int
    bad_statuses: int

    @property
    def problem(self) -> str | None:
        """Why the run may not be used, None when every answer was good."""
        if self.socket_errors or self.bad_statuses:
            return f"{self.socket_errors} socket errors, {self.bad_statuses} bad statuses"
        return None if self.requests else "no request was answered"


def parse_wrk(text: str) -> WrkOutput:
    """Reads the output of `wrk --latency`; ValueError when it is none."""
    total = _TOTAL.search(text)
    percentiles = {m[1]: float(m[2]) * _DURATION[m[3]] for m in _PERCENTILE.finditer(text)}
    if total is None or percentiles.keys() != {"50", "99"}:
        raise ValueError(f"not the output of wrk --latency: {text[:200]!r}")
    sockets = _SOCKET.search(text)
    statuses = _STATUS.search(text)
    return WrkOutput(
        requests=int(total[1]),
        seconds=float(total[2]) * _DURATION[total[3]] / 1e6,
        p50=percentiles["50"],
        p99=percentiles["99"],
        socket_errors=sum(map(int, sockets.groups())) if sockets else 0,
        bad_statuses=int(statuses[1]) if statuses else 0,
    )


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """The part of /proc/PID/stat that we use (proc(5)); times in clock ticks."""

    pid: int
    parent: int
    ticks: int  # user and system time of all threads, ended ones included
    reaped_ticks: int  # the same of children that were waited for
    started: int  # ticks after boot: with the pid it names a process for ever


def parse_process_stat(text: str) -> ProcessStat:
    """The command name may hold spaces and brackets, so fields are counted from the last one."""
    opening, closing = text.index("("), text.rindex(")")
    rest = text[closing + 2 :].split()
    return ProcessStat(
        pid=int(text[:opening]),
        parent=int(rest[1]),
        ticks=int(rest[11]) + int(rest[12]),
        reaped_ticks=int(rest[13]) + int(rest[14]),
        started=int(rest[19]),
    )


def parse_core_busy(text: str, core: int) -> int:
    """Ticks that `core` was not idle, from /proc/stat; what a hypervisor stole counts as busy."""
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, words[1:9])
            return user + nice + system + irq + softirq + steal
    raise ValueError(f"/proc/stat has no cpu{core}")


def parse_resident(text: str) -> int:
    """Resident bytes from /proc/PID/smaps_rollup (statm's figure lags behind by up to 0.5 MiB)."""
    found = re.search(r"^Rss:\s+(\d+) kB$", text, re.M)
    if found is None:
        raise ValueError("smaps_rollup has no Rss line")
    return int(found[1]) * 1024
