"""HTTP/1.1 with programs of others at both ends: curl and Python's http.client in front, nginx and
Apache behind; and websockets on both sides of an upgrade."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

pytestmark = pytest.mark.system

MIB = 1 << 20

NGINX = """\
user root; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err; worker_processes 1;
events {{ worker_connections 200; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  gzip on; gzip_types *; gzip_min_length 1; client_max_body_size 0; keepalive_requests 5;
  server {{
    listen 127.0.0.1:{port}; root {www};
    location /moved {{ return 301 /small.txt; }}
    location /none {{ return 204; }}
    location /fields {{ return 200 "$http_via|$http_x_forwarded_for|$http_x_request_id"; }}
  }}
}}
"""

APACHE = """\
ServerName localhost
ServerRoot {folder}
PidFile {folder}/apache.pid
ErrorLog {folder}/apache.err
Listen 127.0.0.1:{port}
DocumentRoot {www}
KeepAlive On
MaxKeepAliveRequests 5
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule alias_module {modules}/mod_alias.so
LoadModule deflate_module {modules}/mod_deflate.so
LoadModule filter_module {modules}/mod_filter.so
SetOutputFilter DEFLATE
RedirectMatch 301 ^/moved$ /small.txt
RedirectMatch 204 ^/none$
"""


class Server:
    """A web server of others, on files whose digests are known."""

    def __init__(self, kind: str, folder: Path, port: int) -> None:
        self.www = folder / "www"
        self.www.mkdir()
        self.files = {
            "empty.txt": b"",
            "small.txt": b"hello\n",
            "large.bin": os.urandom(5 * MIB),
            "zeros.bin": bytes(3 * MIB),
        }
        for name, data in self.files.items():
            (self.www / name).write_bytes(data)
        text = {"nginx": NGINX, "apache": APACHE}[kind].format(
            folder=folder, port=port, www=self.www, modules="/usr/lib/apache2/modules"
        )
        config = folder / f"{kind}.conf"
        config.write_text(text)
        command = {
            "nginx": ["/usr/sbin/nginx", "-c", str(config), "-e", str(folder / "nginx.err")],
            "apache": ["/usr/sbin/apache2", "-f", str(config), "-DFOREGROUND"],
        }[kind]
        self.process = subprocess.Popen(command)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(params=["nginx", "apache"])
def behind(
    request: pytest.FixtureRequest, daemon: Any, tmp_path: Path, kit: Any
) -> Iterator[tuple[int, Server]]:
    """The proxy's port, and the server behind it."""
    folder = tmp_path / request.param
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    server = Server(request.param, folder, port)
    try:
        kit.eventually(lambda: socket.create_connection(("127.0.0.1", port)).close() is None)
        yield front(daemon, port), server
        assert daemon.stop() == 0
    finally:
        server.close()


def front(daemon: Any, port: int) -> int:
    daemon.serve(
        {
            "name": "shop/web",
            "ports": [{"port": 80, "protocol": "http"}],
            "endpoints": [f"127.0.0.1:{port}"],
        }
    )
    number: int = daemon.listen("shop/web")
    daemon.start()
    return number


def curl(*args: str, stdin: bytes | None = None) -> bytes:
    done = subprocess.run(
        ["curl", "-sS", "--fail", "--max-time", "20", "--noproxy", "*", *args],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl(behind: Any) -> None:
    port, server = behind
    base = f"http://127.0.0.1:{port}"
    for name, data in server.files.items():
        assert curl(f"{base}/{name}") == data
        assert curl("--compressed", f"{base}/{name}") == data  # chunked, by their filters
        assert curl("--http1.0", f"{base}/{name}") == data
    assert curl("-r", "1-3", f"{base}/small.txt") == b"ell"
    # Thirty requests on one connection, over endpoints' connections that end after five.
    urls = [f"{base}/small.txt"] * 30
    wanted = "%{http_code} %{num_connects}\\n"
    told = curl(*(part for url in urls for part in ("-o", "/dev/null", url)), "-w", wanted)
    assert told.split() == [b"200", b"1", *[b"200", b"0"] * 29]
    head = curl("-I", f"{base}/large.bin")
    assert b"content-length: %d" % (5 * MIB) in head.lower()
    assert curl("-o", "/dev/null", "-w", "%{http_code}", f"{base}/none") == b"204"
    assert curl("-L", f"{base}/moved") == b"hello\n"
    date = next(line for line in head.split(b"\r\n") if line.startswith(b"Last-Modified"))
    since = f"If-Modified-Since: {date.decode().partition(': ')[2]}"
    assert curl("-o", "/dev/null", "-w", "%{http_code}", "-H", since, f"{base}/large.bin") == b"304"


def test_curl_uploads(behind: Any) -> None:
    port, server = behind
    base = f"http://127.0.0.1:{port}/small.txt"
    data = server.files["large.bin"]
    expect = ("-H", "Expect: 100-continue")
    for framing in ((), ("-H", "Transfer-Encoding: chunked"), expect):
        got = subprocess.run(
            ["curl", "-sS", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}",
             *framing, "--data-binary", "@-", base],
            input=data, capture_output=True, check=False, timeout=30,
        )  # fmt: skip
        # nginx refuses POST to a file, Apache gives it; both have read it or closed.
        assert got.stdout in (b"405", b"200"), got.stderr


def test_http_client(behind: Any) -> None:
    port, server = behind
    failures: list[object] = []

    def use() -> None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            for _ in range(5):
                for name, data in server.files.items():
                    connection.request("GET", f"/{name}", headers={"Accept-Encoding": "identity"})
                    got = connection.getresponse()
                    body = got.read()
                    assert got.status == 200
                    assert hashlib.sha256(body).digest() == hashlib.sha256(data).digest()
                    connection.request("HEAD", f"/{name}")
                    got = connection.getresponse()
                    assert (got.status, got.read()) == (200, b"")
                connection.request("GET", "/missing")
                got = connection.getresponse()
                got.read()
                assert got.status == 404
            connection.close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


# -- websockets -----------------------------------------------------------------------------


@pytest.fixture
def echoes() -> Iterator[int]:
    """The port of a WebSocket server that sends back what it gets."""

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join(20)


@pytest.mark.parametrize("declared", [True, False])
def test_websockets(daemon: Any, echoes: int, declared: bool, kit: Any) -> None:
    """With compression, fragments, pings and an orderly close; on a port that says what it speaks
    and on one that does not."""
    if declared:
        port = front(daemon, echoes)
    else:
        daemon.serve(
            {"name": "shop/web", "ports": [{"port": 80}], "endpoints": [f"127.0.0.1:{echoes}"]}
        )
        port = daemon.listen("shop/web")
        daemon.start()
    with connect(f"ws://127.0.0.1:{port}/chat", max_size=None, proxy=None) as one:
        for message in ("hello", b"\x00\xff" * 100, os.urandom(2 * MIB), "x" * MIB):
            one.send(message)
            assert one.recv(20) == message
        one.send(["in ", "three ", "parts"])
        assert one.recv(20) == "in three parts"
        assert one.ping().wait(20)
        one.close()
        with pytest.raises(ConnectionClosedOK):
            one.recv(20)
    code = {"service": "shop/web", "code": "101"}
    kit.eventually(lambda: daemon.metric("nodeproxy_requests_total", **code) == 1)
    received = daemon.metric("nodeproxy_request_bytes_total", service="shop/web")
    assert received > 2 * MIB
    assert daemon.stop() == 0
