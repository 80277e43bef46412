"""What the registries' side shows: their states, the given addresses, and names for hosts files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from nodeproxy.admin.views import HostView, ProblemView, RegistryView, VipsView
from nodeproxy.dns.names import host_name
from nodeproxy.telemetry.families import Families
from registry.base import Problem
from registry.catalog import Catalog
from registry.supervise import Registries

__all__ = ["host_views", "problem_views", "publish", "registry_views", "vips_view"]


def registry_views(registries: Registries, origins: Mapping[str, str]) -> tuple[RegistryView, ...]:
    """``origins``: where each registry is configured, by its name."""
    return tuple(
        RegistryView(
            name=s.name,
            kind=s.kind,
            state=str(s.state),
            synced=s.synced,
            age_seconds=s.age_seconds,
            services=s.services,
            endpoints=s.endpoints,
            restarts=s.restarts,
            last_error=s.last_error,
            from_disk=s.from_disk,
            problems=problem_views(s.problems),
            problems_total=s.problems_total,
            save_error=s.save_error,
            meaning=s.meaning,
            origin=origins.get(s.name, ""),
            priority=s.priority,
            services_alone=s.services_alone,
            services_used=s.services_used,
            empty_answers_kept=s.empty_answers_kept,
            kept_seconds=s.kept_seconds,
        )
        for s in registries.statuses()
    )


def vips_view(registries: Registries) -> VipsView | None:
    found = registries.vips()
    if found is None:
        return None
    return VipsView(
        networks=found.networks,
        given=found.given,
        kept=found.kept,
        missing=found.missing,
        capacity=found.capacity,
        problems=problem_views(found.problems),
    )


def host_views(catalog: Catalog, suffix: str) -> Iterator[HostView]:
    """A line for each virtual address of each service."""
    for service in catalog:
        name = host_name(service.name)
        if name is not None:
            for vip in service.vips:
                yield HostView(vip, (f"{name}.{suffix}", name), service.name)


def problem_views(problems: Iterable[Problem]) -> tuple[ProblemView, ...]:
    return tuple(ProblemView(p.message, p.source, p.line, p.field) for p in problems)


def publish(registries: Registries, families: Families) -> None:
    """Have the registries' metrics read at each scrape."""
    statuses = registries.statuses
    families.registry_age.callback(
        lambda: [((s.name,), s.age_seconds) for s in statuses() if s.age_seconds is not None]
    )
    families.registry_synced.callback(
        lambda: [((s.name,), float(s.state == "synced")) for s in statuses()]
    )
    families.registry_errors.callback(lambda: [((s.name,), s.restarts) for s in statuses()])
    families.registry_problems.callback(lambda: [((s.name,), s.problems_total) for s in statuses()])
    families.registry_services.callback(lambda: [((s.name,), s.services) for s in statuses()])
    families.registry_endpoints.callback(lambda: [((s.name,), s.endpoints) for s in statuses()])
    families.registry_kept_empty.callback(
        lambda: [((s.name,), float(s.state == "kept")) for s in statuses()]
    )
    families.registry_empty_answers.callback(
        lambda: [((s.name,), s.empty_answers_kept) for s in statuses()]
    )
    families.registry_services_used.callback(
        lambda: [((s.name,), s.services_used) for s in statuses()]
    )
    vips = registries.vips
    if vips() is not None:
        families.vips_given.callback(lambda: [((), v.given) for v in (vips(),) if v])
        families.vips_missing.callback(lambda: [((), v.missing) for v in (vips(),) if v])
    families.catalog_generation.callback(lambda: [((), registries.catalog.generation)])
    families.catalog_conflicts.callback(lambda: [((), len(registries.catalog.conflicts))])
