"""What ``nodeproxy validate`` finds in a file or folder.

Services are read by the very back end that the daemon would run: it is started, and stopped
as soon as it has said what it knows. So nothing can be valid here and refused there. Routes are
read and compiled by what the daemon reads and compiles them with.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import trio

from nodeproxy.config import Config, ConfigError, File, load
from nodeproxy.core.routing.diff import Difference, diff
from nodeproxy.core.routing.objects import Objects
from nodeproxy.core.routing.uncarried import uncarried
from nodeproxy.core.routing.validate import warnings as route_warnings
from nodeproxy.routes import Routes, is_route_document, read_path
from nodeproxy.settings import registry_problems, registry_specs
from registry import plugins, strict
from registry.base import Context, Problem, RegistryError
from registry.catalog import EMPTY, Catalog, Merger
from registry.model import Port, Service
from registry.transform import Transform, defaults

__all__ = [
    "Report",
    "compare",
    "config_report",
    "read_once",
    "routes_report",
    "services_report",
    "validate_path",
]

_PATIENCE = 30.0
_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_OF_SERVICES = frozenset({"services", "apiVersion", "kind", "items", "targets"})


class Report(msgspec.Struct, frozen=True):
    """What was found."""

    path: str
    kind: str
    """``configuration``, ``services`` or ``routes``."""
    ok: bool
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    registries: int = 0
    services: int = 0
    endpoints: int = 0
    routes: int = 0


def validate_path(path: str) -> list[Report]:
    """A configuration with the files that it names, a file of services or of routes, or a
    folder. Raises OSError."""
    if Path(path).is_dir():
        # A folder of services is read as one, as the daemon does; where configurations lie
        # beside them, each file is looked at for itself.
        files = [str(f) for f in sorted(Path(path).iterdir()) if f.suffix in _SUFFIXES]
        kinds = {_kind(file) for file in files}
        if kinds == {"routes"}:
            return [routes_report(path)]
        if kinds <= {"services"}:
            return [services_report(path)]
        return [report for file in files for report in validate_path(file)]
    kind = _kind(path)
    if kind == "configuration":
        return [config_report(path)]
    return [routes_report(path) if kind == "routes" else services_report(path)]


def _kind(path: str) -> str:
    text = Path(path).read_bytes().decode("utf-8", "replace")
    try:
        documents = strict.parse(text, path)
    except strict.DocumentError:
        return "services"  # whose reader finds the same
    if any(is_route_document(document.value) for document in documents):
        return "routes"
    return "configuration" if _is_config(documents) else "services"


def _is_config(documents: list[strict.Document]) -> bool:
    """An unknown key says nothing, as it may be a typing error: what is neither a list nor has
    a key that only services have is a configuration, and its reader will name what is wrong."""
    if not documents:
        return True
    first = documents[0].value
    if not isinstance(first, dict):
        return False
    return bool(first.keys() & set(File.__struct_fields__)) or not first.keys() & _OF_SERVICES


def config_report(path: str) -> Report:
    """The configuration, its registries' options, and the services files that it names."""
    try:
        config = load(path)
    except ConfigError as exc:
        return Report(path, "configuration", False, tuple(exc.problems))
    problems = registry_problems(config)
    services: dict[str, Service] = {}
    if not problems:
        for spec in registry_specs(config):
            if spec.kind == "file":  # others would have to be called, which is not asked for
                read, found = read_once(spec)
                problems += found
                services |= {s.name: s for s in read if s.name not in services}
    warnings = [*config.warnings, *_unserved(config, services)]
    routes = 0
    if config.routes:
        read_routes, wrong = _read_routes(config.routes, config.origin("routes"))
        problems += wrong
        routes = len(read_routes.objects)
        only_files = all(entry.kind == "file" for entry in config.registries)
        catalog = _catalog(services.values()) if only_files else None
        warnings += route_warnings(read_routes.objects, catalog)
        warnings += uncarried(read_routes.objects)
    report = _report(path, "configuration", problems, services.values(), warnings, config)
    return msgspec.structs.replace(report, routes=routes)


def _read_routes(path: str, origin: str) -> tuple[Routes, list[Problem]]:
    try:
        routes = read_path(path)
    except OSError as exc:
        source, _, line = origin.rpartition(":")
        message = f"cannot read {path}: {exc.strerror or exc}"
        return Routes(), [Problem(message, source, int(line or 0), "routes")]
    return routes, list(routes.problems)


def _catalog(services: Iterable[Service]) -> Catalog:
    return Merger(["file"]).apply("file", list(services), [])[0]


def routes_report(path: str) -> Report:
    """Routes and policies: a file or a folder. Nothing is said of services, as none are named."""
    routes = read_path(path)
    doubts = [*route_warnings(routes.objects, None), *uncarried(routes.objects)]
    report = _report(path, "routes", list(routes.problems), [], doubts, None)
    return msgspec.structs.replace(report, routes=len(routes.objects))


