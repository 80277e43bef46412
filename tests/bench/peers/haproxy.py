"""HAProxy near its defaults: one thread, least connections, forwarded header, no log."""

from bench.peers.base import Peer, Site, daemon, first_version


def _servers(site: Site) -> str:
    return "\n".join(
        f"    server s{number} {host}:{site.endpoint_port}"
        for number, host in enumerate(site.endpoints)
    )


def files(site: Site) -> dict[str, str]:
    text = f"""\
global
    nbthread 1
    maxconn {site.max_connections}

defaults
    timeout connect 1s
    timeout client 75s
    timeout server 75s
    timeout http-keep-alive 75s
    balance leastconn

frontend web
    mode http
    bind 127.0.0.1:{site.http_port} backlog 4096
    option forwardfor
    use_backend web if {{ path_beg / }}

backend web
    mode http
    http-reuse always
{_servers(site)}

frontend stream
    mode tcp
    bind 127.0.0.1:{site.tcp_port} backlog 4096
    default_backend stream

backend stream
    mode tcp
{_servers(site)}

frontend metrics
    mode http
    bind 127.0.0.1:{site.metrics_port}
    http-request use-service prometheus-exporter if {{ path /metrics }}
"""
    return {"haproxy.cfg": text}


def command(binary: str, site: Site) -> list[str]:
    return [binary, "-db", "-f", str(site.directory / "haproxy.cfg")]


PEER = Peer(
    name="haproxy",
    install="apt-get install haproxy",
    binary=lambda: daemon("haproxy"),
    version=lambda binary: first_version(binary, "-v"),
    files=files,
    command=command,
)
