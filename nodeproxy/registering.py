"""What this node announces of itself: made of the configuration, shown, measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from nodeproxy.admin.registered import CheckView, RegistrationView
from nodeproxy.config import Config
from nodeproxy.core.destination import host_port
from nodeproxy.settings import register_entries, registry_specs
from nodeproxy.telemetry.families import Families
from registry.register.health import Health
from registry.register.runner import Registrations
from registry.register.status import RegistrationStatus

__all__ = ["publish", "registration_views", "registrations"]


def registrations(config: Config, *, node: str, mark: int, log: Any) -> Registrations | None:
    """None where nothing is announced. Raises SpecError."""
    if not config.register:
        return None
    return Registrations(
        register_entries(config), registry_specs(config), node=node, mark=mark, log=log
    )


def registration_views(statuses: Iterable[RegistrationStatus]) -> tuple[RegistrationView, ...]:
    return tuple(
        RegistrationView(
            service=s.service,
            address=host_port((s.address, s.port)),
            registry=s.registry,
            kind=s.kind,
            layout=s.layout,
            state=s.state.name.lower(),
            meaning=s.state.value,
            up=s.health is Health.UP,
            announced=s.announced,
            place=s.place,
            since_seconds=round(s.since_seconds, 3),
            writes=s.writes,
            losses=s.losses,
            last_error=s.error,
            origin=s.origin,
            checks=tuple(
                CheckView(
                    check=c.title,
                    state=c.health.name.lower(),
                    runs=c.runs,
                    failures=c.failures,
                    in_a_row=c.in_a_row,
                    last_error=c.error,
                    age_seconds=None if c.age_seconds is None else round(c.age_seconds, 3),
                )
                for c in s.checks
            ),
        )
        for s in statuses
    )


def publish(made: Registrations, families: Families) -> None:
    """Have the metrics read at each scrape. Two entries with the same labels (a service with an
    address of each family) are shown by the worse one."""
    families.registration_up.callback(
        lambda: _worst((s, s.health is Health.UP) for s in made.statuses())
    )
    families.registration_announced.callback(
        lambda: _worst((s, s.announced) for s in made.statuses())
    )
    families.registration_losses.callback(
        lambda: _sums((_labels(s), s.losses) for s in made.statuses())
    )
    families.registration_check_failures.callback(
        lambda: _sums(
            ((s.service, str(s.port), check.title), check.failures)
            for s in made.statuses()
            for check in s.checks
        )
    )


def _labels(status: RegistrationStatus) -> tuple[str, ...]:
    return (status.service, str(status.port), status.registry)


def _worst(
    values: Iterable[tuple[RegistrationStatus, bool]],
) -> list[tuple[tuple[str, ...], float]]:
    found: dict[tuple[str, ...], float] = {}
    for status, well in values:
        labels = _labels(status)
        found[labels] = min(found.get(labels, 1.0), float(well))
    return list(found.items())


def _sums(values: Iterable[tuple[tuple[str, ...], int]]) -> list[tuple[tuple[str, ...], float]]:
    found: Counter[tuple[str, ...]] = Counter()
    for labels, value in values:
        found[labels] += value
    return list(found.items())
