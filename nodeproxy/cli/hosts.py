"""The command that gives services their names without a DNS server: lines for a hosts file."""

from __future__ import annotations

import click

from nodeproxy.cli.output import Format, cell, document, output_option
from nodeproxy.cli.session import Session, daemon_options

__all__ = ["hosts"]


@click.command()
@click.option(
    "--suffix",
    default="",
    metavar="NAME",
    help="What stands behind the names; by default dns.suffix of the daemon's configuration.",
)
@output_option
@daemon_options
@click.pass_obj
def hosts(session: Session, format_: Format, suffix: str) -> None:
    """Lines for a hosts file: every service with a virtual address."""
    with session.daemon() as daemon:
        found = daemon.hosts(suffix)
    if format_ != "table":
        document(found, format_)
    elif found:
        # No heading: this is what stands in the file.
        click.echo("\n".join(cell(f"{one.address} {' '.join(one.names)}") for one in found))
    else:
        click.echo("No service has a virtual address; see `vips` in the configuration", err=True)
