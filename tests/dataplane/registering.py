"""Services that can be made ill, and the announcing of them, for tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio

from registry.plugins import Spec
from registry.register.options import Entry, Registration
from registry.register.runner import Registrations
from registry.register.status import RegistrationStatus
from registry.strict import convert, parse
from tests.dataplane.http_fake import HttpFake, Reply, Request

PATIENCE = 20.0


class Patient(HttpFake):
    """An HTTP service whose answer may be changed; ``stop`` makes it refuse connections."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 200

    async def handle(self, request: Request) -> Reply:
        return Reply(self.status, b"how I am")


def entry(field: str = "register[0]", base_dir: str = ".", **keys: Any) -> Entry:
    """As the configuration would have it."""
    keys = {"withdraw_delay": "0s"} | keys
    (document,) = parse(json.dumps(keys), "test.yaml")
    what, problems = convert(document, Registration)
    assert what is not None, problems
    return Entry(what, base_dir, "test.yaml:1", field)


class Events:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def _take(self, _: Any, method: str, event: dict[str, Any]) -> Any:
        self.lines.append({"level": method, **event})
        raise structlog.DropEvent

    @property
    def log(self) -> Any:
        return structlog.wrap_logger(None, processors=[self._take])

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


async def until(condition: Callable[[], bool], what: Callable[[], Any] = lambda: "") -> None:
    """Poll: what is waited for may be anywhere."""
    with trio.move_on_after(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)
        return
    raise AssertionError(what())


@asynccontextmanager
async def announcing(
    *entries: Entry, registries: tuple[Spec, ...] = (), events: Events | None = None
) -> AsyncIterator[Registrations]:
    """Ends like kill -9 unless :meth:`Registrations.withdraw` was called; nothing crashed."""
    events = events or Events()
    made = Registrations(entries, registries, node="node-a", log=events.log)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()
    assert not [line for line in events.lines if "crashed" in line["event"]], events.lines


def only(registrations: Registrations) -> RegistrationStatus:
    """The status of the only one."""
    (status,) = registrations.statuses()
    return status
