"""The command that shows what this node announces of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nodeproxy.cli.output import Column, Format, ago, listing, number, output_option
from nodeproxy.cli.session import Session, daemon_options

if TYPE_CHECKING:
    from nodeproxy.admin.registered import CheckView, RegistrationView

__all__ = ["registrations"]


@click.command()
@output_option
@daemon_options
@click.pass_obj
def registrations(session: Session, format_: Format) -> None:
    """This node's own services in registries, and how their checks go."""
    columns: list[Column[RegistrationView]] = [
        Column("SERVICE", lambda r: r.service),
        Column("ADDRESS", lambda r: r.address),
        Column("REGISTRY", lambda r: r.registry),
        Column("STATE", lambda r: r.state),
        Column("FOR", lambda r: ago(r.since_seconds), right=True),
        Column("CHECKS", lambda r: ", ".join(_check(c) for c in r.checks) or "none"),
        Column("LOST", lambda r: number(r.losses) if r.losses else "", right=True),
        Column("PLACE", lambda r: r.place),
        Column("WHY", _why),
    ]
    with session.daemon() as daemon:
        found = daemon.registrations()
    empty = "This node announces no service; see `register` in the configuration"
    listing(found, columns, format_, empty)


def _check(check: CheckView) -> str:
    return f"{check.check} {check.state}"


def _why(one: RegistrationView) -> str:
    """What keeps it from being announced."""
    parts = [one.last_error]
    parts += [f"{c.check}: {c.last_error}" for c in one.checks if c.last_error]
    return "; ".join(part for part in parts if part)
