"""``nodeproxy demo``: the story, act by act.

Nothing here waits for a time to pass: every act ends when what it is about has been seen (so
many requests, an ejection, an answer that came directly), or fails when that has not happened
within its deadline. Whatever happens, everything is removed, and that is checked.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nodeproxy.admin.client import AdminError
from nodeproxy.core.destination import host_port
from nodeproxy.demo import ending, lab
from nodeproxy.demo.interruption import Interrupted, Interruption
from nodeproxy.demo.load import Result
from nodeproxy.demo.narrator import Narrator
from nodeproxy.demo.places import EXPIRY, RootStage, UserStage, lack
from nodeproxy.demo.report import Moments, Phase, Verdict, distribution, phases, reasons, verdict
from nodeproxy.demo.stage import RATE, SERVICE, Stage, StageError

__all__ = ["main"]

DEADLINE: Final = 20.0
"""Seconds for whatever is awaited; on an idle machine nothing takes more than three."""
STEP: Final = 0.02
"""Seconds between two looks at what is awaited."""
BREATHS: Final = {"steady": 250, "moved": 80, "direct": 150, "back": 100}
"""Requests of each client that an act takes at least."""


def main(*, mode: str = "auto", keep_logs: str | None = None) -> int:
    """Play it. Returns 0 if everything held that should, 1 if not or if there is no place for
    it, and 128 + the number of a signal that stopped it, as a shell says."""
    narrator = Narrator()
    obstacle = lack() if mode != "user" else None
    if mode == "root" and obstacle:
        print(f"nodeproxy demo: {obstacle}", file=sys.stderr)
        return 1
    if obstacle:
        narrator.say(f"No interception here: {obstacle}. The story with explicit listeners:")
    with Interruption() as interruption:
        stage = UserStage() if mode == "user" or obstacle else RootStage()
        story = Story(stage, narrator, interruption)
        failure = ""
        try:
            story.play()
        except Interrupted:
            pass
        except (StageError, AdminError, lab.LabError) as error:
            failure = str(error)
        except Exception:
            failure = traceback.format_exc()
        finally:
            interruption.ignore()
            if interruption.number:  # it may have ended a child, and so come as another exception
                with contextlib.suppress(OSError):  # the terminal may be gone
                    name = signal.Signals(interruption.number).name
                    narrator.say(f"{name}: removing everything.")
            left = story.remove(Path(keep_logs) if keep_logs else None)
        ending.removed(narrator, left)
        if interruption.number:
            return 128 + interruption.number
        if failure:
            story.verdicts.append(Verdict("the story came to its end", False, failure))
        story.verdicts.append(ending.nothing_left(left))
        if stage.results:
            names = [backend.name for backend in stage.backends]
            ending.summary(narrator, story.phases(), story.moments, names)
        return ending.judgement(narrator, story.verdicts, story.log, keep_logs)


class Story:
    """The acts, in the order in which they are played."""

    def __init__(self, stage: Stage, narrator: Narrator, interruption: Interruption) -> None:
        self.stage = stage
        self.narrator = narrator
        self.say = narrator.say
        self.check = interruption.check
        self.moments = Moments(
            intercepted=stage.kind == "root",
            expiry=EXPIRY if stage.kind == "root" else 0,
            host_client=stage.host_client,
        )
        self.verdicts: list[Verdict] = []
        self._clock = threading.Event()
        self.log = ""
        """The end of the proxy's log, for when something did not hold."""

    def play(self) -> None:
        self.build()
        self.balance()
        self.kill_a_backend()
        self.kill_the_proxy()
        self.start_it_again()
        self.look_closely()
        self.let_the_clients_end()

    # -- 1 -------------------------------------------------------------------------------------

    def build(self) -> None:
        stage = self.stage
        if stage.kind == "root":
            self.narrator.act("A node is built")
        else:
            self.narrator.act("A proxy with explicit listeners")
            self.say(
                "Left out without root: interception of service addresses, clients in pods, and"
                " the kernel's path around a dead proxy."
            )
        stage.build()
        self.check()
        if stage.kind == "root":
            self.say(
                "Two nodes with two pods each, as network namespaces; the machine's own network"
                " is not touched."
            )
        stage.start_backends(self.check)
        for backend in stage.backends:
            self.say(
                f"back end {backend.name} on {' and '.join(map(host_port, backend.addresses))}"
            )
        began = time.monotonic()
        stage.start_proxy()
        self.wait(stage.ready, "the proxy is ready")
        self.say(
            f"nodeproxy is ready, {time.monotonic() - began:.1f} s after its start (pid"
            f" {stage.pid})."
        )
        if stage.kind == "root":
            self.say(
                f"On node1 it intercepts {SERVICE}: {' and '.join(stage.vips)}, port 80; no"
                " interface has these addresses."
            )

    # -- 2 -------------------------------------------------------------------------------------

    def balance(self) -> None:
        stage = self.stage
        self.narrator.act("Requests are balanced")
        stage.start_load()
        where = " and ".join(map(host_port, stage.targets()))
        for name in stage.clients:
            self.say(f"client {name}: {RATE} requests a second to {where}")
        self.say(
            "Half of them over a connection of their own, half over kept ones; no retries. Back"
            " ends tell who they are, and whether a request bears the proxy's Via field."
        )
        self.wait(self.every_client(BREATHS["steady"], self.any_result), "requests get through")
        self.tell(self.phases()[0])

    # -- 3 -------------------------------------------------------------------------------------

    def kill_a_backend(self) -> None:
        stage = self.stage
        victim = stage.backends[1]
        self.narrator.act(f"A back end is killed: {victim.name}")
        self.moments.killed_backend = victim.name
        self.moments.backend_killed = stage.kill_backend(victim.name)
        addresses = {host_port(address) for address in victim.addresses}
        self.say(
            "kill -9. A connection that it refuses is tried at another endpoint: nothing has"
            " been sent by then."
        )
        self.wait(lambda: addresses <= set(stage.ejected()), "its endpoints are ejected")
        self.say("After five failures in a row it is out, before the registry knows:")
        self.show("endpoints", SERVICE)
        self.quote_metrics(
            "nodeproxy_requests_total", "nodeproxy_retries_total", "nodeproxy_endpoint_ejections"
        )
        stage.register(backend for backend in stage.backends if backend is not victim)
        self.wait(lambda: not addresses & stage.known(), "the registry's change arrives")
        self.say(
            "services.yaml is rewritten without it, as an orchestrator would do; the proxy has"
            " followed" + (", and so has the kernel's path." if self.moments.intercepted else ".")
        )
        since = time.monotonic()
        self.wait(
            self.every_client(BREATHS["moved"], lambda r: r.started > since), "requests go on"
        )
        self.tell(self.phases()[1])

    # -- 4 -------------------------------------------------------------------------------------

    def kill_the_proxy(self) -> None:
        stage = self.stage
        self.narrator.act("The proxy is killed")
        killed = self.moments.proxy_killed = stage.kill_proxy()
        if not self.moments.intercepted:
            self.say("kill -9. Here, nothing is left to carry the requests.")
            self.wait(
                self.every_client(BREATHS["moved"], lambda r: r.started > killed.ended),
                "clients notice",
            )
            self.tell(self.phases()[2])
            return
        self.say(f"kill -9. Nobody beats the dead man's switch now; it expires in {EXPIRY} s.")

        def direct(result: Result) -> bool:
            return result.started > killed.began and result.ok and not result.via

        self.wait(self.every_client(1, direct), "the kernel carries the requests")
        for name in stage.clients:
            first = min(r.ended for r in stage.results if r.client == name and direct(r))
            self.say(
                f"{name}: first answer past the proxy {first - killed.began:.2f} s after the kill"
            )
        self.wait(self.every_client(BREATHS["direct"], direct), "the kernel carries the requests")
        self.tell(self.phases()[2])

    # -- 5 -------------------------------------------------------------------------------------

    def start_it_again(self) -> None:
        stage = self.stage
        self.narrator.act("The proxy is started again")
        self.moments.proxy_started = began = time.monotonic()
        stage.start_proxy()
        self.wait(stage.ready, "the proxy is ready")
        ready = self.moments.proxy_ready = time.monotonic()
        self.say(f"ready after {ready - began:.1f} s")

        def back(result: Result) -> bool:
            return result.started > ready and result.via

        self.wait(self.every_client(BREATHS["back"], back), "the traffic comes back")
        self.wait(self.all_proxied, "the last kept connection past it has ended")
        if self.moments.intercepted:
            self.say(
                "New connections come to the proxy again; those that were made past it stay"
                " there until they end."
            )
        self.tell(self.phases()[3])

    # -- 6 -------------------------------------------------------------------------------------

    def look_closely(self) -> None:
        stage = self.stage
        self.narrator.act("One request, explained")
        host, port = stage.targets()[0]
        if stage.kind == "root":
            self.show("explain", "GET", f"http://{host}/", "--from", stage.source)
        else:
            self.show("explain", "GET", f"http://{host}:{port}/")
        self.say("What it counted since it was started again:")
        self.quote_metrics("nodeproxy_requests_total", "nodeproxy_endpoint_requests_total")
        lines = stage.access_lines()
        moved = [line for line in lines if '"tries":2' in line]
        self.say(
            "The access log's line of a request that went on to a second endpoint:"
            if moved
            else "A line of the access log:"
        )
        self.narrator.quote("\n".join((moved or lines)[:1]))

    def let_the_clients_end(self) -> None:
        stage = self.stage
        stage.stop_load()
        self.wait(stage.load_ended, "the clients' last requests end")
        self.verdicts += verdict(
            self.phases(),
            self.moments,
            clients=stage.clients,
            backends=[backend.name for backend in stage.backends],
            sent=sum(done.sent for done in stage.done.values())
            if len(stage.done) == len(stage.clients)
            else None,
        )

    # -- 7 -------------------------------------------------------------------------------------

    def remove(self, keep_logs: Path | None) -> list[str]:
        """Remove everything, without a word: nobody may be listening any more. Returns what is
        left."""
        stage = self.stage
        try:
            self.log = stage.tail()
            if keep_logs is not None:
                stage.keep_logs(keep_logs)
        finally:
            stage.close()
        return stage.leftovers()

    # -- telling and waiting -------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        return phases(list(self.stage.results), self.moments)

    def tell(self, phase: Phase) -> None:
        """How a phase has gone so far."""
        self.say(
            f"{len(phase.ok):,} requests answered: {distribution(phase.results)}; "
            f"{len(phase.proxied):,} through the proxy, {len(phase.direct):,} past it; "
            f"median {phase.median * 1000:.1f} ms, slowest {phase.slowest * 1000:,.0f} ms."
        )
        found = reasons(phase.results, self.moments)
        if not found:
            self.say("Failed: none.", "green")
        for what, count, why in found:
            self.say(f"Failed: {count} x {what}: {why}.", "yellow")

    def show(self, *arguments: str) -> None:
        """A command, and what it prints."""
        self.check()
        self.narrator.command("nodeproxy", *arguments)
        self.narrator.quote(self.stage.cli(*arguments))

    def quote_metrics(self, *starts: str) -> None:
        self.narrator.command(
            f"nodeproxy metrics | grep -E '^({'|'.join(starts)})' | grep -v ' 0$'"
        )
        self.narrator.quote("\n".join(self.stage.metric_lines(*starts)))

    def any_result(self, result: Result) -> bool:
        return True

    def every_client(self, count: int, matching: Callable[[Result], bool]) -> Callable[[], bool]:
        """A condition: each client has so many results of a kind."""

        def reached() -> bool:
            seen = dict.fromkeys(self.stage.clients, 0)
            for result in list(self.stage.results):
                seen[result.client] += matching(result)
            return min(seen.values()) >= count

        return reached

    def all_proxied(self) -> bool:
        """No client has used a connection past the proxy for its last requests."""
        results = list(self.stage.results)
        return all(
            all(r.via for r in [r for r in results if r.client == name][-RATE // 2 :])
            for name in self.stage.clients
        )

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Until ``condition`` holds. StageError if it does not within the deadline."""
        deadline = time.monotonic() + DEADLINE
        with self.narrator.waiting(lambda: f"until {what}: {self.pulse()}"):
            while not condition():
                self.check()
                self.stage.watch()
                if time.monotonic() > deadline:
                    raise StageError(f"waited {DEADLINE:.0f} s in vain until {what}")
                self._clock.wait(STEP)
        self.check()

    def pulse(self) -> str:
        """The clients at a glance."""
        results = list(self.stage.results)
        failed = sum(not result.ok for result in results)
        direct = sum(result.ok and not result.via for result in results)
        return f"{len(results):,} requests, {direct:,} past the proxy, {failed:,} failed"
