"""nginx as a proxy: one worker, least connections, forwarded header, no access log."""

from pathlib import Path

from bench.peers.base import Peer, Site, daemon, first_version

STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def find() -> str | None:
    """The back end needs it too."""
    return daemon("nginx")


def missing_stream() -> str | None:
    return None if STREAM_MODULE.exists() else "apt-get install libnginx-mod-stream"


def scratch(directory: str) -> str:
    """Folders that nginx makes at start and which lie in places for root by default."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "\n".join(f"    {kind}_temp_path {directory}/{kind};" for kind in kinds)


def _servers(site: Site) -> str:
    return "\n".join(f"        server {host}:{site.endpoint_port};" for host in site.endpoints)


def render(site: Site, *, stream: bool) -> str:
    relay = f"""
stream {{
    upstream stream {{
        least_conn;
{_servers(site)}
    }}
    server {{
        listen 127.0.0.1:{site.tcp_port} backlog=4096;
        proxy_pass stream;
    }}
}}
"""
    return f"""\
{f"load_module {STREAM_MODULE};" if stream else ""}
daemon off;
worker_processes 1;
worker_rlimit_nofile {site.max_connections * 2};
pid {site.directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {site.max_connections * 2}; }}
http {{
    access_log off;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
{scratch(str(site.directory))}
    upstream web {{
        least_conn;
{_servers(site)}
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{site.http_port} backlog=4096;
        location / {{
            proxy_pass http://web;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_max_temp_file_size 0;
        }}
    }}
    server {{
        listen 127.0.0.1:{site.metrics_port};
        location / {{ stub_status; }}
    }}
}}
{relay if stream else ""}"""


def files(site: Site) -> dict[str, str]:
    return {"nginx.conf": render(site, stream=missing_stream() is None)}


def command(binary: str, site: Site) -> list[str]:
    return [binary, "-p", str(site.directory), "-c", str(site.directory / "nginx.conf")]


PEER = Peer(
    name="nginx",
    install="apt-get install nginx libnginx-mod-stream",
    binary=find,
    version=lambda binary: first_version(binary, "-v"),
    files=files,
    command=command,
    tcp=missing_stream,
)
