"""The folder of Linkerd 1.x (``io.l5d.fs``): a file for each service, named as the service.

Each line is ``HOST PORT`` or ``HOST PORT * WEIGHT``; empty lines and what follows a ``#`` say
nothing. A file without any line is more often half-written than meant: it keeps what it said
before. To say that a service has no endpoint, write a comment.
Format: https://api.linkerd.io/1.7.5/linkerd/index.html#file-based-service-discovery
"""

from __future__ import annotations

import math
import os
import re
from typing import Final

from registry.base import Problem
from registry.file.collect import Collector
from registry.file.fragment import Content
from registry.file.wire import Reading, as_reading
from registry.model import Endpoint, Port, Service, qualified_name
from registry.naming import endpoint_address, endpoint_port
from registry.strict import Document
from registry.weights import whole

__all__ = ["NAME", "read", "reading"]

NAME: Final = re.compile("[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_LINE: Final = re.compile(r"(\S+)\s+(\S+?)(?:\s*\*\s*(\S+))?")


def reading(text: str, source: str) -> Reading:
    """The reader for :mod:`registry.file.loader`."""
    return as_reading(read(text, source))


def read(text: str, source: str) -> Content:
    """The one service of the file ``source``."""
    collector = Collector(source)
    stem = os.path.basename(source)
    document = Document(source, None)
    if not NAME.fullmatch(stem):
        collector.problems.append(Problem("the file's name is not the name of a service", source))
        return collector.content()
    if not text.strip():
        collector.problems.append(
            Problem("the file is empty: write a comment (#) if there is no endpoint", source)
        )
        return collector.content()
    name = qualified_name(stem)
    found: list[tuple[str, int, float]] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        try:
            found.append(_entry(content))
        except ValueError as error:
            problems.append(Problem(str(error), source, number))
    weights = whole([weight for _, _, weight in found])
    endpoints = tuple(
        Endpoint(address, port, weight=weight)
        for (address, port, _), weight in zip(found, weights, strict=True)
    )
    ports = tuple(Port(number) for number in sorted({e.port for e in endpoints}))
    collector.declare(Service(name, ports=ports, endpoints=endpoints, origin=source), document, ())
    if problems:
        collector.bad(name, problems)
    return collector.content()


def _entry(line: str) -> tuple[str, int, float]:
    """Raises ValueError."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"{line!r} is not `HOST PORT` or `HOST PORT * WEIGHT`")
    host, port, weight = match.groups()
    return endpoint_address(host, loopback=True), endpoint_port(port), _weight(weight)


def _weight(text: str | None) -> float:
    if text is None:
        return 1.0
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight <= 1e9:
        raise ValueError(f"{text!r} is not a weight")
    return weight
