"""The command ``nodeproxy``: a table of commands, each loaded when it is asked for.

Exit status: 0 ok, 1 the answer is no (not ready, drift, a problem was found, no daemon), 2 the
command line or the configuration is wrong.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from nodeproxy.cli.session import Session, daemon_options

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS = {
    "run": ("run", "Run the proxy of this node."),
    "demo": ("demo", "Show a node at work, from interception to a killed endpoint."),
    "check": ("check", "Is everything in place? Named checks, each with a hint."),
    "validate": ("validate", "Check a configuration, services or routes before they are used."),
    "status": ("inspect", "The daemon on one page."),
    "services": ("inspect", "The services that the registries know."),
    "endpoints": ("inspect", "The endpoints, and why each one is in or out."),
    "routes": ("inspect", "Which address leads to which service."),
    "registries": ("inspect", "The registries: state, age and problems."),
    "registrations": (
        "registrations",
        "This node's own services in registries, and how their checks go.",
    ),
    "hosts": ("hosts", "Lines for a hosts file: every service with a virtual address."),
    "metrics": ("inspect", "The metrics in the Prometheus text format."),
    "explain": ("explain", "What would happen to a request, and why."),
    "rules": ("rules", "Show, verify, repair or remove the rules in the kernel."),
    "log-level": ("log_level", "Show or change the daemon's log level."),
    "install": ("install", "Print the files that an installation needs."),
    "completion": ("completion", "Print the completion script for a shell."),
}
"""Command -> (module of this package, short help). The help stands here too, so that the list
of commands is printed without importing any of them."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"nodeproxy.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f' Did you mean "{close[0]}"?' if close else ""
            ctx.fail(f'No such command "{args[0]}".{hint}')
        return super().resolve_command(ctx, args)


def _version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from nodeproxy import __version__

        click.echo(f"nodeproxy {__version__}")
        context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Print the version.",
)
@daemon_options
@click.pass_context
def cli(context: click.Context) -> None:
    """A service mesh in one process per node.

    iptables hands the node's traffic to the proxy, a registry names the endpoints, and every
    decision can be explained. Exit status: 0 ok, 1 the answer is no, 2 wrong usage.
    """
    context.ensure_object(Session)


def main(**extra: Any) -> None:
    """The entry point."""
    cli.main(prog_name="nodeproxy", **extra)


if __name__ == "__main__":
    main()
