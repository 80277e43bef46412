"""A real etcd on loopback, and hands on its keys."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

DEADLINE = 30.0


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


class EtcdServer:
    """One member. It may be started, stopped, killed, frozen and started again."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "one",
        cluster: Mapping[str, int] | None = None,
        tls: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """``cluster``: names of all members to their peer ports. ``tls``: paths by the names
        ``ca``, ``certificate``, ``key``; clients then need a certificate."""
        self.folder = folder / name
        self.name = name
        (port,) = free_ports(1)
        self._cluster = cluster or {name: free_ports(1)[0]}
        self._tls = tls
        self._arguments = arguments
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None
        context: ssl.SSLContext | bool = True
        if tls:
            context = ssl.create_default_context(cafile=tls["ca"])
            context.load_cert_chain(tls["certificate"], tls["key"])
        self.http = httpx.Client(
            base_url=self.url, verify=context, trust_env=False, timeout=DEADLINE
        )

    # --- the process ---

    def begin(self) -> None:
        peer = f"http://127.0.0.1:{self._cluster[self.name]}"
        secured = ()
        if self._tls:
            secured = (
                "--client-cert-auth",
                *("--trusted-ca-file", self._tls["ca"]),
                *("--cert-file", self._tls["certificate"], "--key-file", self._tls["key"]),
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "etcd",
                    *("--name", self.name, "--data-dir", str(self.folder / "data")),
                    *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
                    *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                    "--initial-cluster",
                    ",".join(f"{n}=http://127.0.0.1:{p}" for n, p in self._cluster.items()),
                    "--unsafe-no-fsync",
                    *secured,
                    *self._arguments,
                ],
                stdout=log,
                stderr=log,
                # The gateway dials its own server: no proxy may come between.
                env={k: v for k, v in os.environ.items() if "proxy" not in k.lower()},
            )

    def start(self) -> None:
        self.begin()
        self.wait()

    def wait(self) -> None:
        """Until it serves."""
        end = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if self.http.get("/health", timeout=1).status_code == 200:
                    return
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError((self.folder / "log").read_text()[-2000:])
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.02)

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, number)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """In order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(number)
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def wipe(self) -> None:
        """A stopped server loses its data."""
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def close(self) -> None:
        self.kill()
        self.http.close()

    # --- its keys ---

    def call(self, path: str, **body: Any) -> dict[str, Any]:
        response = self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def put(self, key: str, value: str | bytes, lease: int = 0) -> int:
        """The revision."""
        answer = self.call("/v3/kv/put", key=b64(key), value=b64(value), lease=lease)
        return int(answer["header"]["revision"])

    def delete(self, key: str) -> None:
        self.call("/v3/kv/deleterange", key=b64(key))

    def delete_all(self, prefix: str) -> None:
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        self.call("/v3/kv/deleterange", key=b64(prefix), range_end=b64(end))

    def keys(self, prefix: str) -> list[str]:
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        answer = self.call("/v3/kv/range", key=b64(prefix), range_end=b64(end), keys_only=True)
        return [base64.b64decode(kv["key"]).decode() for kv in answer.get("kvs", ())]

    def transaction(self, puts: Mapping[str, str | bytes], deletes: tuple[str, ...] = ()) -> None:
        """All at once."""
        todo: list[dict[str, Any]] = [
            {"request_put": {"key": b64(k), "value": b64(v)}} for k, v in puts.items()
        ]
        todo += [{"request_delete_range": {"key": b64(k)}} for k in deletes]
        self.call("/v3/kv/txn", success=todo)

    def grant(self, seconds: int) -> int:
        return int(self.call("/v3/lease/grant", TTL=seconds)["ID"])

    def revoke(self, lease: int) -> None:
        self.call("/v3/kv/lease/revoke", ID=lease)

    def compact(self, revision: int) -> None:
        self.call("/v3/kv/compaction", revision=revision, physical=True)
