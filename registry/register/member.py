"""One service that is announced: its checks, its state, and what became of it."""

from __future__ import annotations

from typing import Any, Final

import trio

from registry.base import RegistryError
from registry.register.encode import Instance
from registry.register.health import Health, Tally, verdict
from registry.register.link import Holder, Link
from registry.register.machine import Event, State, step
from registry.register.options import Entry
from registry.register.pool import Pool
from registry.register.status import CheckStatus, RegistrationStatus
from registry.register.target import instance_of

__all__ = ["Member"]


class Member:
    """One entry: its checks, its state, and what became of it."""

    def __init__(self, entry: Entry, pool: Pool, log: Any) -> None:
        self.what = entry.what
        self.pool = pool
        self.state = State.WAITING
        self.action = trio.CancelScope()
        """What is under way for the present state."""
        self.probes: list[trio.CancelScope] = []
        """Its checks, which end before all else does."""
        self.done = trio.Event()
        self.writes = 0
        self.error = ""
        self._entry = entry
        self._log = log
        self._address = entry.what.address
        self._link: Link | None = None
        self._holder: Holder | None = None
        self._losses = 0
        self._since = 0.0
        self._tallies = [Tally(check.rise, check.fall) for check in entry.what.checks]
        self._results = [_Result() for _ in entry.what.checks]

    def instance(self, node: str) -> Instance:
        return instance_of(self.what, node, self._address)

    async def holder(self, link: Link, node: str) -> Holder:
        """Raises RegistryError."""
        if self._holder is None or self._link is not link:
            if not self.what.address:
                self._address = await link.address()
            try:
                written = self.pool.target.written(self.instance(node))
            except ValueError as error:
                raise RegistryError(str(error)) from None
            self._holder, self._link = link.holder(written), link
        return self._holder

    # --- what happens ---

    def result(self, number: int, wrong: str) -> None:
        """Of one check; ``wrong`` is empty if it passed."""
        tally = self._tallies[number]
        self._tallies[number] = tally.after(not wrong)
        result = self._results[number]
        result.runs += 1
        result.failures += bool(wrong)
        result.error = wrong
        result.at = trio.current_time()
        if self._tallies[number].health is not tally.health:
            self._log.info(
                "check changed",
                service=self.what.name,
                check=self.what.checks[number].title,
                health=self._tallies[number].health.name.lower(),
                error=wrong,
            )
        self.tell_health()

    def tell_health(self) -> None:
        health = verdict(self._tallies)
        if health is not Health.UNKNOWN:
            self.tell(Event.WELL if health is Health.UP else Event.ILL)

    def failed(self, error: str) -> None:
        """The registry cannot be had."""
        if error != self.error:
            self._log.warning(
                "registering failed",
                service=self.what.name,
                registry=self.pool.target.name,
                error=error,
            )
        self.error = error

    def tell(self, event: Event) -> None:
        after = step(self.state, event)
        if after is self.state:
            return
        if event is Event.LOST:
            self._losses += 1
            self._log.warning(
                "service lost", service=self.what.name, registry=self.pool.target.name
            )
        if after in (State.WITHDRAWN, State.LEFT):
            self.error = ""
        self.state = after
        self._since = trio.current_time()
        self.action.cancel()
        if after in _LOGGED:
            self._log.info(
                f"service {_LOGGED[after]}",
                service=self.what.name,
                port=self.what.port,
                registry=self.pool.target.name,
                place=self._holder.place if self._holder else "",
                error=self._ills() if after is State.WITHDRAWN else "",
            )

    def _ills(self) -> str:
        """What is wrong with the service, on one line."""
        return "; ".join(
            f"{check.title}: {result.error}"
            for check, result in zip(self.what.checks, self._results, strict=True)
            if result.error
        )

    def status(self, now: float) -> RegistrationStatus:
        target = self.pool.target
        return RegistrationStatus(
            service=self.what.name,
            port=self.what.port,
            address=self._address,
            registry=target.name,
            kind=target.kind,
            layout=target.layout,
            state=self.state,
            health=verdict(self._tallies),
            place=self._holder.place if self._holder else "",
            writes=self.writes,
            losses=self._losses,
            error=self.error,
            since_seconds=max(0.0, now - self._since) if self._since else 0.0,
            origin=self._entry.origin,
            checks=tuple(
                CheckStatus(
                    title=check.title,
                    health=tally.health,
                    runs=result.runs,
                    failures=result.failures,
                    in_a_row=max(tally.good, tally.bad),
                    error=result.error,
                    age_seconds=max(0.0, now - result.at) if result.runs else None,
                )
                for check, tally, result in zip(
                    self.what.checks, self._tallies, self._results, strict=True
                )
            ),
        )


class _Result:
    """What a check said."""

    def __init__(self) -> None:
        self.runs = 0
        self.failures = 0
        self.error = ""
        self.at = 0.0


_LOGGED: Final = {
    State.ANNOUNCED: "announced",
    State.WITHDRAWN: "withdrawn",
    State.LEFT: "withdrawn for good",
}
