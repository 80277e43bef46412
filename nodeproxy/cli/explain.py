"""``nodeproxy explain``: one request's way, told as a story.

The daemon answers with the functions that handle traffic; here is only the telling.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from nodeproxy.cli.output import Column, Format, cell, document, output_option, pairs, table
from nodeproxy.cli.session import Failure, Session, daemon_options

if TYPE_CHECKING:
    from nodeproxy.admin.views import CandidateView, ExplainView, SettingView

__all__ = ["explain"]

_TITLES = {
    "interception": "How the packet reaches the proxy",
    "destination": "What stands behind the destination",
    "protocol": "What is spoken",
    "route": "Which rule decides",
    "balance": "Which endpoint",
    "outcome": "What comes of it",
}
_CANDIDATES: list[Column[CandidateView]] = [
    Column("", lambda c: "->" if c.picked else "*" if c.drawn else ""),
    Column("ENDPOINT", lambda c: c.address),
    Column("TAKES", lambda c: "yes" if c.eligible else "no"),
    Column("WEIGHT", lambda c: str(c.weight), right=True),
    Column("ZONE", lambda c: c.zone),
    Column("ACTIVE", lambda c: str(c.active_requests), right=True),
    Column("SHARE", lambda c: "" if c.share is None else f"{c.share:.1%}", right=True),
    Column("WHY", lambda c: c.why),
]

_SETTINGS: list[Column[SettingView]] = [
    Column("SETTING", lambda s: s.name),
    Column("VALUE", lambda s: s.value),
    Column("FROM", lambda s: s.origin),
]


@click.command()
@click.argument("method")
@click.argument("url")
@click.option("-H", "--header", "headers", multiple=True, help='A header, "name: value".')
@click.option(
    "--from",
    "source",
    default="",
    metavar="ADDRESS",
    help="IP address of the client: a pod's, or another host's [default: a process of this node].",
)
@output_option
@daemon_options
@click.pass_obj
def explain(
    session: Session, method: str, url: str, headers: tuple[str, ...], source: str, format_: Format
) -> None:
    """What would happen to a request, and why. Nothing is sent.

    URL is http://HOST[:PORT]/PATH or tcp://HOST:PORT; HOST is an address, a service as
    name.namespace, or a name. Ends with 1 if the request would not reach an endpoint.

    \b
    nodeproxy explain GET http://10.96.0.10/cart --from 10.244.1.11
    nodeproxy explain POST http://web.shop/cart -H "version: two"
    """
    from nodeproxy.admin.query import BadQuery, explain_query

    try:
        query = explain_query(method=method, url=url, headers=headers, source=source)
    except BadQuery as exc:
        raise Failure(str(exc), exit_code=2) from None
    with session.daemon() as daemon:
        view = daemon.explain(query)
    if format_ == "table":
        _story(view)
    else:
        document(view, format_)
    if view.outcome in ("refused", "unreachable"):
        raise SystemExit(1)


def _story(view: ExplainView) -> None:
    query = view.query
    origin = query.source or "a process of this node"
    click.echo(f"{query.method} {cell(query.url)} from {origin}")
    for name, value in query.headers:
        click.echo(f"  {cell(name)}: {cell(value)}")
    click.echo(f"=> {cell(view.summary)}")
    # The outcome often says the summary again.
    steps = [step for step in view.steps if step.what != view.summary or step.why]
    stages = [s for s in _TITLES if any(step.stage == s for step in steps)]
    for stage in [*stages, *(["balance"] if view.candidates and "balance" not in stages else [])]:
        click.echo(f"\n{_TITLES[stage]}")
        for step in steps:
            if step.stage == stage:
                click.echo(f"  {'match' if step.matched else 'miss '}  {cell(step.what)}")
                _wrapped(step.why, "         ")
        if stage == "balance":
            _balance(view)
    if view.retry:
        click.echo("\nIf that one can't be reached")
        _wrapped(view.retry, "  ")
    if view.status or view.flags:
        click.echo("\nWhat the client gets")
        status = str(view.status) if view.status else "a reset connection"
        pairs([("status", status), ("flags", view.flags)])
    if view.settings:
        click.echo("\nSettings in force")
        table(view.settings, _SETTINGS, indent="  ")
    if view.notes:
        click.echo("\nNotes")
        for note in view.notes:
            _wrapped(note, "  ")


def _balance(view: ExplainView) -> None:
    if view.balance:
        _wrapped(": ".join(part for part in (view.balance, view.balance_why) if part), "  ")
    if view.candidates:
        table(view.candidates, _CANDIDATES, indent="  ")
        if any(candidate.drawn and not candidate.picked for candidate in view.candidates):
            click.echo("  (-> picked, * drawn and compared)")


def _wrapped(text: str, indent: str) -> None:
    if text:
        click.echo(textwrap.fill(cell(text), 96, initial_indent=indent, subsequent_indent=indent))
