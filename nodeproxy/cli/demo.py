"""``nodeproxy demo``: the command; the story itself is in nodeproxy/demo."""

from __future__ import annotations

import click

__all__ = ["demo"]


@click.command()
@click.option(
    "--mode",
    type=click.Choice(["auto", "root", "user"]),
    default="auto",
    show_default=True,
    help="root: network namespaces and real interception. user: explicit listeners only.",
)
@click.option(
    "--keep-logs",
    type=click.Path(file_okay=False),
    help="Keep the logs of everything that ran in this folder.",
)
def demo(mode: str, keep_logs: str | None) -> None:
    """Show a node at work, from interception to a killed endpoint, and remove everything."""
    from nodeproxy.demo.story import main as play

    raise SystemExit(play(mode=mode, keep_logs=keep_logs))
