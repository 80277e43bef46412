"""What is known of the engine's containers, and the telling of what changed, in slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import trio

from registry.base import Problem, Sink
from registry.docker.members import Member, Seen, service_of
from registry.model import Service
from registry.naming import ServiceSettings

__all__ = ["BITE", "Table"]

BITE: Final = 100
"""Containers, and endpoints, that are worked on between two checkpoints."""


class Table:
    """One for each run of the back end."""

    def __init__(self, sink: Sink, settings: Mapping[str, ServiceSettings], origin: str) -> None:
        self._sink = sink
        self._settings = settings
        self._origin = origin
        self._seen: dict[str, tuple[str, Seen]] = {}
        """By container or task: its name for people, and what it is to us."""
        self._holders: dict[str, dict[str, None]] = {}
        """For each service its containers or tasks."""
        self._bad: dict[str, Problem] = {}
        """What could not even be decoded."""
        self._dirty: dict[str, None] = {}
        self._published: dict[str, Service] = {}
        self._told: tuple[Problem, ...] = ()
        self._first = True

    def __contains__(self, key: str) -> bool:
        return key in self._seen

    def keys(self) -> list[str]:
        return list(self._seen)

    def put(self, key: str, name: str, seen: Seen) -> None:
        """This is what a container or task is now."""
        self._bad.pop(key, None)
        before = self._seen.get(key)
        if before is not None and before[1] == seen:
            self._seen[key] = (name, seen)
            return
        self._drop(key)
        self._seen[key] = (name, seen)
        for member in seen.members:
            self._holders.setdefault(member.service, {})[key] = None
            self._dirty[member.service] = None

    def bad(self, key: str, problem: Problem) -> None:
        """It cannot be decoded, and stays what it was."""
        self._bad[key] = problem

    def pause(self, key: str) -> None:
        """It takes no traffic for now."""
        name, seen = self._seen.get(key, ("", Seen()))
        if not seen.members:
            return
        members = tuple(
            msgspec.structs.replace(
                member,
                endpoint=msgspec.structs.replace(member.endpoint, ready=False, serving=False),
            )
            for member in seen.members
        )
        self.put(key, name, Seen(members, seen.problems))

    def remove(self, key: str) -> None:
        self._bad.pop(key, None)
        self._drop(key)

    def keep_only(self, keys: Mapping[str, object]) -> None:
        """All others are gone."""
        for key in [k for k in (*self._seen, *self._bad) if k not in keys]:
            self.remove(key)

    def _drop(self, key: str) -> None:
        _, before = self._seen.pop(key, ("", Seen()))
        for service in {member.service for member in before.members}:
            del self._holders[service][key]
            if not self._holders[service]:
                del self._holders[service]
            self._dirty[service] = None

    async def publish(self, *, whole: bool) -> None:
        """Tell what changed. ``whole``: by a list of everything, not by an event."""
        upserts: list[Service] = []
        removals: list[str] = []
        work = 0
        while self._dirty:
            name = next(iter(self._dirty))
            del self._dirty[name]
            service = self._build(name)
            before = self._published.get(name)
            if service is None:
                if before is not None:
                    del self._published[name]
                    removals.append(name)
            elif service != before:
                self._published[name] = service
                upserts.append(service)
                work += len(service.endpoints)
            work += 1
            if work >= BITE:
                work = 0
                await trio.lowlevel.checkpoint()
        if upserts:
            self._sink.upsert(upserts)
        if removals and whole and not self._published:
            # An engine that suddenly lists nothing is for the supervisor to judge; what an event
            # said is gone, is.
            self._sink.replace([])
        elif removals:
            self._sink.remove(removals)
        self._report()

    def _report(self) -> None:
        problems = [
            Problem(text, name) for name, seen in self._seen.values() for text in seen.problems
        ]
        told = (*problems, *self._bad.values())
        if told != self._told or self._first:
            self._first = False
            self._told = told
            self._sink.problems(told)

    def _build(self, name: str) -> Service | None:
        holders = self._holders.get(name)
        if not holders:
            return None
        members: list[Member] = []
        for key in sorted(holders, key=lambda k: (self._seen[k][0], k)):
            members.extend(m for m in self._seen[key][1].members if m.service == name)
        return service_of(name, members, self._settings.get(name), self._origin)
