"""``nodeproxy log-level``"""

from __future__ import annotations

import click

from nodeproxy.cli.session import Session, daemon_options

__all__ = ["log_level"]


@click.command("log-level")
@click.argument("level", required=False, type=click.Choice(["debug", "info", "warning", "error"]))
@daemon_options
@click.pass_obj
def log_level(session: Session, level: str | None) -> None:
    """Show the daemon's log level, or change it until the daemon restarts."""
    with session.daemon() as daemon:
        click.echo(daemon.set_log_level(level) if level else daemon.log_level())
