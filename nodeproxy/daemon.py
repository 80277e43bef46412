"""The composition root: the only place that knows every part and ties them together.

One trio nursery: the reactor (which carries all traffic), the registries, the interception, the
admin API and the signals. The order of a start is what makes it safe: the kernel hands over
traffic only when listeners are open and the registries have been heard, and as long as the
reactor's own loop beats.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import gc
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from iptables.errors import InterceptionError
from iptables.manager import Interception
from nodeproxy import __version__
from nodeproxy.admin.api import admin_handler, metrics_handler
from nodeproxy.admin.server import serve
from nodeproxy.admin.sockets import SocketBusy, tcp_listener, unix_listener
from nodeproxy.config import Config
from nodeproxy.core.destination import Address, host_port
from nodeproxy.core.routing.table import RouteTable
from nodeproxy.dataplane.listener import listen
from nodeproxy.dataplane.node import Node
from nodeproxy.dataplane.reactor import Reactor
from nodeproxy.dns.server import Responder, open_sockets
from nodeproxy.inspection import Inspection
from nodeproxy.intercepting import Intercepting
from nodeproxy.notify import Notifier
from nodeproxy.parts import Parts
from nodeproxy.registering import registrations
from nodeproxy.routing import Routing
from nodeproxy.settings import dataplane_settings, interception_settings, registry_specs
from nodeproxy.telemetry import log as logging
from nodeproxy.telemetry import process
from nodeproxy.telemetry.accesslog import AccessLog, AccessLogSettings
from nodeproxy.telemetry.families import Families
from nodeproxy.telemetry.metrics import Counter, Metrics
from nodeproxy.telemetry.writer import LineWriter
from registry.catalog import Catalog, Change
from registry.plugins import SpecError
from registry.supervise import Registries

__all__ = ["StartError", "run"]

WORTH_A_LINE: Final = 0.1
"""Seconds of a loop stall that is logged."""
WITHDRAW: Final = 5.0
"""Seconds in which registries have to take this node's services out when it stops."""
NOTED: Final = 0.005
"""Seconds of lateness that are a stall, and not the scheduler's grain."""


class StartError(Exception):
    """The daemon cannot start; the message says why, and what to look at."""


def run(config: Config) -> int:
    """Run the daemon until SIGTERM or SIGINT. Returns the exit code: 0 after an orderly stop,
    1 when it could not start."""
    problems: list[BaseException] = []
    try:
        trio.run(Daemon(config).run, restrict_keyboard_interrupt_to_checkpoints=True)
    except* (StartError, SpecError, InterceptionError, SocketBusy) as group:
        problems = _leaves(group)
    for error in problems:
        said = error.strerror if isinstance(error, OSError) else error
        print(f"nodeproxy: {said}", file=sys.stderr)
    return 1 if problems else 0


