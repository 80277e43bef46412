"""A real Docker engine of the test's own: in a network, mount and process namespace, without an
image registry. Killing its first process ends everything in it, containers included."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from registry.model import Service

NETWORK = "kit"
IMAGE = "answers:1"
# Answers every request with the name of its host; its health check fails while /sick is there.
PROGRAM = r"""
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int count, char **words) {
    if (count > 1) return access("/sick", F_OK) == 0;
    signal(SIGTERM, _exit);
    signal(SIGPIPE, SIG_IGN);
    int server = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(8080)};
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(server, (void *)&place, sizeof place) || listen(server, 64)) return 2;
    char host[65] = "", request[4096], answer[256];
    gethostname(host, sizeof host - 1);
    for (;;) {
        int client = accept(server, 0, 0);
        if (client < 0 || read(client, request, sizeof request) < 0) continue;
        int size = snprintf(answer, sizeof answer,
            "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
            strlen(host), host);
        if (write(client, answer, size) < size) return 3;
        close(client);
    }
}
"""
# The engine wants the hierarchies of cgroup v1 where it looks for them, and nothing else there;
# with cgroup v2 alone there is nothing to do.
SCRIPT = r"""
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
    mount -t tmpfs none /sys/fs/cgroup
    for name in $(awk '!/^#/ && $4 { print $1 }' /proc/cgroups); do
        mkdir /sys/fs/cgroup/$name
        mount -t cgroup -o $name none /sys/fs/cgroup/$name || rmdir /sys/fs/cgroup/$name
    done
    mkdir /sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd none /sys/fs/cgroup/systemd || rmdir /sys/fs/cgroup/systemd
fi 2>/dev/null
exec "$@"
"""
DEADLINE = 60.0


class Engine:
    """One engine, on a unix socket."""

    def __init__(self, folder: Path) -> None:
        missing = [p for p in ("dockerd", "gcc", "nsenter", "unshare", "ip") if not shutil.which(p)]
        assert not missing, f"not installed: {', '.join(missing)} (apt: docker.io gcc iproute2)"
        self.folder = folder
        self.socket = folder / "docker.sock"
        self.namespace = f"np-docker-{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._api = self._client()
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        self.inside("ip", "link", "set", "lo", "up")

    def _client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.socket))
        return httpx.Client(transport=transport, base_url="http://docker/v1.41", timeout=DEADLINE)

    # --- life ---

    def start(self) -> None:
        if self._process is not None:
            return
        for leftover in ("docker.pid", "docker.sock"):
            (self.folder / leftover).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "exec", ignore_errors=True)
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    "nsenter", f"--net=/run/netns/{self.namespace}",
                    "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                    "sh", "-c", SCRIPT, "sh",
                    "dockerd", "--host", f"unix://{self.socket}", "--pidfile",
                    str(self.folder / "docker.pid"), "--data-root", str(self.folder / "data"),
                    "--exec-root", str(self.folder / "exec"), "--storage-driver", "vfs",
                    "--bip", "10.251.7.1/24", "--default-ulimit", "nofile=1024:1024",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        until = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
                if self._api.get("/_ping").status_code == 200:
                    return
            assert self._process.poll() is None, f"the engine does not start: {self.said()}"
            assert time.monotonic() < until, f"the engine does not answer: {self.said()}"
            time.sleep(0.02)  # noqa: TID251 - in a thread of the test

    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        """As if the power had failed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._api.close()
            self._api = self._client()

    def stop(self) -> None:
        """In good order."""
        assert self._process is not None
        os.kill(self._first(), signal.SIGTERM)
        self._process.wait(DEADLINE)
        self.kill()

    def freeze(self) -> None:
        os.kill(self._first(), signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._first(), signal.SIGCONT)

    def _first(self) -> int:
        assert self._process is not None
        pid = self._process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def close(self) -> None:
        self.kill()
        self._api.close()
        for folder in Path("/sys/fs/cgroup").glob("*/docker"):
            for path, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
        subprocess.run(["ip", "netns", "del", self.namespace], check=False)
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    # --- what it runs ---

    def inside(self, *command: str) -> str:
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.namespace}", *command],
            check=True, capture_output=True, text=True, timeout=DEADLINE,
        )  # fmt: skip
        return done.stdout

    def call(self, method: str, path: str, body: Any = None, **params: str) -> Any:
        answer = self._api.request(method, path, json=body, params=params)
        assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content[:1] in (b"{", b"[", b'"') else None

    def install(self) -> None:
        """The image and the network of the tests."""
        program = self.folder / "answers"
        subprocess.run(
            ["gcc", "-static", "-O1", "-x", "c", "-o", program, "-"],
            input=PROGRAM.encode(), check=True,
        )  # fmt: skip
        image = io.BytesIO()
        with tarfile.open(fileobj=image, mode="w") as archive:
            archive.add(program, "answers")
        answer = self._api.post(
            "/images/create",
            params={"fromSrc": "-", "repo": "answers", "tag": "1"},
            content=image.getvalue(),
            headers={"content-type": "application/x-tar"},
        )
        assert answer.status_code == 200, answer.text
        subnet = {"Subnet": "10.0.0.0/24", "Gateway": "10.0.0.254"}
        self.call("POST", "/networks/create", {"Name": NETWORK, "IPAM": {"Config": [subnet]}})

    def run(self, name: str, address: str = "", **config: Any) -> str:
        """Create and start a container; its id."""
        host = config.pop("host", {})
        body = {"Image": IMAGE, "Entrypoint": ["/answers"], "Hostname": name, **config}
        if address:
            host = {"NetworkMode": NETWORK, **host}
            ipam = {"IPAMConfig": {"IPv4Address": address}}
            body["NetworkingConfig"] = {"EndpointsConfig": {NETWORK: ipam}}
        body["HostConfig"] = host
        found = self.call("POST", "/containers/create", body, name=name)["Id"]
        self.call("POST", f"/containers/{found}/start")
        return str(found)

    def remove(self, container: str) -> None:
        self.call("DELETE", f"/containers/{container}", force="1")

    def containers(self) -> dict[str, str]:
        """Ids by name, of running ones and others."""
        listed = self.call("GET", "/containers/json", all="1")
        return {entry["Names"][0].lstrip("/"): entry["Id"] for entry in listed}

    def put(self, services: Sequence[Service], more: Sequence[str] = ()) -> None:
        """A container for each endpoint, and those called ``more``; no other."""
        self.start()
        wanted = {
            f"{service.name.partition('/')[2]}-{endpoint.address}-{endpoint.port}": endpoint
            for service in services
            for endpoint in service.endpoints
        }
        listed = self.call("GET", "/containers/json", all="1")
        running: set[str] = set()
        gone: list[str] = []
        for entry in listed:
            name = entry["Names"][0].lstrip("/")
            if (name in wanted or name in more) and entry["State"] == "running":
                running.add(name)
            else:
                gone.append(entry["Id"])
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self.remove, gone))
        for name, endpoint in wanted.items():
            if name not in running:
                service = name.partition("-")[0]
                self.run(name, endpoint.address, Labels=traefik(service, endpoint.port))


def traefik(service: str, port: object) -> dict[str, str]:
    return {f"traefik.http.services.{service}.loadbalancer.server.port": str(port)}


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    found = Engine(folder)
    try:
        found.start()
        found.install()
        yield found
    finally:
        found.close()
