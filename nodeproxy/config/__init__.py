"""The configuration of the daemon: one YAML file, one typed tree.

:func:`load` reads it strictly: unknown keys, wrong values and settings that contradict each
other are all reported together, each with its file and line. Only what the operator has to
know is an error; what is merely doubtful is in :attr:`Config.warnings`.

The parts of the proxy never see this tree: the composition root gives each part its own
settings, so that none of them depends on how a file is laid out.
"""

from nodeproxy.config.reading import EXAMPLE, ConfigError, load, parse
from nodeproxy.config.tree import (
    AccessLog,
    Admin,
    Config,
    Dns,
    File,
    Interception,
    Listener,
    Log,
    Node,
    Outlier,
    Telemetry,
    Traffic,
    Vips,
)
from nodeproxy.config.values import Address, Cidr, MetricsAddress, RegistryEntry, ServiceName

__all__ = [
    "EXAMPLE",
    "AccessLog",
    "Address",
    "Admin",
    "Cidr",
    "Config",
    "ConfigError",
    "Dns",
    "File",
    "Interception",
    "Listener",
    "Log",
    "MetricsAddress",
    "Node",
    "Outlier",
    "RegistryEntry",
    "ServiceName",
    "Telemetry",
    "Traffic",
    "Vips",
    "load",
    "parse",
]
