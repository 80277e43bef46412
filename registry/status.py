"""What an operator is told about each registry."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from registry.base import Problem

__all__ = ["MEANING", "RegistryStatus", "State"]


class State(enum.StrEnum):
    """Where a registry's services come from now; :data:`MEANING` has a sentence for each."""

    STARTING = "starting"
    RESTORED = "restored"
    SYNCED = "synced"
    KEPT = "kept"
    STALE = "stale"
    FAILED = "failed"


MEANING: Final[Mapping[State, str]] = MappingProxyType(
    {
        State.STARTING: "The registry has not answered yet and has no services.",
        State.RESTORED: "The registry has not answered since the start; the services are those "
        "saved on disk.",
        State.SYNCED: "The registry has answered completely and its services are in use.",
        State.KEPT: "The registry answered with no service at all; its previous services are "
        "kept until the time limit of keep_on_empty.",
        State.STALE: "The registry cannot be read now; its last good services stay in use.",
        State.FAILED: "The registry cannot be read and nothing is known of its services.",
    }
)


class RegistryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One registry as of now."""

    name: str
    kind: str
    state: State
    synced: bool
    """It has answered completely at least once since the start."""
    age_seconds: float | None
    """Since it last confirmed its answer, even before a restart; None: it never has."""
    services: int
    endpoints: int
    restarts: int
    """Times that the back end was started again after an error."""
    last_error: str
    """Why the back end last stopped; empty while it is healthy."""
    problems: tuple[Problem, ...]
    """Entries that cannot be used now and what else needs a look; at most MAX_PROBLEMS."""
    problems_total: int
    from_disk: bool
    """The services are those saved before the start."""
    empty_answers_kept: int
    """Times that an empty answer was not believed."""
    kept_seconds: float | None = None
    """Since when an empty answer is not believed; None: there is none."""
    priority: int = 0
    """The lower, the more trusted."""
    services_alone: int = 0
    """Services that no other registry has."""
    services_used: int = 0
    """Services whose endpoints of this registry are in use."""
    save_failures: int
    """Times that the last good state could not be written."""
    save_error: str
    """Why it could not be written last; empty while it can."""

    @property
    def meaning(self) -> str:
        return MEANING[self.state]


MAX_PROBLEMS: Final = 200
