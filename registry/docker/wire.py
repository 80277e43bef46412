"""What is read of the Docker Engine API's objects.

Reference: https://docs.docker.com/reference/api/engine/ (ContainerInspect, ContainerList,
SystemEvents, ServiceList, TaskList, NodeList).
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = [
    "Container",
    "Event",
    "Listed",
    "Node",
    "Service",
    "Task",
    "Version",
    "decode_container",
    "decode_event",
    "decode_listed",
    "decode_node",
    "decode_service",
    "decode_task",
    "decode_version",
]


class Wire(msgspec.Struct, frozen=True, rename="pascal"):
    """Unknown fields are passed over; so is null, where a field may be left out."""


class Version(Wire, frozen=True):
    api_version: str
    min_api_version: str = msgspec.field(default="1.24", name="MinAPIVersion")


# --- containers ---


class Network(Wire, frozen=True):
    ip_address: str = msgspec.field(default="", name="IPAddress")
    global_ipv6: str = msgspec.field(default="", name="GlobalIPv6Address")


class Binding(Wire, frozen=True):
    host_ip: str = ""
    host_port: str = ""


class NetworkSettings(Wire, frozen=True):
    networks: dict[str, Network | None] | None = None
    ports: dict[str, tuple[Binding, ...] | None] | None = None


class ListedPort(Wire, frozen=True):
    ip: str = msgspec.field(default="", name="IP")
    private_port: int = 0
    public_port: int = 0


class Listed(Wire, frozen=True):
    """An entry of the list of containers: enough to see whether anything changed."""

    id: str
    state: str = ""
    status: str = ""
    names: tuple[str, ...] | None = None
    ports: tuple[ListedPort, ...] | None = None
    network_settings: NetworkSettings | None = None

    def fingerprint(self) -> object:
        """Equal as long as an inspection would say the same."""
        # "Up 3 minutes (healthy)": the minutes are no change.
        _, paren, condition = self.status.partition("(")
        ports = frozenset(self.ports or ())
        return (self.state, paren + condition, self.names, ports, self.network_settings)


class Health(Wire, frozen=True):
    status: str = ""


class State(Wire, frozen=True):
    status: str = ""
    running: bool = False
    paused: bool = False
    restarting: bool = False
    health: Health | None = None


class HostConfig(Wire, frozen=True):
    network_mode: str = ""


class Config(Wire, frozen=True):
    image: str = ""
    env: tuple[str, ...] | None = None
    labels: dict[str, str] | None = None
    exposed_ports: dict[str, object] | None = None


class Container(Wire, frozen=True):
    id: str
    name: str = ""
    state: State = State()
    config: Config = Config()
    host_config: HostConfig | None = None
    network_settings: NetworkSettings = NetworkSettings()


class Actor(Wire, frozen=True):
    id: str = msgspec.field(default="", name="ID")
    attributes: dict[str, str] | None = None


class Event(Wire, frozen=True):
    type: str = ""
    action: str = ""
    actor: Actor = Actor()

    @property
    def container(self) -> str:
        """The id of the container that it is about; else empty."""
        if self.type == "container":
            return self.actor.id
        return (self.actor.attributes or {}).get("container", "")


# --- Swarm ---


class EndpointPort(Wire, frozen=True):
    protocol: str = "tcp"
    target_port: int = 0
    published_port: int = 0
    publish_mode: str = "ingress"


class ServiceEndpoint(Wire, frozen=True):
    ports: tuple[EndpointPort, ...] | None = None


class ContainerSpec(Wire, frozen=True):
    image: str = ""
    env: tuple[str, ...] | None = None


class TaskTemplate(Wire, frozen=True):
    container_spec: ContainerSpec | None = None


class ServiceSpec(Wire, frozen=True):
    name: str
    labels: dict[str, str] | None = None
    task_template: TaskTemplate = TaskTemplate()


class Service(Wire, frozen=True):
    id: str = msgspec.field(name="ID")
    spec: ServiceSpec
    endpoint: ServiceEndpoint | None = None


class AttachedSpec(Wire, frozen=True):
    name: str = ""
    ingress: bool = False


class AttachedNetwork(Wire, frozen=True):
    id: str = msgspec.field(default="", name="ID")
    spec: AttachedSpec = AttachedSpec()


class Attachment(Wire, frozen=True):
    network: AttachedNetwork = AttachedNetwork()
    addresses: tuple[str, ...] | None = None


class PortStatus(Wire, frozen=True):
    ports: tuple[EndpointPort, ...] | None = None


class TaskStatus(Wire, frozen=True):
    state: str = ""
    port_status: PortStatus | None = None


class Task(Wire, frozen=True):
    id: str = msgspec.field(name="ID")
    service_id: str = msgspec.field(default="", name="ServiceID")
    node_id: str = msgspec.field(default="", name="NodeID")
    desired_state: str = ""
    status: TaskStatus = TaskStatus()
    networks_attachments: tuple[Attachment, ...] | None = None


class NodeDescription(Wire, frozen=True):
    hostname: str = ""


class NodeStatus(Wire, frozen=True):
    state: str = ""
    addr: str = ""


class Node(Wire, frozen=True):
    id: str = msgspec.field(name="ID")
    description: NodeDescription = NodeDescription()
    status: NodeStatus = NodeStatus()


decode_version: Final = msgspec.json.Decoder(Version).decode
decode_listed: Final = msgspec.json.Decoder(Listed).decode
decode_container: Final = msgspec.json.Decoder(Container).decode
decode_event: Final = msgspec.json.Decoder(Event).decode
decode_service: Final = msgspec.json.Decoder(Service).decode
decode_task: Final = msgspec.json.Decoder(Task).decode
decode_node: Final = msgspec.json.Decoder(Node).decode
