"""Interception: the whole life of our rules on one node.

`install` puts everything in place, with the switch fallen; `sync` and `update` say which
addresses are served; `beat`, called from the proxy's own loop, holds the switch, and when
that loop hangs or dies the switch falls by itself. `watch` looks whether someone else has changed
something and repairs it, `release` lets the switch fall at once, `remove` leaves nothing.

`verify`, `release`, `remove` and `trace` also serve a process that never installed: they look
at the machine, not at what this object remembers.
"""

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Never, Self

import trio

from iptables import live, names
from iptables.detect import Detected, detect, ipv6_usable, nftables_kube_proxy
from iptables.drift import Drift, RepairLimit, compare
from iptables.errors import (
    CommandError,
    InterceptionError,
    LockHeldError,
    ProgramMissingError,
)
from iptables.host import Host, Log, Silent
from iptables.kernel_path import Key
from iptables.matches import Packet
from iptables.names import Family
from iptables.netlink import Heart, IpSets, Links
from iptables.programmed import Programmed
from iptables.removal import remove_everything, remove_rules
from iptables.rules import install_text, rules, saved_text, sets_text
from iptables.saved import parse_save
from iptables.settings import Frontend, Settings, both, canonical, family_of
from iptables.tracer import Trace, trace
from iptables.watch import RuleEvents

_TRIES = 4
_DEBOUNCE = 0.05
_NFTABLES_MODE = "kube-proxy is here (nft table kube-proxy)"
_LONGEST_CALM = 60.0  # seconds between looks when looking is slow


@dataclass(frozen=True)
class InterceptionStatus:
    """What an operator wants to know; `last_beat_age` in seconds, None before the first beat."""

    installed: bool
    backend: str
    backend_reason: str
    families: tuple[Family, ...]
    live: bool
    last_beat_age: float | None
    beat_error: int
    frontends: int
    kernel_path: bool
    kernel_path_reason: str
    fail: str
    rules: int
    repairs: int
    drift: tuple[Drift, ...]