def compare(old: str, new: str) -> tuple[list[Report], tuple[Difference, ...]]:
    """Two files or folders of routes, or two configurations: what changes in effect. The services
    are those of the new side; where there are none, those that the routes themselves name. With
    problems on either side nothing is compared. Raises OSError."""
    sides = [_side(old), _side(new)]
    reports = [report for report, _, _ in sides]
    if not all(report.ok for report in reports):
        return reports, ()
    (_, before, _), (_, after, catalog) = sides
    if not len(catalog):
        catalog = _catalog(_named_services([before, after]))
    return reports, diff(before, after, catalog)


def _side(path: str) -> tuple[Report, Objects, Catalog]:
    if not Path(path).is_dir() and _kind(path) == "configuration":
        report = config_report(path)
        if not report.ok:
            return report, Objects({}), EMPTY
        config = load(path)
        routes = read_path(config.routes) if config.routes else Routes()
        services: list[Service] = []
        for spec in registry_specs(config):
            if spec.kind == "file":
                services += read_once(spec)[0]
        return report, routes.objects, _catalog({s.name: s for s in services}.values())
    report = routes_report(path)
    return report, read_path(path).objects, EMPTY


def _named_services(sides: Iterable[Objects]) -> list[Service]:
    """Services as the routes' parentRefs imagine them, so that routes alone can be compared."""
    ports: dict[str, dict[int, str]] = {}
    for objects in sides:
        for loaded in objects.all:
            spec = loaded.object.spec
            for ref in getattr(spec, "parent_refs", ()):
                if ref.is_service:
                    name = ref.full_name(loaded.object.metadata.namespace)
                    of = ports.setdefault(name, {})
                    if ref.port is not None:
                        of[ref.port] = ref.section_name or of.get(ref.port, "")
                    elif ref.section_name and ref.section_name not in of.values():
                        of[65535 - len(of)] = ref.section_name
    return [
        Service(name, ports=tuple(Port(n, s) for n, s in (of or {80: ""}).items()))
        for name, of in ports.items()
    ]


def services_report(path: str) -> Report:
    """Documents of services: a file or a folder."""
    spec = plugins.Spec("file", "file", {"path": str(Path(path).absolute())}, origin=path)
    problems = plugins.check(spec)
    services: list[Service] = []
    if not problems:
        services, problems = read_once(spec)
    return _report(path, "services", problems, services, [], None)


def read_once(spec: plugins.Spec) -> tuple[list[Service], list[Problem]]:
    """Run a back end until it has given its first complete answer; what the entry's own keys make
    of that."""
    try:
        options, backend = plugins.make(spec, Context(spec.name, base_dir=spec.base_dir))
    except plugins.SpecError as exc:
        return [], exc.problems
    sink = _Collector()

    async def read() -> None:
        with trio.move_on_after(_PATIENCE) as patience:
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    try:
                        await backend.run(sink)
                    except RegistryError as exc:
                        sink.broken = str(exc)
                    sink.done.set()

                nursery.start_soon(run)
                await sink.done.wait()
                nursery.cancel_scope.cancel()
        if patience.cancelled_caught:
            sink.broken = f"no complete answer within {_PATIENCE:g} s"

    trio.run(read)
    problems = list(sink.found)
    if sink.broken and not problems:
        problems.append(Problem(sink.broken, spec.origin))
    transform = Transform(options)
    services, _ = transform.apply(sink.services.values(), ())
    problems += transform.problems()
    known = {service.name for service in services}
    services += [service for service in defaults([options]) if service.name not in known]
    return services, problems


class _Collector:
    """A sink that only remembers."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.found: tuple[Problem, ...] = ()
        self.broken = ""
        self.done = trio.Event()

    def upsert(self, services: Iterable[Service]) -> None:
        self.services.update((service.name, service) for service in services)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self.services.pop(name, None)

    def replace(self, services: Iterable[Service]) -> None:
        self.services = {service.name: service for service in services}

    def keep(self, names: Iterable[str]) -> None:
        """There is nothing older that could be kept."""

    def problems(self, problems: Iterable[Problem]) -> None:
        self.found = tuple(problems)

    def synced(self) -> None:
        self.done.set()


def _unserved(config: Config, services: dict[str, Service]) -> list[Problem]:
    """Listeners for services that no file has. Another registry may know them: a warning."""
    found = []
    for i, listener in enumerate(config.listeners):
        field = f"listeners[{i}]"
        source, _, line = config.origin(field).rpartition(":")
        service = services.get(str(listener.service))
        if service is None:
            if all(entry.kind == "file" for entry in config.registries):
                message = f"no registry has the service {listener.service}"
                close = strict.near(listener.service, services)
                found.append(Problem(message + close, source, int(line or 0), field))
        elif service.port(listener.port) is None:
            known = ", ".join(str(port.port) for port in service.ports) or "none"
            message = f"{listener.service} has no port {listener.port} (its ports: {known})"
            found.append(Problem(message, source, int(line or 0), field))
    return found


def _report(
    path: str,
    kind: str,
    problems: list[Problem],
    services: Iterable[Service],
    warnings: list[Problem],
    config: Any,
) -> Report:
    known = list(services)
    return Report(
        path,
        kind,
        not problems,
        tuple(problems),
        tuple(warnings),
        len(config.registries) if config else 0,
        len(known),
        sum(len(service.endpoints) for service in known),
    )
