"""Checks this node's services and announces those that are well.

For each check there is a task, and for each service one that does what its state asks for: write,
hold, remove. A change of state interrupts what is under way. Services of one target share its link,
which is made anew after failures where that may help. Nothing that a service, a command or a
registry does ends these tasks.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import trio

from registry.backoff import Backoff
from registry.base import RegistryError
from registry.plugins import Spec, SpecError
from registry.register.checks import perform
from registry.register.machine import Event, State
from registry.register.member import Member
from registry.register.options import Check, Entry
from registry.register.pool import Pool
from registry.register.status import RegistrationStatus
from registry.register.target import resolve

__all__ = ["Registrations", "problems"]

CHECKS: Final = 50
"""Checks that may be under way at a time, without..."""
COMMANDS: Final = 8
"""...programs, of which there may be so many."""
DOUBTFUL: Final = 3
"""Failures in a row after which the link itself is doubted."""
BASE, CAP = 0.25, 5.0
"""Seconds between tries to reach a registry, at first and at most."""
BRIEF: Final = 1.0
"""Seconds. What was lost again sooner than that is not written again at once."""


def problems(entries: Iterable[Entry], registries: Mapping[str, Spec]) -> list[Any]:
    """Everything wrong with these entries, as :class:`registry.base.Problem`."""
    found: list[Any] = []
    for entry in entries:
        try:
            resolve(entry, registries)
        except SpecError as error:
            found += error.problems
    return found


class Registrations:
    """See the module's text."""

    def __init__(
        self,
        entries: Sequence[Entry],
        registries: Sequence[Spec],
        *,
        node: str,
        mark: int = 0,
        log: Any,
        rng: random.Random | None = None,
    ) -> None:
        """``log``: structlog's interface. Raises SpecError."""
        self._node = node
        self._mark = mark
        self._log = log
        self._rng = rng or random.Random()
        self._checks = trio.CapacityLimiter(CHECKS)
        self._commands = trio.CapacityLimiter(COMMANDS)
        self._running = False
        self._pools: dict[object, Pool] = {}
        self._members = self._made(entries, {spec.name: spec for spec in registries})
        self.stopping = False
        """:meth:`withdraw` was called."""

    def _made(self, entries: Sequence[Entry], registries: Mapping[str, Spec]) -> list[Member]:
        members, wrong = [], []
        for entry in entries:
            try:
                target = resolve(entry, registries, self._mark)
            except SpecError as error:
                wrong += error.problems
                continue
            pool = self._pools.get(target.identity)
            if pool is None:
                backoff = Backoff(self._rng, base=BASE, cap=CAP)
                pool = self._pools[target.identity] = Pool(target, backoff, self._log)
            members.append(Member(entry, pool, self._log))
        if wrong:
            raise SpecError(wrong)
        return members

    def __len__(self) -> int:
        return len(self._members)

    def statuses(self) -> tuple[RegistrationStatus, ...]:
        """In configured order."""
        now = trio.current_time() if self._running else 0.0
        return tuple(member.status(now) for member in self._members)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until :meth:`withdraw` has taken everything out, or until cancelled: then the leases
        run out."""
        if self.stopping:
            return
        self._running = True
        task_status.started()
        try:
            async with trio.open_nursery() as links:
                for pool in self._pools.values():
                    links.start_soon(pool.run)
                try:
                    async with trio.open_nursery() as nursery:
                        for member in self._members:
                            nursery.start_soon(self._announce, member)
                            for i in range(len(member.what.checks)):
                                nursery.start_soon(self._check, member, i)
                            member.tell_health()
                finally:
                    for pool in self._pools.values():
                        pool.end()
        finally:
            self._running = False
            for member in self._members:
                member.done.set()

    async def withdraw(self, timeout: float) -> None:
        """Take everything out, at most ``timeout`` seconds long, and give others the configured
        time to hear of it."""
        self.stopping = True
        if not self._running:
            return
        delay = 0.0
        for member in self._members:
            if member.writes and member.state in (State.ANNOUNCED, State.ANNOUNCING):
                delay = max(delay, member.what.withdraw_delay)
            for probe in member.probes:
                probe.cancel()
            member.tell(Event.STOP)
        with trio.move_on_after(timeout):
            for member in self._members:
                await member.done.wait()
        left = [m.what.name for m in self._members if not m.done.is_set()]
        if left:
            self._log.warning("not withdrawn in time: the leases will run out", services=left)
        await trio.sleep(delay)

    # --- checks ---

    async def _check(self, member: Member, number: int) -> None:
        check = member.what.checks[number]
        with trio.CancelScope() as scope:
            member.probes.append(scope)
            # Not all at once at the start.
            await trio.sleep(check.interval * check.jitter * self._rng.random())
            while True:
                async with self._commands if check.run else self._checks:
                    wrong = await self._perform(member, check)
                member.result(number, wrong)
                spread = check.jitter * (self._rng.random() - 0.5)
                await trio.sleep(check.interval * (1 + spread))

    async def _perform(self, member: Member, check: Check) -> str:
        try:
            return await perform(check, member.instance(self._node), self._mark)
        except Exception as error:
            self._log.error("a check crashed: please report this", exc_info=error)
            return f"{type(error).__name__}: {error}"

    # --- announcing ---

    async def _announce(self, member: Member) -> None:
        backoff = Backoff(self._rng, base=BASE, cap=CAP)
        while member.state is not State.LEFT:
            begun = trio.current_time()
            event: Event | None = None
            member.action = trio.CancelScope()
            with member.action:
                try:
                    event = await self._act(member)
                except RegistryError as error:
                    member.failed(str(error))
                except Exception as error:
                    self._log.error("an announcement crashed: please report this", exc_info=error)
                    member.failed(f"{type(error).__name__}: {error}")
            if member.action.cancelled_caught:
                backoff.failures = 0
                continue
            worked = trio.current_time() - begun
            if event is Event.LOST and worked < BRIEF:
                event = None
                member.failed("it was gone again at once")
            if event is not None:
                member.error = ""
                member.tell(event)
                continue
            if backoff.failures >= DOUBTFUL:
                member.pool.doubt()
            member.tell(Event.LOST)
            member.action = trio.CancelScope()
            with member.action:
                await trio.sleep(backoff.failed(worked))
        member.done.set()

    async def _act(self, member: Member) -> Event | None:
        """What the state asks for, and what came of it. Raises RegistryError."""
        state = member.state
        if state in (State.WAITING, State.WITHDRAWN):
            await trio.sleep_forever()
        async with member.pool.use() as link:
            holder = await member.holder(link, self._node)
            if state is State.ANNOUNCING:
                await holder.write()
                member.writes += 1
                return Event.WRITTEN
            if state is State.ANNOUNCED:
                await holder.hold()
                return Event.LOST
            await holder.remove()
        return Event.REMOVED