class Interception:
    """See the module's text. All async methods may be called from any task, one works at a time."""

    def __init__(
        self, settings: Settings, log: Log | None = None, *, host: Host | None = None
    ) -> None:
        self.settings = settings
        self._log: Log = log or Silent()
        self._host = host or Host()
        self._detected: Detected | None = None
        self._families: tuple[Family, ...] = ()
        self._kernel_reason = ""
        self._kernel_on = False
        self._programmed = Programmed(self._host, settings, ())
        self._sets: IpSets | None = None
        self._heart: Heart | None = None
        self._installed = False
        self._last_beat: float | None = None
        self._beat_error = 0
        self._repairs = 0
        self._drift: tuple[Drift, ...] = ()
        self._lock = trio.Lock()
        self._wake = trio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close our sockets; the machine stays as it is, and the switch falls by itself."""
        self._installed = False
        for opened in (self._heart, self._sets):
            if opened is not None:
                opened.close()
        self._heart = self._sets = None

    async def install(self) -> None:
        """Put everything in place and read it back. Raises InterceptionError.

        Harmless over an older run's leftovers: what that one served goes on being served.
        """
        async with self._lock:
            await self._look_around()
            await self._put_in_place()
            found = await self._differences()
            if found:
                raise InterceptionError(
                    f"the rules were installed, but reading back shows: {found[0]}"
                    + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
                )
            self._open()
            self._installed = True
        detected = self._known()
        self._log.info(
            "interception installed",
            backend=detected.backend.name,
            backend_reason=detected.why,
            families=list(self._families),
            kernel_path=self._kernel_on,
            kernel_path_reason=self._kernel_reason,
        )

    async def sync(self, frontends: Iterable[Frontend]) -> None:
        """Serve exactly these addresses."""
        async with self._lock:
            await self._programmed.replace(frontends)

    async def update(self, upserts: Iterable[Frontend], removals: Iterable[Key]) -> None:
        """Change what is served; the cost is that of the change. Removals come first."""
        async with self._lock:
            if self._sets is None:
                self._sets = IpSets(self._host)
            try:
                await self._programmed.change(self._sets, upserts, removals)
            except InterceptionError as error:
                # Someone has touched sets or maps: the memory of what they hold is worthless.
                self._log.warning("interception update failed, starting over", error=str(error))
                await self._programmed.replace(tuple(self._programmed.frontends.values()))

    def beat(self) -> None:
        """Hold the switch for another `expiry` seconds. Plain, quick, never raises or waits."""
        if not self._installed or self._heart is None:
            return
        error = self._heart.beat()
        if error == 0:
            self._last_beat = time.monotonic()
        elif error != self._beat_error:
            self._wake.set()
        self._beat_error = error

    def release(self) -> None:
        """Let the switch fall at once: new connections take the kernel path (or are refused with
        `fail: closed`), established ones stay. Rules stay. `install` takes up again.
        """
        self._installed = False
        sets = self._sets or IpSets(self._host)
        try:
            sets.flush([names.OUT_LIVE, names.IN_LIVE])
        finally:
            if self._sets is None:
                sets.close()

    async def verify(self) -> tuple[Drift, ...]:
        """All differences between what should be and what is, read from the machine."""
        async with self._lock:
            if self._detected is None:
                await self._look_around()
            self._drift = await self._differences()
            return self._drift

    async def repair(self) -> tuple[Drift, ...]:
        """Verify, put right what is wrong, and return what was wrong."""
        async with self._lock:
            if self._detected is None:
                await self._look_around()
            found = await self._differences()
            if found:
                await self._look_around()
                await self._put_in_place()
                if self._programmed.given:
                    await self._programmed.replace(tuple(self._programmed.frontends.values()))
                self._repairs += 1
                self._beat_error = 0
            self._drift = await self._differences()
        return found

    async def watch(self, limit: RepairLimit | None = None) -> Never:
        """Look for changes by others (at events, and every `poll` seconds) and repair them."""
        limit = limit or RepairLimit()
        async with trio.open_nursery() as nursery:
            if self._known().backend.name == "nft" or self._kernel_on:
                nursery.start_soon(self._listen)
            while True:
                with trio.move_on_after(self.settings.poll):
                    await self._wake.wait()
                self._wake = trio.Event()
                await trio.sleep(_DEBOUNCE)
                started = trio.current_time()
                try:
                    found = await self.verify()
                    # With kube-proxy's 50,000 rules one look takes half a second of CPU.
                    calm = 10 * (trio.current_time() - started)
                    if found:
                        await self._answer(found, limit)
                except InterceptionError as error:
                    self._log.error("interception could not be checked", error=str(error))
                    calm = self.settings.poll
                await trio.sleep(min(_LONGEST_CALM, calm))

    async def remove(self) -> tuple[str, ...]:
        """Remove everything of ours, of this and of older runs; what was removed, in words."""
        async with self._lock:
            self.close()
            self._detected = None
            self._programmed = Programmed(self._host, self.settings, ())
            removed = await remove_everything(self._host, self.settings)
        self._log.info("interception removed", removed=list(removed))
        return removed

    def status(self) -> InterceptionStatus:
        detected = self._detected
        age = None if self._last_beat is None else time.monotonic() - self._last_beat
        return InterceptionStatus(
            installed=self._installed,
            backend=detected.backend.name if detected else "",
            backend_reason=detected.why if detected else "",
            families=self._families,
            live=self._installed and age is not None and age < self.settings.expiry,
            last_beat_age=age,
            beat_error=self._beat_error,
            frontends=len(self._programmed.frontends),
            kernel_path=self._kernel_on,
            kernel_path_reason=self._kernel_reason,
            fail=self.settings.fail,
            rules=sum(
                len(table.jumps) + sum(map(len, table.chains.values()))
                for family in self._families
                for table in rules(self.settings, family)
            ),
            repairs=self._repairs,
            drift=self._drift,
        )

    async def trace(self, packet: Packet, *, generated: bool = False) -> Trace:
        """Follow a packet through what is on the machine now, or (`generated`) should be."""
        family = family_of(packet.destination)
        key = (canonical(packet.destination), packet.port)
        async with self._lock:
            if self._detected is None:
                await self._look_around()
            if generated:
                ruleset = parse_save(saved_text(rules(self.settings, family)))
            else:
                ruleset = await self._known().backend.read(self._host, family)
            sets = await live.read_sets(self._host)
            slots = None
            if self._kernel_on or self._host.has("nft"):
                slots = await live.read_kernel_path(self._host, family, key)
            with Links(self._host) as links:
                local = tuple(links.addresses(family))
                routes = {route.cidr: "lo" for route in links.routes(family)}
        return trace(
            ruleset,
            sets,
            packet,
            kernel_path={key: slots} if slots is not None else None,
            local=local,
            routes=routes,
            refuse_port=self.settings.refuse_port,
        )

    def _known(self) -> Detected:
        if self._detected is None:
            raise InterceptionError("nothing is known of this machine yet", "call install first")
        return self._detected

    async def _look_around(self) -> None:
        """Find out which iptables, which families, and whether the kernel path is ours to make."""
        detected = await detect(self._host, self.settings)
        ipv6 = await ipv6_usable(self._host, self.settings, detected.backend)
        self._kernel_on, self._kernel_reason = self._kernel_decision(detected)
        self._families = both(ipv6)
        self._detected = detected
        self._programmed.adopt(self._families, self._kernel_on)
        if self._kernel_reason == _NFTABLES_MODE:
            self._log.warning(
                "kube-proxy runs in nftables mode: which of us sees a packet first depends on"
                " who was started first; use its iptables mode"
            )

    def _kernel_decision(self, detected: Detected) -> tuple[bool, str]:
        wanted = self.settings.kernel_path
        if wanted == "off":
            return False, "configured"
        if wanted == "on":
            if not self._host.has("nft"):
                raise ProgramMissingError("nft")
            return True, "configured"
        if detected.kube_proxy:
            return False, "kube-proxy is here (chain KUBE-SERVICES)"
        if nftables_kube_proxy(self._host):
            return False, _NFTABLES_MODE
        if not self._host.has("nft"):
            return False, "the program nft is missing (package nftables)"
        return True, "no kube-proxy is here"

    async def _put_in_place(self) -> None:
        detected = self._known()
        host = self._host
        await host.run("ipset", "-exist", "restore", text=sets_text(self.settings))
        live.ensure_links(host, self.settings, self._families)
        for family in self._families:
            if detected.other is not None:
                await remove_rules(host, detected.other, family)
            await self._install_rules(family)
        if self._kernel_on and live.kernel_path_drift(host, self._families, True):
            text = "".join(path.replace(()) for path in self._programmed.kernel.values())
            await host.run("nft", "-f", "-", text=text)
        if not self._kernel_on:
            for drift in live.kernel_path_drift(host, self._families, False):
                table = drift.text.removesuffix(" is left over")
                await host.run("nft", "-f", "-", text=f"delete {table}\n")

    async def _install_rules(self, family: Family) -> None:
        backend = self._known().backend
        expected = rules(self.settings, family)
        for attempt in range(_TRIES):
            seen = await backend.read(self._host, family)
            try:
                await backend.write(self._host, family, install_text(expected, seen))
                return
            except (CommandError, LockHeldError) as error:
                # Someone changed the tables between reading and writing, or holds the lock.
                if attempt == _TRIES - 1:
                    raise
                self._log.warning("rules not accepted, trying again", error=str(error))
                await trio.sleep(0.1 * (attempt + 1))

    async def _differences(self) -> tuple[Drift, ...]:
        host, settings = self._host, self.settings
        now = await detect(host, settings)
        backend = self._known().backend
        found = []
        if now.backend.name != backend.name:
            text = f"{now.why}, and our rules are in iptables-{backend.name}"
            found.append(Drift("backend", f"iptables-{now.backend.name}", text))
        kernel_on, why = self._kernel_decision(now)
        if kernel_on != self._kernel_on:
            found.append(Drift("kernel-path", "nft", why))
        found += await live.sets_drift(host, self._programmed.set_sizes())
        for family in self._families:
            same = family == 4 and now.backend.name == backend.name
            seen = now.seen if same else await backend.read(host, family)
            found += compare(rules(settings, family), seen, live.TOOL[family])
        found += live.links_drift(host, settings, self._families)
        found += live.kernel_path_drift(host, self._families, self._kernel_on)
        return tuple(found)

    def _open(self) -> None:
        if self._sets is None:
            self._sets = IpSets(self._host)
        if self._heart is None:
            members = [(names.OUT_LIVE, names.VIP[family]) for family in self._families]
            if self.settings.inbound:
                members += [(names.IN_LIVE, names.POD[family]) for family in self._families]
            self._heart = Heart(self._host, members, self.settings.expiry)

    async def _listen(self) -> Never:
        while True:
            try:
                with contextlib.closing(RuleEvents(self._host)) as events:
                    while True:
                        await events.changed()
                        self._wake.set()
            except InterceptionError as error:
                self._log.warning("changes of rules are looked for, not told", error=str(error))
                await trio.sleep(self.settings.poll)

    async def _answer(self, found: tuple[Drift, ...], limit: RepairLimit) -> None:
        """Say what was found and repair it, as soon as the limit allows."""
        pause = limit.wait(trio.current_time())
        self._log.warning(
            "interception was changed by someone else",
            drift=[str(drift) for drift in found[:5]],
            differences=len(found),
            repair_in=round(pause, 1),
        )
        await trio.sleep(pause)
        await self.repair()
        limit.repaired(trio.current_time())
        self._log.info("interception repaired", repairs=self._repairs, left=len(self._drift))
