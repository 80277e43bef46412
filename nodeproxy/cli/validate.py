"""``nodeproxy validate``"""

from __future__ import annotations

import click

from nodeproxy.cli.output import Format, cell, document, number, output_option
from nodeproxy.cli.session import Failure

__all__ = ["validate"]


@click.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@output_option
def validate(paths: tuple[str, ...], format_: Format) -> None:
    """Check files before they are used: a configuration (with the services files that it
    names), a file of services, or a folder of these.

    Every problem is printed as `file:line: field: message`. Ends with 1 if there is one.
    Nothing is changed and no network is used.
    """
    from nodeproxy.cli.validation import validate_path

    reports = []
    for path in paths:
        try:
            reports += validate_path(path)
        except OSError as exc:
            raise Failure(f"cannot read {path}: {exc.strerror or exc}", exit_code=2) from exc
    if format_ != "table":
        document(reports if len(reports) > 1 else reports[0], format_)
    else:
        for report in reports:
            for problem in report.problems:
                click.echo(cell(str(problem)))
            for warning in report.warnings:
                click.echo(f"{cell(str(warning))} (warning)")
            counts = f"{number(report.services)} services, {number(report.endpoints)} endpoints"
            count = len(report.problems)
            verdict = "ok" if report.ok else f"{count} problem{'s' if count > 1 else ''}"
            click.echo(f"{report.path}: {report.kind}: {verdict} ({counts})")
    if not all(report.ok for report in reports):
        raise SystemExit(1)
