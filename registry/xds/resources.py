"""Envoy's resources as JSON, decoded: assignments (EDS) and clusters (CDS). Pure.

Both spellings of proto3 JSON are read (``lb_endpoints`` and ``lbEndpoints``), numbers as texts,
enumerations by name and by number, and resources that are wrapped in an
``envoy.service.discovery.v3.Resource``.
Sources: envoy/config/endpoint/v3/endpoint.proto, endpoint_components.proto,
envoy/config/cluster/v3/cluster.proto, envoy/service/discovery/v3/discovery.proto.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from registry.model import NOWHERE, Endpoint, Locality, Protocol, qualified_name
from registry.naming import endpoint_address, endpoint_port, sorted_labels
from registry.xds.levels import OVERPROVISIONING, Entry, spread

__all__ = ["CLUSTER", "ENDPOINTS", "Assignment", "Bad", "Cluster", "decode", "service_name"]

ENDPOINTS: Final = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
CLUSTER: Final = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_WRAPPER: Final = "type.googleapis.com/envoy.service.discovery.v3.Resource"
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HEALTH: Final = ("UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED")
_TYPES: Final = ("STATIC", "STRICT_DNS", "LOGICAL_DNS", "EDS", "ORIGINAL_DST")


class Bad(Exception):
    """A resource cannot be used. ``name``: of the cluster, as far as known."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class Assignment(msgspec.Struct, frozen=True):
    """The endpoints of a cluster."""

    name: str
    endpoints: tuple[Endpoint, ...] = ()
    stale_after: float = 0.0
    """Seconds after which it must not be used unless it was confirmed; 0: it does not age."""
    problems: tuple[str, ...] = ()
    """Endpoints that were left out, and why."""


class Cluster(msgspec.Struct, frozen=True):
    """What a cluster says about its endpoints."""

    name: str
    eds_name: str = ""
    """The name of its assignment in EDS; empty if it has none there."""
    protocol: Protocol = ""
    locality_weights: bool = False
    """The weights of localities count."""
    assignment: Assignment | None = None
    """Its own."""


def service_name(cluster: str, namespace: str) -> str:
    """Raises Bad."""
    if not cluster or cluster.count("/") > 1 or cluster.startswith("/") or cluster.endswith("/"):
        raise Bad(f"the cluster's name {cluster!r} is neither name nor namespace/name", cluster)
    return qualified_name(cluster, namespace)


def _never(name: str) -> bool:
    return False


def decode(value: Any, *, locality_weights: Callable[[str], bool] = _never) -> Assignment | Cluster:
    """A resource of either kind. ``locality_weights``: whether the weights of localities count in
    the assignment of this name. Raises Bad."""
    value = _mapping(value, "the resource")
    name = ""
    try:
        kind = value.get("@type", "")
        ttl = 0.0
        if kind == _WRAPPER:
            ttl = _seconds(value.get("ttl"), "ttl")
            value = _mapping(value.get("resource"), "resource")
            kind = value.get("@type", "")
        if kind == ENDPOINTS or (not kind and _get(value, "cluster_name") is not None):
            name = _text(_get(value, "cluster_name"), "cluster_name")
            return _assignment(name, value, locality_weights(name), ttl)
        if kind == CLUSTER or (not kind and "name" in value):
            name = _text(value.get("name"), "name")
            return _cluster(name, value)
    except Bad as error:
        raise Bad(str(error), name) from None
    raise Bad(f"a resource of the type {kind!r} is neither an assignment nor a cluster")


# --- clusters ---


def _cluster(name: str, value: dict[str, Any]) -> Cluster:
    kind = _enum(value.get("type"), _TYPES, "type") if "type" in value else "STATIC"
    if _get(value, "cluster_type") is not None:
        kind = "of an extension"
    common = _mapping(_get(value, "common_lb_config") or {}, "common_lb_config")
    weighted = _get(common, "locality_weighted_lb_config") is not None
    protocol = _protocol(value)
    if kind == "EDS":
        config = _mapping(_get(value, "eds_cluster_config") or {}, "eds_cluster_config")
        eds_name = _get(config, "service_name") or name
        return Cluster(name, _text(eds_name, "service_name"), protocol, weighted)
    if kind in ("ORIGINAL_DST", "of an extension"):
        raise Bad(f"a cluster {kind} has no endpoints that could be read")
    # The types of DNS may hold addresses, too; names are left out, endpoint by endpoint.
    inside = _mapping(_get(value, "load_assignment") or {}, "load_assignment")
    return Cluster(name, "", protocol, weighted, _assignment(name, inside, weighted, 0.0))


def _protocol(value: dict[str, Any]) -> Protocol:
    options = _get(value, "typed_extension_protocol_options")
    if isinstance(options, dict) and isinstance(options.get(_HTTP_OPTIONS), dict):
        explicit = _get(options[_HTTP_OPTIONS], "explicit_http_config")
        if isinstance(explicit, dict):
            if _get(explicit, "http2_protocol_options") is not None:
                return "http2"
            if _get(explicit, "http_protocol_options") is not None:
                return "http"
    return "http2" if _get(value, "http2_protocol_options") is not None else ""


# --- assignments ---


