"""What the admin API answers about this node's own services that are announced to registries."""

from __future__ import annotations

import msgspec

__all__ = ["CheckView", "RegistrationView"]


class CheckView(msgspec.Struct, frozen=True):
    """One health check of one service."""

    check: str
    """``http :8081/health``"""
    state: str
    """``unknown``, ``up`` or ``down``"""
    runs: int = 0
    failures: int = 0
    """Of these, the ones that failed."""
    in_a_row: int = 0
    """Results of the last kind, counted up to ``rise`` or ``fall``."""
    last_error: str = ""
    """What was wrong the last time; empty if nothing was."""
    age_seconds: float | None = None
    """Since the last result."""


class RegistrationView(msgspec.Struct, frozen=True):
    """One entry of ``register``: a service in a registry."""

    service: str
    """``namespace/name``"""
    address: str
    """``address:port``; ``:port`` while the address is not known, or Consul's to tell."""
    registry: str
    kind: str
    layout: str
    state: str
    """``waiting``, ``announcing``, ``announced``, ``withdrawing``, ``withdrawn``, ``leaving`` or
    ``left``; ``meaning`` says what that is."""
    meaning: str = ""
    up: bool = False
    """All of its checks pass."""
    announced: bool = False
    """The registry has it."""
    place: str = ""
    """The key, path or ID in the registry."""
    since_seconds: float = 0.0
    """In this state."""
    writes: int = 0
    """Times that it was written."""
    losses: int = 0
    """Times that the registry had it no more, or could not be asked."""
    last_error: str = ""
    """Why the registry cannot be had now."""
    origin: str = ""
    """``nodeproxy.yaml:12``"""
    checks: tuple[CheckView, ...] = ()
