"""What every command shares: which daemon, which configuration, and how failure is told."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    import httpx

    from nodeproxy.admin.client import Client
    from nodeproxy.config import Config

__all__ = [
    "DEFAULT_CONFIG",
    "DEFAULT_SOCKET",
    "Failure",
    "Session",
    "config_option",
    "daemon_options",
]

DEFAULT_CONFIG = "/etc/nodeproxy/nodeproxy.yaml"
DEFAULT_SOCKET = "/run/nodeproxy/admin.sock"

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """A command ends with this message and, on its own line, what to do about it."""

    def __init__(self, message: str, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"Error: {self.message}", file=file, err=file is None)
        if self.hint:
            click.echo(f"  {self.hint}", file=file, err=file is None)


@dataclass
class Session:
    """The answers to ``--socket`` and ``--config``, given before or after the command."""

    socket: str | None = None
    config: str | None = None
    transport: httpx.BaseTransport | None = None
    """Reaches the daemon in another way than by the socket (tests)."""

    @contextlib.contextmanager
    def daemon(self) -> Iterator[Client]:
        """The daemon's client. Whatever goes wrong with it becomes a Failure."""
        from nodeproxy.admin.client import AdminError, Client

        try:
            with Client(self.socket_path(), transport=self.transport) as client:
                yield client
        except AdminError as exc:
            raise Failure(str(exc), exc.hint) from exc

    def socket_path(self) -> str:
        """``--socket``, else the one that an explicitly named configuration says."""
        if self.socket:
            return self.socket
        return self.load().admin.socket if self.config else DEFAULT_SOCKET

    def load(self) -> Config:
        """The configuration. Failure (2) with every problem if it is wrong or absent."""
        from nodeproxy.config import EXAMPLE, ConfigError, load

        path = self.config or DEFAULT_CONFIG
        try:
            return load(path)
        except FileNotFoundError:
            example = "".join(f"    {line}\n" for line in EXAMPLE.splitlines())
            raise Failure(
                f"there is no configuration {path}",
                f"--config FILE or NODEPROXY_CONFIG names another one; a first one could be:\n\n"
                f"{example}\n  Every key: docs/configuration.md",
                exit_code=2,
            ) from None
        except OSError as exc:
            raise Failure(f"cannot read {path}: {exc.strerror}", exit_code=2) from exc
        except ConfigError as exc:
            count = len(exc.problems)
            for problem in exc.problems:
                click.echo(problem, err=True)
            raise Failure(
                f"{path} has {count} problem{'s' if count > 1 else ''}", exit_code=2
            ) from exc

    def load_if_any(self) -> Config | None:
        """The configuration, or None where none was named and none stands in its place."""
        if not self.config and not os.path.exists(DEFAULT_CONFIG):
            return None
        return self.load()


def daemon_options(function: F) -> F:
    """``--socket`` and ``--config``: the daemon to ask, by its socket or its configuration."""
    return click.option(
        "--socket",
        envvar="NODEPROXY_SOCKET",
        metavar="PATH",
        type=click.Path(dir_okay=False),
        expose_value=False,
        callback=_remember("socket"),
        help=f"The daemon's admin socket [NODEPROXY_SOCKET; default: {DEFAULT_SOCKET}].",
    )(config_option(function))


def config_option(function: F) -> F:
    """``--config``: the file to read."""
    return click.option(
        "--config",
        envvar="NODEPROXY_CONFIG",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        expose_value=False,
        callback=_remember("config"),
        help=f"The configuration [NODEPROXY_CONFIG; default: {DEFAULT_CONFIG}].",
    )(function)


def _remember(name: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        session = context.ensure_object(Session)
        # The environment is asked at both levels: it must not undo what the group was given.
        source = context.get_parameter_source(str(parameter.name))
        explicit = source is click.core.ParameterSource.COMMANDLINE
        if value and (explicit or getattr(session, name) is None):
            setattr(session, name, str(Path(value)))

    return callback
