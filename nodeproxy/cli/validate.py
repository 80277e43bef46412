"""``nodeproxy validate``"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nodeproxy.cli.output import Format, cell, document, number, output_option
from nodeproxy.cli.session import Failure

if TYPE_CHECKING:
    from nodeproxy.cli.validation import Report

__all__ = ["validate"]


@click.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--diff", "diff", is_flag=True, help="Compare two: OLD NEW; print what changes in effect."
)
@output_option
def validate(paths: tuple[str, ...], diff: bool, format_: Format) -> None:
    """Check files before they are used: a configuration (with the files of services and routes
    that it names), a file of services, of routes and policies, or a folder of these.

    Every problem is printed as `file:line: field: message`. Ends with 1 if there is one.
    Nothing is changed and no network is used.

    With --diff, two files or folders of routes (or two configurations) are compared by what they
    mean: `+` a match of a rule that is new, `-` one that is gone, `~` one that does something
    else, is hidden by another rule, or no longer is.
    """
    from nodeproxy.cli.validation import validate_path

    if diff:
        _compare(paths, format_)
        return
    reports = []
    for path in paths:
        try:
            reports += validate_path(path)
        except OSError as exc:
            raise Failure(f"cannot read {path}: {exc.strerror or exc}", exit_code=2) from exc
    if format_ != "table":
        document(reports if len(reports) > 1 else reports[0], format_)
    else:
        _show(reports)
    if not all(report.ok for report in reports):
        raise SystemExit(1)


def _show(reports: list[Report]) -> None:
    for report in reports:
        for problem in report.problems:
            click.echo(cell(str(problem)))
        for warning in report.warnings:
            click.echo(f"{cell(str(warning))} (warning)")
        counts = f"{number(report.services)} services, {number(report.endpoints)} endpoints"
        if report.kind == "routes":
            counts = f"{number(report.routes)} objects"
        elif report.routes:
            counts += f", {number(report.routes)} routes and policies"
        count = len(report.problems)
        verdict = "ok" if report.ok else f"{count} problem{'s' if count > 1 else ''}"
        click.echo(f"{report.path}: {report.kind}: {verdict} ({counts})")


def _compare(paths: tuple[str, ...], format_: Format) -> None:
    from nodeproxy.cli.validation import compare

    if len(paths) != 2:
        raise click.UsageError("--diff takes two: OLD NEW")
    try:
        reports, differences = compare(*paths)
    except OSError as exc:
        raise Failure(f"cannot read {exc.filename}: {exc.strerror or exc}", exit_code=2) from exc
    wrong = [report for report in reports if not report.ok]
    if wrong:
        _show(wrong)
        raise SystemExit(1)
    if format_ != "table":
        document(differences, format_)
        return
    for difference in differences:
        click.echo(cell(str(difference)))
    if not differences:
        click.echo("no change in effect")
