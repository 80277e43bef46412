"""From containers and tasks to endpoints, and from endpoints to services. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from registry.docker import wire
from registry.docker.labels import Exposed, Facts, Hidden, read, variables
from registry.docker.options import Options
from registry.model import Endpoint, Locality, Port, Protocol, Service, qualified_name
from registry.naming import ServiceSettings, dressed, endpoint_address, endpoint_port

__all__ = ["Member", "Seen", "of_container", "of_task", "service_facts", "service_of"]

Place = Callable[[int], tuple[str, int]]
"""From a container's port to the address and port to send to. Raises ValueError."""
_NETWORK_LABELS = ("traefik.docker.network", "traefik.swarm.network")


class Member(msgspec.Struct, frozen=True):
    """An endpoint of a service."""

    service: str
    """``namespace/name``"""
    port: int
    """The container's port: the number that clients dial by default."""
    protocol: Protocol
    endpoint: Endpoint
    labels: tuple[tuple[str, str], ...] = ()


class Seen(msgspec.Struct, frozen=True):
    """What a container or task is to us."""

    members: tuple[Member, ...] = ()
    problems: tuple[str, ...] = ()


NOTHING = Seen()


def service_of(
    name: str, members: Sequence[Member], settings: ServiceSettings | None, origin: str
) -> Service:
    """Members with several ports are told apart by the ports' names."""
    labels = members[0].labels
    numbers = sorted({member.port for member in members})
    several = len(numbers) > 1 and not (settings and settings.ports)
    endpoints: dict[tuple[str, int, str], Endpoint] = {}
    for member in members:
        endpoint = member.endpoint
        if several:
            endpoint = msgspec.structs.replace(endpoint, port_name=f"p{member.port}")
        endpoints.setdefault(endpoint.key, endpoint)
    service = dressed(name, tuple(endpoints.values()), settings, labels=labels, origin=origin)
    if settings and settings.ports:
        return service
    protocols = {member.port: member.protocol for member in reversed(members)}
    if settings and settings.protocol:
        protocols = dict.fromkeys(protocols, settings.protocol)
    ports = tuple(Port(n, f"p{n}" if several else "", protocols[n]) for n in numbers)
    return msgspec.structs.replace(service, ports=ports)


# --- containers ---


def of_container(container: wire.Container, options: Options, where: Locality) -> Seen:
    """``where``: the machine that the engine runs on."""
    state = container.state
    if not state.running or state.restarting:
        return NOTHING
    health = state.health.status if state.health else ""
    ready = not state.paused and health in ("", "none", "healthy")
    labels = container.config.labels or {}
    bindings = container.network_settings.ports or {}
    exposed = dict.fromkeys((*(container.config.exposed_ports or ()), *bindings))
    if options.address == "published" and _mode(container) != "host":
        exposed = dict.fromkeys(key for key in exposed if bindings.get(key))
    facts = Facts(
        container.name.lstrip("/"),
        labels,
        variables(container.config.env or (), labels),
        container.config.image,
        tuple(sorted(number for key in exposed if (number := _tcp(key)))),
        len(exposed) > 1,
    )

    def place(port: int) -> tuple[str, int]:
        if _mode(container) == "host":
            return _host(options), port
        if options.address == "published":
            return _published(bindings.get(f"{port}/tcp") or (), port, options)
        return _inside(container, options, labels), port

    return _seen(facts, options, place=place, ready=ready, where=where)


def _seen(facts: Facts, options: Options, *, place: Place, ready: bool, where: Locality) -> Seen:
    try:
        exposed, problems = read(facts, options.labels, options.unlabelled)
    except Hidden:
        return NOTHING
    named = bool(facts.variables) or any(k.lower().startswith("traefik.") for k in facts.labels)
    members: list[Member] = []
    for item in exposed:
        try:
            members.append(_member(item, options, place, ready, where))
        except ValueError as error:
            # A container that nobody said anything about, and without an address: none of ours.
            if named or str(error) != NO_ADDRESS:
                problems.append(str(error))
    return Seen(tuple(members), tuple(dict.fromkeys(problems)))


