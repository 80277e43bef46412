"""``nodeproxy check``: preflight before the daemon runs, health while it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from nodeproxy.cli.inspect import problem_text
from nodeproxy.cli.output import Format, ago, cell, document, output_option
from nodeproxy.cli.session import DEFAULT_CONFIG, Failure, Session, daemon_options

if TYPE_CHECKING:
    from nodeproxy.admin.client import Client
    from nodeproxy.admin.views import StatusView
    from nodeproxy.cli.checks import Check
    from nodeproxy.config import Config

__all__ = ["check"]

_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL", "skip": "-   "}


@click.command()
@output_option
@daemon_options
@click.pass_obj
def check(session: Session, format_: Format) -> None:
    """Is everything in place? Works with and without a daemon.

    Ends with 1 if a check fails; warnings do not count.
    """
    done: list[Check] = []
    for one in _all(session):
        done.append(one)
        if format_ == "table":
            _line(one)  # as they come: a daemon that hangs should not hide what is known
    failed = sum(one.result == "fail" for one in done)
    if format_ == "table":
        warned = sum(one.result == "warn" for one in done)
        click.echo(f"\n{len(done)} checks: {failed} failed, {warned} warnings")
    else:
        document(done, format_)
    if failed:
        raise SystemExit(1)


def _line(one: Check) -> None:
    click.echo(f"{_MARKS[one.result]}  {one.id:<26}  {cell(one.message)}")
    if one.hint:
        click.echo(f"      {'':<26}  -> {cell(one.hint)}")


def _all(session: Session) -> Iterator[Check]:
    from nodeproxy.cli.checks import Check, host_checks

    config: Config | None = None
    # A socket alone says nothing of the configuration; the daemon behind it knows its own.
    asked = session.config or not session.socket
    if asked:
        for one, found in _config(session.config or DEFAULT_CONFIG):
            config = found or config
            yield one
    status: StatusView | None = None
    try:
        with session.daemon() as daemon:
            status = daemon.status()
            answers = f"version {status.version}, pid {status.pid}, up {ago(status.uptime_seconds)}"
            yield Check("daemon.answers", "ok", answers)
            yield from _health(daemon, status)
    except Failure as exc:
        # Before the first start this is as it should be, so it is no failure of the host.
        yield Check("daemon.answers", "warn" if status is None else "fail", exc.message, exc.hint)
    if not asked:
        for one, found in _config((status.config if status else "") or DEFAULT_CONFIG):
            config = found or config
            yield one
    if config is not None:
        yield from host_checks(config, status.pid if status else None)
        if status is None and config.path:
            yield from _registries(config)


def _config(path: str) -> Iterator[tuple[Check, Config | None]]:
    from nodeproxy.cli.checks import Check
    from nodeproxy.config import Config, ConfigError, load

    try:
        config = load(path)
    except ConfigError as exc:
        for problem in exc.problems:
            yield Check("config.valid", "fail", str(problem), "docs/configuration.md"), None
        return
    except OSError as exc:
        # Without a file the host can still be looked at, as for the defaults.
        hint = "--config FILE names another one; `nodeproxy run` shows a first one"
        yield Check("config.valid", "fail", f"cannot read {path}: {exc.strerror}", hint), Config()
        return
    yield Check("config.valid", "ok", path), config
    for warning in config.warnings:
        yield Check("config.warnings", "warn", str(warning)), config


def _registries(config: Config) -> Iterator[Check]:
    """Without a daemon: the registries' options, and the files that they name."""
    from nodeproxy.cli.checks import Check
    from nodeproxy.cli.validation import config_report

    report = config_report(config.path)
    for problem in report.problems[:20]:
        yield Check("registries.valid", "fail", str(problem), "nodeproxy validate FILE")
    for warning in report.warnings:
        if warning not in config.warnings:
            yield Check("registries.valid", "warn", str(warning))
    if not report.problems:
        about = f"{report.services} services with {report.endpoints} endpoints in files"
        yield Check("registries.valid", "ok", about)


def _health(daemon: Client, status: StatusView) -> Iterator[Check]:
    from nodeproxy.cli.checks import Check, vips_routed

    if status.ready:
        yield Check("daemon.ready", "ok", "ready")
    for reason in status.reasons:
        yield Check("daemon.ready", "fail", reason, "nodeproxy status")
    yield from _registry_health(status)
    for conflict in status.conflicts:
        hint = "let only one of the services have it; the first registry wins"
        yield Check("registries.conflicts", "warn", conflict.message, hint)
    if status.loop.worst_stall_seconds > 0.05:
        stall = f"the loop once stood still for {status.loop.worst_stall_seconds * 1000:.0f} ms"
        hint = "is the CPU overcommitted? nodeproxy_loop_stall_seconds shows when"
        yield Check("daemon.loop", "warn", stall, hint)
    if status.interception.mode == "iptables":
        yield _switch(status)
        yield _rules(daemon)
        yield vips_routed(vip for service in daemon.services() for vip in service.vips)


def _registry_health(status: StatusView) -> Iterator[Check]:
    from nodeproxy.cli.checks import Check

    for registry in status.registries:
        about = f"{registry.name}: {registry.services} services"
        if registry.state in ("synced", "starting") and not registry.last_error:
            text = f"{about}, {registry.state}"
            yield Check("registries.synced", "ok" if registry.synced else "warn", text)
        else:
            age = f", {ago(registry.age_seconds)} old" if registry.age_seconds is not None else ""
            yield Check(
                "registries.synced",
                "fail" if registry.state == "failed" else "warn",
                f"{about}{age}: {registry.last_error or registry.meaning or registry.state}",
                "it is tried again by itself; `nodeproxy registries` shows how it goes",
            )
        for problem in registry.problems[:20]:
            text = f"{registry.name}: {problem_text(problem)}"
            yield Check("registries.problems", "warn", text)


def _switch(status: StatusView) -> Check:
    from nodeproxy.cli.checks import Check

    view = status.interception
    if view.live:
        beat = ago(view.last_beat_age_seconds) or "unknown"
        return Check("interception.live", "ok", f"the kernel hands over traffic; last beat {beat}")
    return Check(
        "interception.live",
        "fail",
        f"the kernel does not hand traffic to the proxy: {view.last_error or 'the switch is off'}",
        "`nodeproxy rules verify`, then `nodeproxy rules repair`; the daemon's log has the cause",
    )


def _rules(daemon: Client) -> Check:
    from nodeproxy.cli.checks import Check

    verified = daemon.rules_verify()
    if verified.ok:
        return Check("interception.rules", "ok", "the kernel's rules are as they should be")
    first = "differences were found"
    if verified.drift:
        first = ": ".join(p for p in (verified.drift[0].where, verified.drift[0].message) if p)
    more = f" and {len(verified.drift) - 1} more" if len(verified.drift) > 1 else ""
    return Check("interception.rules", "fail", f"{first}{more}", "nodeproxy rules repair")
