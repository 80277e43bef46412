"""What is known of the services that this node announces; for status and metrics."""

from __future__ import annotations

import msgspec

from registry.register.health import Health
from registry.register.machine import State

__all__ = ["CheckStatus", "RegistrationStatus"]


class CheckStatus(msgspec.Struct, frozen=True):
    """One check of one service."""

    title: str
    """``http :8081/health``"""
    health: Health
    runs: int = 0
    failures: int = 0
    """Of these, the ones that failed."""
    in_a_row: int = 0
    """Results of the last kind, at most ``rise`` or ``fall``."""
    error: str = ""
    """What was wrong the last time; empty if nothing was."""
    age_seconds: float | None = None
    """Since the last result."""


class RegistrationStatus(msgspec.Struct, frozen=True):
    """One service in one registry."""

    service: str
    port: int
    address: str
    """Empty while it is not known, or up to Consul."""
    registry: str
    kind: str
    layout: str
    state: State
    health: Health
    place: str = ""
    """The key, path or ID in the registry; empty before the first try."""
    writes: int = 0
    """Times that it was written."""
    losses: int = 0
    """Times that the registry had it no more, or could not be asked."""
    error: str = ""
    """Why the registry cannot be had now."""
    since_seconds: float = 0.0
    """In this state."""
    origin: str = ""
    checks: tuple[CheckStatus, ...] = ()

    @property
    def announced(self) -> bool:
        return self.state is State.ANNOUNCED
