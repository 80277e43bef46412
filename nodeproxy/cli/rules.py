"""``nodeproxy rules``: what nodeproxy keeps in the kernel.

The daemon is asked when there is one. Without it the commands work on the kernel themselves,
which takes root: rules that a killed daemon left behind have to be removable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nodeproxy.cli.inspect import interception_text
from nodeproxy.cli.output import Column, Format, cell, document, number, output_option, table
from nodeproxy.cli.session import Failure, Session, daemon_options

if TYPE_CHECKING:
    from nodeproxy.admin.views import DriftView, VerifyView

__all__ = ["rules"]

_DRIFT: list[Column[DriftView]] = [
    Column("WHERE", lambda d: d.where),
    Column("KIND", lambda d: d.kind),
    Column("DIFFERENCE", lambda d: d.message),
]


@click.group()
def rules() -> None:
    """Show, verify, repair or remove what nodeproxy keeps in the kernel.

    Asks the daemon; where none answers, the kernel itself, which needs root.
    """


@rules.command()
@output_option
@daemon_options
@click.pass_obj
def show(session: Session, format_: Format) -> None:
    """The rules, sets, addresses and routes of nodeproxy that are in the kernel."""
    if _running(session):
        with session.daemon() as daemon:
            view = daemon.rules()
    else:
        from nodeproxy.cli import kernel

        view = kernel.show(session.load_if_any())
    if format_ != "table":
        document(view, format_)
        return
    click.echo(f"# interception: {interception_text(view.interception)}")
    for line in view.text.splitlines():
        click.echo(cell(line))


@rules.command()
@output_option
@daemon_options
@click.pass_obj
def verify(session: Session, format_: Format) -> None:
    """Compare the kernel's state with what it should be. Ends with 1 if it differs."""
    if _running(session):
        with session.daemon() as daemon:
            view = daemon.rules_verify()
    else:
        from nodeproxy.cli import kernel

        view = kernel.verify(session.load_if_any())
    _report(view, format_, "the kernel's rules are as they should be")


@rules.command()
@output_option
@daemon_options
@click.pass_obj
def repair(session: Session, format_: Format) -> None:
    """Put right what is different. After `rules remove` it brings interception back.

    Ends with 1 if something stays different.
    """
    if not _running(session):
        raise Failure(
            "no daemon answers, and rules without one would lead traffic to nobody",
            "start it: it puts its rules in place itself; or remove them: nodeproxy rules remove",
        )
    with session.daemon() as daemon:
        view = daemon.rules_repair()
    done = f"{number(view.repaired)} differences repaired" if view.repaired else "nothing to repair"
    _report(view, format_, done)


@rules.command()
@click.option(
    "--stop-intercepting",
    is_flag=True,
    help="Needed while the daemon runs: it stays up, but sees no intercepted traffic until "
    "`rules repair` or a restart.",
)
@daemon_options
@click.pass_obj
def remove(session: Session, stop_intercepting: bool) -> None:
    """Remove everything of nodeproxy from the kernel. A second run is harmless."""
    if _running(session) and _intercepting(session):
        if not stop_intercepting:
            raise Failure(
                "the daemon is running: without its rules it no longer sees any traffic",
                "stop it first (`systemctl stop nodeproxy`), or take it out of the path with "
                "--stop-intercepting",
            )
        with session.daemon() as daemon:
            daemon.rules_remove()
        click.echo("removed; traffic no longer passes the proxy. `rules repair` brings it back")
        return
    from nodeproxy.cli import kernel

    removed = kernel.remove(session.load_if_any())
    for what in removed:
        click.echo(f"removed {cell(what)}")
    if not removed:
        click.echo("there was nothing to remove")


def _running(session: Session) -> bool:
    """Whether a daemon answers. One that is there but may not be asked, or does not answer in
    time, is an error: its rules must not be touched behind its back."""
    from nodeproxy.admin.client import NoDaemon

    try:
        with session.daemon() as daemon:
            daemon.log_level()
    except Failure as exc:
        if isinstance(exc.__cause__, NoDaemon) and exc.__cause__.absent:
            return False
        raise
    return True


def _intercepting(session: Session) -> bool:
    """A daemon in mode ``none`` has no rules: what is there, another one left behind."""
    with session.daemon() as daemon:
        return daemon.status().interception.mode != "none"


def _report(view: VerifyView, format_: Format, fine: str) -> None:
    if format_ != "table":
        document(view, format_)
    elif view.ok:
        click.echo(view.note or fine)
    else:
        table(view.drift, _DRIFT)
    if not view.ok:
        raise SystemExit(1)
