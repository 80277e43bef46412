"""The two programs of test_dataplane_memory.py.

``proxy PORT PROTOCOL``: a proxy before an endpoint on PORT; writes the port it listens on.
``load COUNT PROTOCOL``: an endpoint and COUNT clients, each of which is served once and then
idles. Writes the endpoint's port, reads the proxy's, writes ``idle`` when all are.
"""

from __future__ import annotations

import gc
import resource
import selectors
import socket
import sys
import threading
from contextlib import suppress
from random import Random
from typing import Any

import trio

from nodeproxy.core.policy import Policy
from nodeproxy.dataplane.listener import listen
from nodeproxy.dataplane.node import Node
from nodeproxy.dataplane.reactor import Reactor
from nodeproxy.dataplane.settings import Settings
from nodeproxy.telemetry.accesslog import AccessLog, AccessLogSettings
from nodeproxy.telemetry.families import Families
from nodeproxy.telemetry.metrics import Metrics
from registry.catalog import Merger
from registry.model import Endpoint, Port, Service

REQUEST = (
    b"GET /some/path HTTP/1.1\r\nHost: example.test\r\nUser-Agent: test\r\nX-Padding: %b\r\n\r\n"
    % (b"x" * 400)
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n" + bytes(128)


async def proxy(port: int, protocol: Any) -> None:
    reactor = Reactor()
    families = Families(Metrics())
    log = AccessLog(AccessLogSettings(mode="off"), lambda _line: None, rng=Random(1))
    settings = Settings(keep_alive_timeout=600.0, policy=Policy(max_connections=100_000))
    node = Node(settings, reactor, families, log, rng=Random(1), log=lambda *_, **__: None)
    service = Service("test/web", (), (Port(80, "main", protocol),), (Endpoint("127.0.0.1", port),))
    node.update(*Merger(["test"]).apply("test", [service], []))
    listener = node.serve_port(listen(("127.0.0.1", 0)), "test/web", 80)
    print(listener.address[1], flush=True)
    gc.collect()
    gc.freeze()
    await reactor.run()


def serve(server: socket.socket) -> None:
    """Answers whatever it reads, on any number of connections."""
    selector = selectors.DefaultSelector()
    selector.register(server, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is server:
                sock, _ = server.accept()
                selector.register(sock, selectors.EVENT_READ)
            else:
                sock = key.fileobj  # type: ignore[assignment]
                if sock.recv(65536):
                    sock.sendall(ANSWER)
                else:
                    selector.unregister(sock)
                    sock.close()


def load(count: int) -> None:
    server = socket.create_server(("127.0.0.1", 0), backlog=4096)
    threading.Thread(target=serve, args=(server,), daemon=True).start()
    print(server.getsockname()[1], flush=True)
    port = int(input())
    clients = []

    def open_some(number: int) -> None:
        for _ in range(number):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(REQUEST)
            got = b""
            while len(got) < len(ANSWER):
                more = sock.recv(65536)
                assert more
                got += more
            clients.append(sock)

    open_some(500)  # what is made once, and the allocator's arenas, are not per connection
    print("warm", flush=True)
    input()
    open_some(count)
    print("idle", flush=True)
    input()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit in (max(hard, 32768), hard):  # root may raise it beyond what it was given
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            break
    if sys.argv[1] == "proxy":
        trio.run(proxy, int(sys.argv[2]), sys.argv[3])
    else:
        load(int(sys.argv[2]))
