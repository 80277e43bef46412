"""The commands that look at a running daemon: status and the listings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from nodeproxy.cli.output import (
    Column,
    Format,
    ago,
    document,
    listing,
    number,
    output_option,
    pairs,
    table,
)
from nodeproxy.cli.services import service_argument, with_suggestion
from nodeproxy.cli.session import Session, daemon_options

if TYPE_CHECKING:
    from nodeproxy.admin.views import (
        EndpointView,
        InterceptionView,
        ListenerView,
        ProblemView,
        RegistryView,
        RouteView,
        ServiceView,
        StatusView,
    )

__all__ = ["endpoints", "metrics", "registries", "routes", "services", "status"]


@click.command()
@output_option
@daemon_options
@click.pass_obj
def status(session: Session, format_: Format) -> None:
    """The daemon on one page. Ends with 1 if it is not ready."""
    with session.daemon() as daemon:
        view = daemon.status()
    if format_ == "table":
        _status_page(view)
    else:
        document(view, format_)
    if not view.ready:
        raise SystemExit(1)


@click.command()
@output_option
@daemon_options
@click.pass_obj
def services(session: Session, format_: Format) -> None:
    """The services that the registries know."""
    columns: list[Column[ServiceView]] = [
        Column("SERVICE", lambda s: s.name),
        Column("VIPS", lambda s: " ".join(s.vips)),
        Column("PORTS", lambda s: " ".join(_port(p.port, p.name, p.protocol) for p in s.ports)),
        Column("ENDPOINTS", lambda s: f"{s.endpoints_eligible}/{s.endpoints}", right=True),
        Column("REGISTRIES", lambda s: " ".join(s.registries)),
    ]
    with session.daemon() as daemon:
        found = daemon.services()
    listing(found, columns, format_, "No registry knows a service; see: nodeproxy registries")


@click.command()
@service_argument
@output_option
@daemon_options
@click.pass_obj
def endpoints(session: Session, service: str, format_: Format) -> None:
    """The endpoints of SERVICE or of all services, and why each one is in or out."""
    columns: list[Column[EndpointView]] = [
        Column("SERVICE", lambda e: "" if service else e.service),
        Column("ENDPOINT", lambda e: e.address),
        Column("PORT", lambda e: e.port_name),
        Column("STATE", lambda e: e.state),
        Column("TAKES", lambda e: "yes" if e.eligible else "no"),
        Column("WEIGHT", lambda e: str(e.weight), right=True),
        Column("ZONE", lambda e: e.zone),
        Column("ACTIVE", lambda e: number(e.active_requests), right=True),
        Column("REQUESTS", lambda e: number(e.requests), right=True),
        Column("FAILURES", lambda e: number(e.failures), right=True),
        Column("WHY", _why),
    ]
    with session.daemon() as daemon, with_suggestion(daemon, service):
        found = daemon.endpoints(service)
    listing(found, columns, format_, "There are no endpoints")


@click.command()
@service_argument
@output_option
@daemon_options
@click.pass_obj
def routes(session: Session, service: str, format_: Format) -> None:
    """Which address leads to which service, and by which rule; what is not carried, and why."""
    columns: list[Column[RouteView]] = [
        Column("DESTINATION", lambda r: r.destination),
        Column("KIND", lambda r: r.kind),
        Column("PROTOCOL", lambda r: r.protocol or "detect"),
        Column("RULE", lambda r: r.rule),
        Column("BACKENDS", lambda r: " ".join(r.backends) or f"{r.service}:{r.port}"),
        Column("ELIGIBLE", lambda r: number(r.endpoints_eligible), right=True),
        Column("FROM", lambda r: r.origin),
        Column("ROUTE", lambda r: r.route and f"{r.route}{f' ({r.clients})' if r.clients else ''}"),
        Column("PROBLEM", lambda r: "; ".join(r.problems)),
    ]
    with session.daemon() as daemon, with_suggestion(daemon, service):
        found = daemon.routes(service)
    if not any(r.route for r in found):
        columns = [c for c in columns if c.title not in ("ROUTE", "PROBLEM")]
    listing(found, columns, format_, "No address leads to a service")


@click.command()
@output_option
@daemon_options
@click.pass_obj
def registries(session: Session, format_: Format) -> None:
    """The registries: state, age and problems."""
    with session.daemon() as daemon:
        found = daemon.registries()
    columns = [c for c in _REGISTRIES if len(found) > 1 or c.title != "ONLY HERE"]
    listing(found, columns, format_, "No registries are configured")
    if format_ == "table":
        for registry in found:
            _problems(f"Problems of {registry.name}:", registry.problems)


@click.command()
@daemon_options
@click.pass_obj
def metrics(session: Session) -> None:
    """The metrics in the Prometheus text format."""
    with session.daemon() as daemon:
        for piece in daemon.metrics():
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


_LISTENERS: list[Column[ListenerView]] = [
    Column("LISTENER", lambda v: v.address),
    Column("KIND", lambda v: v.kind),
    Column("SERVICE", lambda v: v.service),
    Column("OPEN", lambda v: number(v.connections), right=True),
    Column("ACCEPTED", lambda v: number(v.accepted), right=True),
]
_REGISTRIES: list[Column[RegistryView]] = [
    Column("REGISTRY", lambda r: r.name),
    Column("KIND", lambda r: r.kind if r.kind != r.name else ""),
    Column("PRIORITY", lambda r: str(r.priority) if r.priority else "", right=True),
    Column("STATE", lambda r: r.state),
    Column("SERVICES", lambda r: number(r.services), right=True),
    Column("ENDPOINTS", lambda r: number(r.endpoints), right=True),
    Column("ONLY HERE", lambda r: number(r.services_alone) if r.services_alone else "", right=True),
    Column(
        "IN RESERVE",
        lambda r: number(n) if (n := r.services - r.services_used) > 0 else "",
        right=True,
    ),
    Column("AGE", lambda r: ago(r.age_seconds), right=True),
    Column("RESTARTS", lambda r: number(r.restarts) if r.restarts else "", right=True),
    Column("PROBLEMS", lambda r: number(len(r.problems)) if r.problems else "", right=True),
    Column(
        "NOTE",
        lambda r: "; ".join(
            part for part in ("last good state from disk" * r.from_disk, r.last_error) if part
        ),
    ),
]


def _port(port: int, name: str, protocol: str) -> str:
    """``80/http``, with the name before it where it tells more."""
    text = f"{port}/{protocol}" if protocol else str(port)
    return f"{name}={text}" if name and name != protocol else text


def _why(endpoint: EndpointView) -> str:
    parts = [endpoint.reason]
    if endpoint.ejected_seconds:
        parts.append(f"{ago(endpoint.ejected_seconds)} left")
    if endpoint.last_failure:
        when = ago(endpoint.last_failure_age_seconds)
        parts.append(f"last failure{f' {when} ago' if when else ''}: {endpoint.last_failure}")
    return "; ".join(part for part in parts if part)


def _problems(title: str, problems: tuple[ProblemView, ...]) -> None:
    if problems:
        click.echo(f"\n{title}")
        for problem in problems:
            click.echo(f"  {problem_text(problem)}")


def problem_text(problem: ProblemView) -> str:
    """``services.yaml:12: services[3].port: what is wrong``"""
    place = f"{problem.source}:{problem.line}" if problem.line else problem.source
    return ": ".join(part for part in (place, problem.field, problem.message) if part)


def interception_text(view: InterceptionView) -> str:
    """The state of interception as one sentence."""
    if view.mode == "none":
        return "none: only explicit listeners"
    if not view.installed:
        return f"not installed{f': {view.last_error}' if view.last_error else ''}"
    if not view.backend:
        return view.last_error  # not told by a daemon
    families = "+".join(view.families)
    frontends = f"{number(view.frontends)} address{'es' if view.frontends != 1 else ''}"
    parts = [f"{'live' if view.live else 'NOT live'}, {families} by {view.backend}, {frontends}"]
    if view.last_beat_age_seconds is not None:
        age = f"{view.last_beat_age_seconds:.1f}s"
        parts.append(f"last beat {age} ago, expiry {view.expiry_seconds:g}s")
    if view.fail:
        path = f" to {view.kernel_path}" if view.fail == "open" and view.kernel_path else ""
        parts.append(f"fails {view.fail}{path}")
    if view.drift or view.repairs:
        parts.append(f"drift {view.drift}, repaired {view.repairs} times")
    if view.last_error:
        parts.append(view.last_error)
    return "; ".join(parts)


def _vips(view: StatusView) -> Iterator[tuple[str, str]]:
    if view.vips is None:
        return
    given = view.vips
    missing = f", {number(given.missing)} lack one" if given.missing else ""
    kept = f", {number(given.kept)} kept for services that are gone" if given.kept else ""
    yield (
        "given VIPs",
        f"{number(given.given)} of {number(given.capacity)} in {', '.join(given.networks)}"
        f"{kept}{missing}",
    )
    yield from (("given VIPs", problem_text(problem)) for problem in given.problems)


def _routes(view: StatusView) -> Iterator[tuple[str, str]]:
    if view.routes is None:
        return
    routes = view.routes
    state = "" if routes.in_force else ", not yet in force"
    yield (
        "routes",
        f"{number(routes.objects)} objects in {number(routes.files)} files for"
        f" {number(routes.services)} services; change {number(routes.generation)}{state}",
    )
    yield from (("routes", problem_text(problem)) for problem in routes.problems)


def _status_page(view: StatusView) -> None:
    state = "ready" if view.ready else "NOT ready"
    click.echo(f"nodeproxy {view.version} is {state}")
    place = f" ({view.zone})" if view.zone else ""
    ejected = f", {number(view.endpoints_ejected)} ejected" if view.endpoints_ejected else ""
    loop = view.loop
    pairs(
        [
            *(("not ready", reason) for reason in view.reasons),
            ("node", f"{view.node}{place}, pid {view.pid}, up {ago(view.uptime_seconds)}"),
            ("config", view.config),
            *(("warning", warning) for warning in view.warnings),
            (
                "services",
                f"{number(view.services)} with {number(view.endpoints)} endpoints{ejected}; "
                f"change {number(view.generation)}",
            ),
            *(("conflict", problem_text(conflict)) for conflict in view.conflicts),
            *_vips(view),
            *_routes(view),
            (
                "traffic",
                f"{number(view.connections)} connections open, {number(view.requests)} requests "
                f"done, {number(view.errors)} of them answered with an error of the proxy's own",
            ),
            ("interception", interception_text(view.interception)),
            (
                "loop",
                f"worst stall {loop.worst_stall_seconds * 1000:.1f} ms, last "
                f"{loop.last_stall_seconds * 1000:.1f} ms; {number(loop.lanes)} lanes, "
                f"{number(loop.open_files)} of {number(loop.open_files_limit)} files, "
                f"{loop.memory_bytes / 1048576:.0f} MiB",
            ),
            ("log level", view.log_level),
        ]
    )
    if view.listeners:
        click.echo()
        table(view.listeners, _LISTENERS)
    if view.registries:
        click.echo()
        table(view.registries, [c for c in _REGISTRIES if c.title != "ONLY HERE"])
        for registry in view.registries:
            _problems(f"Problems of {registry.name}:", registry.problems)
