"""Naming a service on the command line: completion, and "did you mean" for a wrong name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nodeproxy.cli.session import Failure, Session

if TYPE_CHECKING:
    from nodeproxy.admin.client import Client

__all__ = ["service_argument", "with_suggestion"]

F = TypeVar("F", bound=Callable[..., Any])


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    session = context.find_object(Session) or Session()
    try:
        with session.daemon() as daemon:
            names = [service.name for service in daemon.services()]
    except click.ClickException:
        return []
    return [name for name in names if name.startswith(incomplete)]


def service_argument(function: F) -> F:
    """An optional SERVICE: ``namespace/name``, or ``name`` in the namespace ``default``."""
    return click.argument("service", required=False, default="", shell_complete=_complete)(function)


@contextlib.contextmanager
def with_suggestion(daemon: Client, service: str) -> Iterator[None]:
    """Give a "no such service" the names that come close. The search is done here and not in
    the daemon, whose loop has better things to do."""
    from nodeproxy.admin.client import AdminError

    try:
        yield
    except AdminError as exc:
        if exc.status != 404 or not service:
            raise
        import difflib

        names = [view.name for view in daemon.services()]
        wanted = service if "/" in service else f"default/{service}"
        same_name = [name for name in names if name.endswith("/" + wanted.partition("/")[2])]
        close = same_name[:3] or difflib.get_close_matches(wanted, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else exc.hint
        raise Failure(str(exc), hint) from exc