def _assignment(name: str, value: dict[str, Any], locality_weights: bool, ttl: float) -> Assignment:
    policy = _mapping(value.get("policy") or {}, "policy")
    stale = _seconds(_get(policy, "endpoint_stale_after"), "endpoint_stale_after")
    factor = _number(
        _get(policy, "overprovisioning_factor"), "overprovisioning_factor", OVERPROVISIONING
    )
    problems: list[str] = []
    entries: list[Entry] = []
    for i, group in enumerate(_list(value.get("endpoints"), "endpoints")):
        entries.extend(_group(group, f"endpoints[{i}]", problems))
    weights = spread(entries, factor or OVERPROVISIONING, locality_weights)
    endpoints = [
        entry.endpoint
        if entry.endpoint.weight == weight
        else msgspec.structs.replace(entry.endpoint, weight=weight)
        for entry, weight in zip(entries, weights, strict=True)
    ]
    united = {endpoint.key: endpoint for endpoint in reversed(endpoints)}
    ages = [age for age in (stale, ttl) if age > 0]
    return Assignment(
        name, tuple(reversed(united.values())), min(ages, default=0.0), tuple(problems)
    )


def _group(group: Any, place: str, problems: list[str]) -> Iterator[Entry]:
    """The endpoints of a locality. Raises Bad where the whole of it cannot be understood."""
    group = _mapping(group, place)
    locality = NOWHERE
    if isinstance(found := group.get("locality"), dict):
        region, zone, part = (_get(found, k) or "" for k in ("region", "zone", "sub_zone"))
        if not all(isinstance(text, str) for text in (region, zone, part)):
            raise Bad(f"{place}.locality: expected texts")
        locality = Locality(region, zone)
    else:
        part = ""
    if any(_get(group, k) is not None for k in ("leds_cluster_locality_config",)):
        raise Bad(f"{place}: endpoints of LEDS are not read")
    priority = _number(group.get("priority"), f"{place}.priority", 0)
    if priority > 128:
        raise Bad(f"{place}.priority: {priority} is more than 128")
    share = _number(_get(group, "load_balancing_weight"), f"{place}.load_balancing_weight", 0)
    members = group.get("lb_endpoints", group.get("lbEndpoints"))
    for j, member in enumerate(_list(members, f"{place}.lb_endpoints")):
        here = f"{place}.lb_endpoints[{j}]"
        try:
            endpoint, weight, degraded = _endpoint(member, here, locality, part, priority)
        except (Bad, ValueError) as error:
            text = str(error)
            problems.append(text if text.startswith(here) else f"{here}: {text}")
        else:
            yield Entry(endpoint, weight, priority, (locality, part), share, degraded)


def _endpoint(
    member: Any, place: str, locality: Locality, sub_zone: str, priority: int
) -> tuple[Endpoint, int, bool]:
    """Raises Bad and ValueError."""
    member = _mapping(member, place)
    if "endpoint" not in member:
        raise Bad(f"{place}: no `endpoint`")
    address = _mapping(_mapping(member["endpoint"], place).get("address"), f"{place}.address")
    socket = _get(address, "socket_address")
    if socket is None:
        raise Bad(f"{place}: {', '.join(address) or 'an empty address'} is not a socket_address")
    socket = _mapping(socket, f"{place}.socket_address")
    if _get(socket, "named_port") is not None:
        raise ValueError("named ports are not known here")
    if socket.get("protocol") in ("UDP", 1):
        raise ValueError("UDP")
    host = endpoint_address(_text(socket.get("address"), "address"), loopback=True)
    port = endpoint_port(_get(socket, "port_value"))
    weight = _number(_get(member, "load_balancing_weight"), f"{place}.load_balancing_weight", 1)
    health = _enum(_get(member, "health_status"), _HEALTH, "health_status")
    labels = _labels(member)
    if sub_zone:
        labels.append(("sub_zone", sub_zone))
    if priority:
        labels.append(("priority", str(priority)))
    endpoint = Endpoint(
        host,
        port,
        locality=locality,
        labels=sorted_labels(labels) if labels else (),
        ready=health in ("UNKNOWN", "HEALTHY", "DEGRADED"),
        serving=health not in ("UNHEALTHY", "TIMEOUT"),
        terminating=health == "DRAINING",
    )
    return endpoint, weight, health == "DEGRADED"


def _labels(member: dict[str, Any]) -> list[tuple[str, str]]:
    """What subset load balancing chooses by: texts of the metadata ``envoy.lb``."""
    metadata = member.get("metadata")
    if not isinstance(metadata, dict):
        return []
    found = _get(metadata, "filter_metadata")
    chosen = found.get("envoy.lb") if isinstance(found, dict) else None
    if not isinstance(chosen, dict):
        return []
    return [(key, text) for key, text in chosen.items() if isinstance(text, str)]


# --- proto3 JSON ---


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


_CAMEL: dict[str, str] = {}


def _get(value: dict[str, Any], name: str) -> Any:
    """The field ``name`` in either spelling."""
    if name in value:
        return value[name]
    other = _CAMEL.get(name)
    if other is None:
        other = _CAMEL[name] = _camel(name)
    return value.get(other)


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Bad(f"{place}: expected a mapping")
    return value


def _list(value: Any, place: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Bad(f"{place}: expected a list")
    return value


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise Bad(f"{place}: expected a text")
    return value


def _number(value: Any, place: str, default: int) -> int:
    """A uint32, or a UInt32Value: both are plain numbers, perhaps as texts."""
    if value is None:
        return default
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 32:
        raise Bad(f"{place}: {value!r} is not a whole number of 32 bits")
    return value


def _seconds(value: Any, place: str) -> float:
    """A google.protobuf.Duration; 0 if there is none."""
    if value is None:
        return 0.0
    try:
        seconds = float(value[:-1]) if isinstance(value, str) and value.endswith("s") else -1.0
    except ValueError:
        seconds = -1.0
    if not math.isfinite(seconds) or seconds < 0:
        raise Bad(f"{place}: {value!r} is not a duration such as 30s")
    return seconds


def _enum(value: Any, names: tuple[str, ...], place: str) -> str:
    if value is None:
        return names[0]
    if isinstance(value, str) and value in names:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    raise Bad(f"{place}: {value!r} is none of {', '.join(names)}")
