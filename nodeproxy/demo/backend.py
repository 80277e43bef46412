"""The demo's back end: a real HTTP/1.1 server that says who it is and how a request came.

``python -m nodeproxy.demo.backend --name pod1-2 10.244.1.12:8080 [fd00:244:1::12]:8080``

Every answer is one JSON object: its own name, and the request's ``Via`` field, by which a
request that passed the proxy is known from one that came directly. Once it listens, it prints
the addresses as one line (port 0 has become a real port by then). It ends when its standard
input does, so that it never outlives the demo.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from nodeproxy.core.destination import host_port

__all__ = ["answer", "main", "split_address"]


def split_address(text: str) -> tuple[str, int]:
    """``10.0.0.1:80`` or ``[fd00::1]:80``. Raises ValueError."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def answer(name: str, via: str | None) -> bytes:
    """The body of a response."""
    return json.dumps({"backend": name, "via": via}).encode() + b"\n"


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, name: str, address: tuple[str, int]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.name = name
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the resolver for a name of the address, which may take long.
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Of clients that are gone there is nothing to tell."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one segment
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        body = answer(self.server.name, self.headers.get("Via"))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The proxy's access log is the one that is shown."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="nodeproxy.demo.backend", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("addresses", nargs="+", type=split_address)
    given = parser.parse_args(arguments)
    servers = [Server(given.name, address) for address in given.addresses]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    listening = [server.socket.getsockname()[:2] for server in servers]
    print(" ".join(map(host_port, listening)), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while os.read(sys.stdin.fileno(), 4096):
            pass


if __name__ == "__main__":
    main()
