"""nodeproxy with explicit listeners: no root, no iptables, the same data plane.

NODEPROXY_BENCH_COMMAND starts another build of it: a command line in which {config}, {http_port},
{tcp_port}, {metrics_port} and {endpoint_port} are filled in.
"""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from bench.peers.base import Peer, Site, first_version

OVERRIDE = "NODEPROXY_BENCH_COMMAND"


def _service(name: str, port: dict[str, Any], site: Site) -> dict[str, Any]:
    return {
        "name": name,
        "ports": [port],
        "endpoints": [f"{host}:{site.endpoint_port}" for host in site.endpoints],
    }


def files(site: Site) -> dict[str, str]:
    """JSON is YAML."""
    config = {
        "interception": {"mode": "none"},
        "listeners": [
            {"bind": f"127.0.0.1:{site.http_port}", "service": "bench/web", "port": 80},
            {"bind": f"127.0.0.1:{site.tcp_port}", "service": "bench/stream", "port": 81},
        ],
        "registries": [{"kind": "file", "path": "services.yaml"}],
        "state_dir": str(site.directory / "state"),
        "admin": {"socket": str(site.directory / "admin.sock")},
        "telemetry": {
            "metrics": f"127.0.0.1:{site.metrics_port}",
            "access_log": {"mode": "off"},
        },
        "log": {"level": "warning", "format": "json"},
    }
    services = {
        "services": [
            _service("bench/web", {"name": "http", "port": 80, "protocol": "http"}, site),
            _service("bench/stream", {"name": "tcp", "port": 81, "protocol": "tcp"}, site),
        ]
    }
    return {
        "nodeproxy.yaml": json.dumps(config, indent=1),
        "services.yaml": json.dumps(services, indent=1),
    }


def command(binary: str, site: Site) -> list[str]:
    config = str(site.directory / "nodeproxy.yaml")
    override = os.environ.get(OVERRIDE)
    if override is None:
        return [binary, "run", "--config", config]
    return [
        word.format(
            config=config,
            http_port=site.http_port,
            tcp_port=site.tcp_port,
            metrics_port=site.metrics_port,
            endpoint_port=site.endpoint_port,
        )
        for word in shlex.split(override)
    ]


def find() -> str | None:
    """The script beside the running Python, so that no other installation is measured."""
    override = os.environ.get(OVERRIDE)
    if override is not None:
        return shlex.split(override)[0]
    script = Path(sys.executable).parent / "nodeproxy"
    return str(script) if script.exists() else None


def version(binary: str) -> str:
    if OVERRIDE in os.environ:
        return "overridden by " + OVERRIDE
    return first_version(binary, "--version")


PEER = Peer(
    name="nodeproxy",
    install="pip install -e .",
    binary=find,
    version=version,
    files=files,
    command=command,
)