def _member(item: Exposed, options: Options, place: Place, ready: bool, where: Locality) -> Member:
    """Raises ValueError."""
    address, port = place(item.port)
    endpoint = Endpoint(
        endpoint_address(address), port, "", item.weight, where, (), ready, ready, False
    )
    name = qualified_name(item.service, options.namespace)
    return Member(name, item.port, item.protocol, endpoint, item.labels)


def _mode(container: wire.Container) -> str:
    return container.host_config.network_mode if container.host_config else ""


def _tcp(key: str) -> int:
    """``8080/tcp`` -> 8080; 0 for other protocols and what is no port."""
    number, _, protocol = key.partition("/")
    try:
        return endpoint_port(number) if protocol in ("", "tcp") else 0
    except ValueError:
        return 0


NO_ADDRESS = "it has no address in any network"


def _inside(container: wire.Container, options: Options, labels: Mapping[str, str]) -> str:
    """Raises ValueError."""
    addresses = {
        name: found.ip_address or found.global_ipv6
        for name, found in (container.network_settings.networks or {}).items()
        if found is not None
    }
    if _mode(container).startswith("container:"):
        raise ValueError("it shares the network of another container: label that one")
    return _chosen(addresses, options, labels)


def _chosen(addresses: Mapping[str, str], options: Options, labels: Mapping[str, str]) -> str:
    """Raises ValueError."""
    wanted = options.network or next((labels[k] for k in _NETWORK_LABELS if k in labels), "")
    if wanted:
        if not addresses.get(wanted):
            raise ValueError(f"it has no address in the network {wanted!r}")
        return addresses[wanted]
    for _, address in sorted(addresses.items()):
        if address:
            return address
    raise ValueError(NO_ADDRESS)


def _host(options: Options) -> str:
    if options.host_address is None:
        raise ValueError("the machine's address is needed: set `host_address`")
    return options.host_address


def _published(bindings: Iterable[wire.Binding], port: int, options: Options) -> tuple[str, int]:
    """Raises ValueError."""
    for binding in bindings:
        if binding.host_port:
            everywhere = binding.host_ip in ("", "0.0.0.0", "::")
            address = _host(options) if everywhere else binding.host_ip
            return address, endpoint_port(binding.host_port)
    raise ValueError(f"its port {port} is not published")


# --- Swarm ---


def service_facts(service: wire.Service, options: Options) -> Facts:
    """A Swarm knows no exposed ports, only those that are published and those in labels."""
    labels = service.spec.labels or {}
    spec = service.spec.task_template.container_spec or wire.ContainerSpec()
    ports = (service.endpoint.ports if service.endpoint else None) or ()
    if options.address == "published":
        ports = tuple(port for port in ports if port.publish_mode == "host")
    numbers = {port.target_port for port in ports if port.protocol == "tcp"}
    image = spec.image
    return Facts(
        service.spec.name,
        labels,
        variables(spec.env or (), labels),
        image,
        tuple(sorted(number for number in numbers if 1 <= number <= 65535)),
        len(ports) > 1,
    )


def of_task(
    task: wire.Task, facts: Facts, nodes: Mapping[str, wire.Node], options: Options
) -> Seen:
    """``facts`` of the task's service."""
    if task.desired_state != "running" or task.status.state not in ("running", "starting"):
        return NOTHING
    node = nodes.get(task.node_id)
    ready = task.status.state == "running" and (node is None or node.status.state != "down")

    def place(port: int) -> tuple[str, int]:
        if options.address == "published":
            ports = (task.status.port_status.ports if task.status.port_status else None) or ()
            for found in ports:
                if found.target_port == port and found.protocol == "tcp":
                    if node is None or not node.status.addr:
                        raise ValueError("its node's address is not known")
                    return node.status.addr, endpoint_port(found.published_port)
            raise ValueError(f"its port {port} is not published in the mode host")
        addresses = {
            attached.network.spec.name: attached.addresses[0].partition("/")[0]
            for attached in task.networks_attachments or ()
            if attached.addresses and not attached.network.spec.ingress
        }
        return _chosen(addresses, options, facts.labels), port

    where = Locality(node=node.description.hostname if node else "")
    return _seen(facts, options, place=place, ready=ready, where=where)
