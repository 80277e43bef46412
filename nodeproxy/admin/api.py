"""The admin API: a request, one call of the view, a response. No I/O.

Errors are JSON too: ``{"error": "...", "hint": "..."}``. Listings are JSON arrays that are
encoded in slices of bounded size, because they may hold 100,000 endpoints.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, NamedTuple, get_args

import msgspec

from nodeproxy.admin.messages import Handler, Request, Response, Unable, error
from nodeproxy.admin.query import BadQuery, explain_query
from nodeproxy.admin.views import LogLevel, ProbeView, View
from nodeproxy.telemetry.exposition import CONTENT_TYPE

__all__ = ["admin_handler", "metrics_handler"]

_SLICE = 100
_encoder = msgspec.json.Encoder()


class _Route(NamedTuple):
    method: str
    path: tuple[str, ...]
    """Literal segments; ``{}`` stands for any one segment."""
    answer: Callable[..., Response | Awaitable[Response]]


def admin_handler(view: View) -> Handler:
    """Every endpoint: for the unix socket, whose mode decides who may ask."""
    return _handler(view, _ADMIN)


def metrics_handler(view: View) -> Handler:
    """What may be read by anybody who reaches the metrics port: ``/metrics``, ``/ready`` and
    ``/live``. Nothing there changes anything."""
    return _handler(view, _PUBLIC)


def _handler(view: View, routes: tuple[_Route, ...]) -> Handler:
    async def handle(request: Request) -> Response:
        allowed = []
        for route in routes:
            arguments = _match(route.path, request.segments)
            if arguments is None:
                continue
            if route.method == request.method:
                try:
                    answer = route.answer(view, request, *arguments)
                    return answer if isinstance(answer, Response) else await answer
                except Unable as exc:
                    return error(503, str(exc), exc.hint)
            allowed.append(route.method)
        if allowed:
            return error(
                405,
                f"{request.path} does not take {request.method}",
                f"it takes {' and '.join(allowed)}",
                headers=(("allow", ", ".join(allowed)),),
            )
        known = sorted({"/" + "/".join(route.path) for route in routes})
        return error(404, f"no such path: {request.path}", "there are: " + " ".join(known))

    return handle


def _match(pattern: tuple[str, ...], segments: tuple[str, ...]) -> list[str] | None:
    if len(pattern) != len(segments):
        return None
    arguments = []
    for expected, found in zip(pattern, segments, strict=True):
        if expected == "{}":
            arguments.append(found)
        elif expected != found:
            return None
    return arguments


def _json(value: Any, status: int = 200) -> Response:
    return Response(status, _encoder.encode(value) + b"\n")


def _listing(values: Iterable[Any]) -> Response:
    return Response(200, _slices(iter(values)))


def _slices(values: Iterator[Any]) -> Iterator[bytes]:
    """A JSON array with one value a line."""
    separator = b"[\n"
    while batch := list(itertools.islice(values, _SLICE)):
        yield separator + b",\n".join(map(_encoder.encode, batch))
        separator = b",\n"
    yield b"\n]\n" if separator == b",\n" else b"[]\n"


def _unknown_service(name: str) -> Response:
    return error(
        404, f'no registry knows a service "{name}"', "`nodeproxy services` lists the known ones"
    )


def _full_name(name: str) -> str:
    return name if not name or "/" in name else f"default/{name}"


def _status(view: View, request: Request) -> Response:
    return _json(view.status())


def _services(view: View, request: Request) -> Response:
    return _listing(view.services())


def _service(view: View, request: Request, namespace: str, name: str) -> Response:
    found = view.service(f"{namespace}/{name}")
    return _unknown_service(f"{namespace}/{name}") if found is None else _json(found)


def _endpoints(view: View, request: Request) -> Response:
    name = _full_name(request.value("service"))
    found = view.endpoints(name)
    return _unknown_service(name) if found is None else _listing(found)


def _routes(view: View, request: Request) -> Response:
    name = _full_name(request.value("service"))
    found = view.routes(name)
    return _unknown_service(name) if found is None else _listing(found)


def _hosts(view: View, request: Request) -> Response:
    suffix = request.value("suffix").strip(".")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{0,100}", suffix):
        return error(400, f'"{suffix}" is not a DNS name', "for example suffix=mesh")
    return _listing(view.hosts(suffix))


def _registries(view: View, request: Request) -> Response:
    return _json(view.registries())


def _registrations(view: View, request: Request) -> Response:
    return _json(view.registrations())


async def _explain(view: View, request: Request) -> Response:
    try:
        query = explain_query(
            method=request.value("method", "GET"),
            url=request.value("url"),
            headers=request.values("header"),
            source=request.value("from"),
        )
    except BadQuery as exc:
        return error(400, str(exc))
    return _json(await view.explain(query))


def _metrics(view: View, request: Request) -> Response:
    return Response(200, view.metrics(), CONTENT_TYPE)


def _probe(probe: ProbeView) -> Response:
    return _json(probe, 200 if probe.ok else 503)


def _ready(view: View, request: Request) -> Response:
    return _probe(view.ready())


def _live(view: View, request: Request) -> Response:
    return _probe(view.live())


async def _rules(view: View, request: Request) -> Response:
    return _json(await view.rules())


async def _verify(view: View, request: Request) -> Response:
    return _json(await view.rules_verify())


async def _repair(view: View, request: Request) -> Response:
    return _json(await view.rules_repair())


async def _remove(view: View, request: Request) -> Response:
    # A running daemon that loses its rules would take them for drift and put them back. So
    # removal means that it stops intercepting, which a caller has to say.
    if request.value("confirm") != "stop-intercepting":
        return error(
            409,
            "the daemon is running: without its rules it no longer sees any traffic",
            "confirm=stop-intercepting takes it out of the path until `rules repair` or a restart",
        )
    return _json(await view.rules_remove())


def _log_level(view: View, request: Request) -> Response:
    return _json({"level": view.log_level()})


def _set_log_level(view: View, request: Request) -> Response:
    level = request.value("level")
    if level not in get_args(LogLevel):
        return error(400, f'"{level}" is not a log level', "one of " + " ".join(get_args(LogLevel)))
    view.set_log_level(level)  # type: ignore[arg-type]  # just compared with the literal's values
    return _json({"level": view.log_level()})


_PUBLIC = (
    _Route("GET", ("metrics",), _metrics),
    _Route("GET", ("ready",), _ready),
    _Route("GET", ("live",), _live),
)
_ADMIN = (
    *_PUBLIC,
    _Route("GET", ("status",), _status),
    _Route("GET", ("services",), _services),
    _Route("GET", ("services", "{}", "{}"), _service),
    _Route("GET", ("hosts",), _hosts),
    _Route("GET", ("endpoints",), _endpoints),
    _Route("GET", ("routes",), _routes),
    _Route("GET", ("explain",), _explain),
    _Route("GET", ("registries",), _registries),
    _Route("GET", ("registrations",), _registrations),
    _Route("GET", ("rules",), _rules),
    _Route("GET", ("rules", "verify"), _verify),
    _Route("POST", ("rules", "repair"), _repair),
    _Route("POST", ("rules", "remove"), _remove),
    _Route("GET", ("log-level",), _log_level),
    _Route("POST", ("log-level",), _set_log_level),
)
