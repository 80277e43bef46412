"""``nodeproxy run``: the daemon, in the foreground."""

from __future__ import annotations

import click

from nodeproxy.cli.session import Failure, Session, config_option

__all__ = ["run"]


@click.command()
@config_option
@click.pass_obj
def run(session: Session) -> None:
    """Run the proxy of this node, in the foreground.

    Ends with 2 if the configuration is wrong: trying again would not help.
    """
    config = session.load()
    for warning in config.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if config.routes:
        place = config.origin("routes")
        click.echo(f"Warning: {place}: routes: checked, but not yet followed by traffic", err=True)
    from nodeproxy.settings import registry_problems

    if problems := registry_problems(config):
        for problem in problems:
            click.echo(problem, err=True)
        raise Failure(f"{config.path}: the registries are configured wrongly", exit_code=2)
    from nodeproxy.daemon import run as run_daemon

    raise SystemExit(run_daemon(config))