class Daemon:
    """All parts of one node's proxy."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.log_writer = LineWriter(sys.stderr.fileno())
        logging.configure(config.log.level, config.log.format, write=self.log_writer.write)
        self.log = logging.get_logger("daemon")
        self.notifier = Notifier()
        self.parts = self._compose()
        self.parts.registrations = registrations(
            config,
            node=self.parts.name,
            mark=self.parts.node.settings.mark,
            log=logging.get_logger("register"),
        )
        self.inspection = Inspection(self.parts)
        self._throttle = logging.Throttle(self.log, 10.0, time.monotonic)
        self._patience = trio.CancelScope()
        """The wait for what is in flight, at the end."""
        self._leaving = trio.CancelScope(shield=True)
        """The wait for registries and their readers, before that."""

    def _compose(self) -> Parts:
        """Make all parts; nothing runs yet."""
        config = self.config
        metrics = Metrics(config.telemetry.max_series)
        self.families = Families(metrics)
        self._stalls = self.families.loop_stall.bind()
        self.access_writer = self._access_writer()
        access = config.telemetry.access_log
        rng = random.Random()
        self.access_log = AccessLog(
            AccessLogSettings(access.mode, access.sample, access.slow),
            self.access_writer.write,
            rng,
        )
        reactor = Reactor()
        reactor.on_crash = self._on_crash
        reactor.on_lag = self._on_lag
        node = Node(
            dataplane_settings(config),
            reactor,
            self.families,
            self.access_log,
            rng=rng,
            log=logging.get_logger("dataplane").warning,
        )
        name = config.node.name or socket.gethostname()
        registries = Registries(
            registry_specs(config),
            on_change=self._on_change,
            state_dir=Path(config.base_dir, config.state_dir),
            node=name,
            zone=config.node.zone,
            mark=node.settings.mark,
            log=logging.get_logger("registry"),
            vips=config.vips.networks,
        )
        intercepting = None
        if config.interception.mode == "iptables":
            log = logging.get_logger("interception")
            intercepting = Intercepting(
                Interception(interception_settings(config), log),
                catalog=lambda: registries.catalog,
                listen=self._intercept,
                accepting=lambda: not node.draining,
                log=log,
            )
        responder = None
        if config.dns.listen.enabled:
            queries = self.families.dns_queries
            responder = Responder(
                config.dns.suffix,
                int(config.dns.ttl),
                count=lambda rcode: _count(queries.bind(rcode)),
                log=logging.get_logger("dns"),
            )
        started = time.time()
        routing = None
        if config.routes:

            def apply(table: RouteTable) -> None:
                node.routes = table

            routing = Routing(
                config.routes,
                catalog=lambda: registries.catalog,
                apply=apply,
                log=logging.get_logger("routes"),
            )
        return Parts(
            *(config, name, started, metrics, reactor, node, registries, intercepting, responder),
            routing=routing,
        )

    # -- a life --------------------------------------------------------------------------

    async def run(self) -> None:
        """Start, serve until told to stop, stop. What carries and shows traffic outlives what
        decides, so that requests in flight are carried to their end."""
        _raise_descriptor_limit()
        # Threads that work through large updates give way to the loop after one millisecond.
        sys.setswitchinterval(0.001)
        self._publish_metrics()
        try:
            with self._sockets() as (admin, public):
                async with trio.open_nursery() as vital:
                    await vital.start(self.parts.reactor.run)
                    await vital.start(serve, [admin], admin_handler(self.inspection))
                    if public is not None:
                        await vital.start(serve, [public], metrics_handler(self.inspection))
                    try:
                        async with trio.open_nursery() as deciding:
                            vital.start_soon(self._watch_signals, deciding.cancel_scope)
                            await self._decide(deciding)
                            if self.parts.registrations is not None:
                                vital.start_soon(self.parts.registrations.run)
                    finally:
                        await self._stop()
                        vital.cancel_scope.cancel()
        finally:
            self.parts.reactor.close()
            self.notifier.close()
            self.access_writer.close()
            self.log_writer.close()

    async def _decide(self, nursery: trio.Nursery) -> None:
        """Start the parts that may fail and come back; return when all have begun."""
        config = self.config
        nursery.start_soon(self._tell_systemd)
        await nursery.start(self.parts.registries.run)
        await self._route(nursery)  # before the first connection: it is not to pass by them
        self._listen_explicitly()
        await self.parts.registries.wait_synced()
        await self._answer_names(nursery)  # not before: what is not known yet would be denied
        self.parts.synced = True
        if self.parts.intercepting is not None:
            await nursery.start(self.parts.intercepting.run)
            self.parts.reactor.every(config.interception.expiry / 4, self.parts.intercepting.beat)
        self.parts.complete = True
        self._settle()
        self.notifier.send("READY=1", f"STATUS={self._summary()}")
        self.log.info("ready", summary=self._summary(), version=__version__)

    @contextlib.contextmanager
    def _sockets(self) -> Iterator[tuple[trio.SocketListener, trio.SocketListener | None]]:
        """The admin socket and the metrics port."""
        config = self.config
        metrics = config.telemetry.metrics
        path = Path(config.base_dir, config.admin.socket)
        public = None
        with contextlib.ExitStack() as stack:
            try:
                admin = stack.enter_context(unix_listener(path))
            except SocketBusy:
                raise
            except OSError as error:
                raise StartError(
                    f"admin.socket: cannot make {path}: {error.strerror}; its folder must be"
                    " writable for the user that runs the daemon"
                ) from error
            if metrics.enabled:
                try:
                    public = tcp_listener(metrics.host, metrics.port)
                except OSError as error:
                    raise StartError(
                        f"telemetry.metrics: cannot listen on {metrics}: {_why(error)}"
                    ) from error
            yield admin, public

    async def _stop(self) -> None:
        """Let traffic pass by, let requests end, close. Not interrupted by the cancellation
        that asks for it, and bounded in time."""
        patience = self.config.traffic.drain_timeout
        self.notifier.send("STOPPING=1")
        if self.parts.registrations is not None:
            with self._leaving:
                # Others first have to stop sending; until then all goes on as it was.
                await self.parts.registrations.withdraw(WITHDRAW)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5 + patience):
            if self.parts.intercepting is not None:
                try:
                    self.parts.intercepting.release()
                except (InterceptionError, OSError) as error:
                    self.log.error("the switch could not be released", error=str(error))
            empty = trio.Event()
            self.parts.node.lanes.on_empty = empty.set
            self.parts.node.drain()
            if len(self.parts.node.lanes):
                self._patience.deadline = trio.current_time() + patience
                with self._patience:
                    await empty.wait()
        self.parts.node.close()
        self.log.info("stopped")

    async def _watch_signals(self, scope: trio.CancelScope) -> None:
        """SIGHUP: reopen the access log. SIGTERM, SIGINT: stop; the second one: at once."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    self.access_writer.reopen()
                    self.log.info("access log reopened")
                    continue
                name = signal.Signals(number).name
                if scope.cancel_called:
                    self.log.info("stopping at once", signal=name, lanes=len(self.parts.node.lanes))
                    self._leaving.cancel()
                    self._patience.cancel()
                else:
                    self.log.info("stopping", signal=name, lanes=len(self.parts.node.lanes))
                    scope.cancel()

    def _settle(self) -> None:
        """What is here now stays for long: the collector need not look at it again. Its
        passes would be the longest stalls of the loop."""
        # Errors are spelled with it, also when there is no descriptor left to load it by.
        codecs.lookup("unicode_escape")
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    # -- listening and intercepting --------------------------------------------------------

    def _listen_explicitly(self) -> None:
        for i, listener in enumerate(self.config.listeners):
            address = (listener.bind.host, listener.bind.port)
            sock = _open(address, f"listeners[{i}].bind")
            self.parts.node.serve_port(sock, str(listener.service), listener.port)
            self.log.info("listening", address=host_port(address), service=str(listener.service))

    async def _answer_names(self, nursery: trio.Nursery) -> None:
        listen, responder = self.config.dns.listen, self.parts.responder
        if responder is None:
            return
        try:
            sockets = open_sockets(listen.host, listen.port)
        except OSError as error:
            raise StartError(f"dns.listen: cannot listen on {listen}: {_why(error)}") from error
        await nursery.start(responder.run, sockets)
        self.log.info("answering DNS", address=str(listen), suffix=self.config.dns.suffix)

    async def _route(self, nursery: trio.Nursery) -> None:
        """Have routes in force: those that are right, whatever is wrong with others."""
        routing = self.parts.routing
        if routing is None:
            return
        try:
            await nursery.start(routing.read)
        except OSError as error:
            raise StartError(f"routes: cannot watch {routing.path}: {error.strerror}") from error
        await nursery.start(routing.run)

    def _intercept(self, address: Address) -> None:
        self.parts.node.intercept(_open(address, "interception"))

    # -- what the parts report -------------------------------------------------------------

    def _on_change(self, catalog: Catalog, changes: Sequence[Change]) -> None:
        self.parts.node.update(catalog, changes)
        if self.parts.routing is not None:
            self.parts.routing.follow(catalog, changes)
        if self.parts.intercepting is not None:
            self.parts.intercepting.follow(changes)
        if self.parts.responder is not None:
            self.parts.responder.update(catalog, changes)

    def _on_crash(self, error: BaseException) -> None:
        self._throttle.error(
            type(error).__name__, "a connection's lane crashed: please report this", exc_info=error
        )

    def _on_lag(self, seconds: float) -> None:
        self._stalls.observe(max(0.0, seconds))
        if seconds > NOTED:
            self.parts.last_stall = seconds
            self.parts.worst_stall = max(self.parts.worst_stall, seconds)
            if seconds > WORTH_A_LINE:
                self._throttle.warning(
                    "loop stalled", "the loop stalled", seconds=round(seconds, 3)
                )

    def _publish_metrics(self) -> None:
        process.publish(self.families)
        self.inspection.publish(self.families)
        self.access_log.publish(self.families, self.access_writer)

    async def _tell_systemd(self) -> None:
        notifier = self.notifier
        if notifier.watchdog is not None:
            self.parts.reactor.every(notifier.watchdog / 3, notifier.alive)
        while True:
            await trio.sleep(10)
            notifier.send(f"STATUS={self._summary()}")

    def _summary(self) -> str:
        catalog = self.parts.registries.catalog
        on = self.parts.intercepting is not None and self.parts.intercepting.on
        how = "intercepting" if on else "not intercepting"
        return (
            f"{len(catalog)} services, {len(self.parts.node.lanes)} lanes, {how},"
            f" {len(self.config.listeners)} explicit listeners"
        )

    def _access_writer(self) -> LineWriter:
        path = self.config.telemetry.access_log.path
        if path == "stderr":
            return self.log_writer
        if path == "stdout":
            return LineWriter(sys.stdout.fileno())
        try:
            return LineWriter(
                Path(self.config.base_dir, path),
                failed=logging.write_failures(self.log, time.monotonic),
            )
        except OSError as error:
            raise StartError(f"telemetry.access_log.path: {path}: {error.strerror}") from error


def _count(counter: Counter) -> None:
    counter.value += 1


def _open(address: tuple[str, int], field: str) -> socket.socket:
    try:
        return listen(address)
    except OSError as error:
        raise StartError(
            f"{field}: cannot listen on {host_port(address)}: {_why(error)}"
        ) from error


def _why(error: OSError) -> str:
    """Why an address cannot be listened on, and what to do."""
    hints = {
        errno.EADDRINUSE: "another process has it; `ss -ltnp` names it",
        errno.EADDRNOTAVAIL: "this node has no such address",
        errno.EACCES: "ports below 1024 take root or CAP_NET_BIND_SERVICE",
    }
    return hints.get(error.errno or 0, error.strerror or str(error))


def _raise_descriptor_limit() -> None:
    """As many descriptors as the hard limit allows: each connection takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
