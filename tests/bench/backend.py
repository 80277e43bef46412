"""The back end: nginx with a 128-byte answer and two files, on the load's core."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.base import ENDPOINTS
from bench.peers.nginx import find, scratch
from bench.processes import StartFailed, running
from bench.scenarios import MIB

SMALL = "nodeproxy benchmark ".ljust(127, ".") + "\n"


def render(directory: Path, port: int, connections: int) -> str:
    listen = "\n".join(f"        listen {host}:{port} backlog=4096;" for host in ENDPOINTS)
    return f"""\
daemon off;
worker_processes 1;
worker_rlimit_nofile {connections * 2};
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {connections * 2}; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    open_file_cache max=8;
{scratch(str(directory))}
    server {{
{listen}
        root {directory};
        location = / {{ return 200 "{SMALL.rstrip()}\\n"; }}
        location / {{ }}
    }}
}}
"""


def write_files(directory: Path) -> None:
    block = os.urandom(MIB)
    (directory / "1m").write_bytes(block)
    with (directory / "100m").open("wb") as file:
        for _ in range(100):
            file.write(block)


@contextmanager
def backend(directory: Path, port: int, *, core: int, connections: int) -> Iterator[int]:
    binary = find()
    if binary is None:
        raise StartFailed("the back end is missing: apt-get install nginx")
    directory.mkdir()
    directory.chmod(0o755)  # nginx drops root and must still read the files
    write_files(directory)
    config = directory / "nginx.conf"
    config.write_text(render(directory, port, connections))
    command = [binary, "-p", str(directory), "-c", str(config)]
    with running("backend", command, core=core, directory=directory, ports=[port]) as pid:
        yield pid
