"""What labels and variables say about the services of a container. Pure.

Traefik: ``traefik.http.services.NAME.loadbalancer.server.port`` (and ``tcp``), keys in any case.
registrator: ``SERVICE_NAME``, ``SERVICE_8080_NAME``, ... as variables or labels; its rules on
which port gets which name are kept, port by port, also where they surprise.
Sources: Traefik's documentation of the Docker provider; gliderlabs/registrator, bridge/util.go and
bridge/bridge.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from registry.model import Protocol
from registry.naming import endpoint_port, sorted_labels

__all__ = ["Exposed", "Facts", "Hidden", "default_name", "read", "variables"]

_TRAEFIK: Final = re.compile(
    r"traefik\.(http|tcp)\.services\.([^.]+)\.loadbalancer\.server\.(port|scheme|weight)", re.I
)
_SCHEMES: Final[dict[str, Protocol]] = {"http": "http", "https": "tls", "h2c": "http2"}
_NAME: Final = re.compile("[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_TRUE: Final = ("true", "1", "t", "yes")


class Facts(NamedTuple):
    """A container, or a service of a Swarm, as far as names are concerned."""

    name: str
    """Its own, without a slash."""
    labels: Mapping[str, str]
    variables: Mapping[str, str] = {}
    """Those that begin with ``SERVICE_``, of the environment and of labels."""
    image: str = ""
    ports: tuple[int, ...] = ()
    """Exposed TCP ports, sorted."""
    grouped: bool = False
    """More than one port is exposed or published, UDP ones included."""


class Exposed(NamedTuple):
    """A port of the container that is (part of) a service."""

    service: str
    """``name`` or ``namespace/name``"""
    port: int
    protocol: Protocol = ""
    weight: int = 1
    labels: tuple[tuple[str, str], ...] = ()


class Hidden(Exception):
    """The labels say that this container is none of our business."""


def variables(environment: Iterable[str], labels: Mapping[str, str]) -> dict[str, str]:
    """registrator's, labels last, as it reads them."""
    found: dict[str, str] = {}
    for line in environment:
        name, equals, value = line.partition("=")
        if equals and name.startswith("SERVICE_"):
            found[name] = value
    found.update((name, value) for name, value in labels.items() if name.startswith("SERVICE_"))
    return found


def read(facts: Facts, layouts: Sequence[str], unlabelled: str) -> tuple[list[Exposed], list[str]]:
    """What is exposed, and what is wrong with the labels. Raises Hidden."""
    for layout in layouts:
        if layout == "traefik" and any(k.lower().startswith("traefik.") for k in facts.labels):
            return _traefik(facts)
        if layout == "registrator" and facts.variables:
            return _registrator(facts)
    if unlabelled == "skip":
        raise Hidden
    name = default_name(facts)
    return [Exposed(name, port) for port in facts.ports], []


def default_name(facts: Facts) -> str:
    """As Compose, a stack, Swarm or ``--name`` calls it."""
    labels = facts.labels
    project, service = (
        labels.get(f"com.docker.compose.{key}", "") for key in ("project", "service")
    )
    if project and service:
        return f"{project}/{service}"
    name = labels.get("com.docker.swarm.service.name") or facts.name
    stack = labels.get("com.docker.stack.namespace", "")
    if stack:
        return f"{stack}/{name.removeprefix(stack + '_')}"
    return name


# --- Traefik ---


def _traefik(facts: Facts) -> tuple[list[Exposed], list[str]]:
    lower = {key.lower(): value for key, value in facts.labels.items()}
    if "traefik.enable" in lower and lower["traefik.enable"].lower() not in _TRUE:
        raise Hidden
    problems: list[str] = []
    services: dict[tuple[str, str], dict[str, str]] = {}
    for key, value in facts.labels.items():
        match = _TRAEFIK.fullmatch(key)
        if match is not None:
            kind, name, field = match.groups()
            services.setdefault((kind.lower(), name), {})[field.lower()] = value
    if not services:
        services = {("http", default_name(facts)): {}}
    found: list[Exposed] = []
    for (kind, name), fields in services.items():
        if not all(_NAME.fullmatch(part) for part in name.split("/", 1)):
            problems.append(f"{name!r} is not the name of a service")
            continue
        protocol: Protocol = "tcp"
        if kind == "http":
            protocol = _SCHEMES.get(fields.get("scheme", "http").lower(), "")
        try:
            if "port" in fields:
                port = endpoint_port(fields["port"].strip())
            elif facts.ports:
                port = facts.ports[0]
            else:
                raise ValueError(f"the service {name!r} has no port, and none is exposed")
            weight = _weight(fields.get("weight", "1"))
        except ValueError as error:
            problems.append(str(error))
            continue
        found.append(Exposed(name, port, protocol, weight))
    return found, problems


def _weight(text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 65535:
        return int(text)
    raise ValueError(f"{text!r} is not a weight")


# --- registrator ---


def _registrator(facts: Facts) -> tuple[list[Exposed], list[str]]:
    base = facts.image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    found: list[Exposed] = []
    problems: list[str] = []
    for port in facts.ports:
        attributes, own = _attributes(facts.variables, port)
        if attributes.get("ignore"):
            continue
        name = attributes.get("name") or base
        if facts.grouped and "name" not in own:
            name += f"-{port}"
        if not _NAME.fullmatch(name):
            problems.append(f"{name!r} is not the name of a service")
            continue
        try:
            weight = _weight(attributes.get("weight", "1"))
        except ValueError as error:
            problems.append(str(error))
            continue
        labels = sorted_labels(
            (key, value)
            for key, value in attributes.items()
            if key not in ("name", "id", "ignore", "weight") and not key.startswith("check_")
        )
        found.append(Exposed(name, port, "", weight, labels))
    if not facts.ports and facts.variables.get("SERVICE_NAME"):
        problems.append("it has a SERVICE_NAME, but no port is exposed or published")
    return found, problems


def _attributes(variables: Mapping[str, str], port: int) -> tuple[dict[str, str], set[str]]:
    """Of a port, by lower-case name; and which of them are its own, not the container's."""
    found: dict[str, str] = {}
    own: set[str] = set()
    for name, value in variables.items():
        key = name.removeprefix("SERVICE_").lower()
        first, _, rest = key.partition("_")
        if first.isascii() and first.isdecimal() and rest:
            if first == str(port):
                found[rest] = value
                own.add(rest)
        elif key not in own:
            found[key] = value
    return found, own
