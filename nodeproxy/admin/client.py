"""Asks a running daemon: httpx over its unix socket, synchronously, for the command line."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from nodeproxy.admin.views import (
    EndpointView,
    ExplainQuery,
    ExplainView,
    HostView,
    ProbeView,
    RegistrationView,
    RegistryView,
    RouteView,
    RulesView,
    ServiceDetail,
    ServiceView,
    StatusView,
    VerifyView,
)

__all__ = ["AdminError", "Client", "NoDaemon"]

T = TypeVar("T")


class AdminError(Exception):
    """The daemon's answer is an error. ``hint`` says what to do; it may be empty."""

    def __init__(self, message: str, hint: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.hint = hint
        self.status = status
        """HTTP status, or 0 if there was no answer."""


class NoDaemon(AdminError):
    """No daemon answers at this path."""

    absent = False
    """True where there is none; False where one may be there that can't be asked."""


class Client:
    """One connection to one daemon. Every method raises AdminError; entering the context raises
    NoDaemon."""

    def __init__(
        self,
        path: str | Path,
        *,
        timeout: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.socket = Path(path)
        self._probed = transport is not None
        self._http = httpx.Client(
            transport=transport or httpx.HTTPTransport(uds=str(path)),
            base_url="http://nodeproxy",
            timeout=httpx.Timeout(timeout, connect=5.0),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        # httpx says no more than that connecting failed (and leaks the socket): the operating
        # system knows why.
        if not self._probed:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.settimeout(5.0)
                    probe.connect(str(self.socket))
            except OSError as exc:
                self._http.close()
                raise self._no_daemon(exc) from exc
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._http.close()

    def status(self) -> StatusView:
        return self._get("/status", StatusView)

    def ready(self) -> ProbeView:
        return self._get("/ready", ProbeView, accept=(503,))

    def services(self) -> list[ServiceView]:
        return self._get("/services", list[ServiceView])

    def service(self, name: str) -> ServiceDetail:
        return self._get(f"/services/{name}", ServiceDetail)

    def hosts(self, suffix: str = "") -> list[HostView]:
        return self._get("/hosts", list[HostView], {"suffix": suffix})

    def endpoints(self, service: str = "") -> list[EndpointView]:
        return self._get("/endpoints", list[EndpointView], {"service": service})

    def routes(self, service: str = "") -> list[RouteView]:
        return self._get("/routes", list[RouteView], {"service": service})

    def registries(self) -> list[RegistryView]:
        return self._get("/registries", list[RegistryView])

    def registrations(self) -> list[RegistrationView]:
        return self._get("/registrations", list[RegistrationView])

    def explain(self, query: ExplainQuery) -> ExplainView:
        parameters: dict[str, str | list[str]] = {
            "method": query.method,
            "url": query.url,
            "header": [f"{name}: {value}" for name, value in query.headers],
            "from": query.source,
        }
        return self._get("/explain", ExplainView, parameters)

    def metrics(self) -> Iterator[bytes]:
        """The exposition, as it arrives."""
        with self._errors(), self._http.stream("GET", "/metrics") as response:
            if response.status_code != 200:
                response.read()
                raise _refused(response)
            yield from response.iter_bytes()

    def rules(self) -> RulesView:
        return self._get("/rules", RulesView)

    def rules_verify(self) -> VerifyView:
        return self._get("/rules/verify", VerifyView)

    def rules_repair(self) -> VerifyView:
        return self._ask("POST", "/rules/repair", VerifyView)

    def rules_remove(self) -> RulesView:
        """Takes the running daemon out of the traffic's path."""
        return self._ask("POST", "/rules/remove", RulesView, {"confirm": "stop-intercepting"})

    def log_level(self) -> str:
        return self._get("/log-level", dict[str, str])["level"]

    def set_log_level(self, level: str) -> str:
        return self._ask("POST", "/log-level", dict[str, str], {"level": level})["level"]

    def _get(
        self,
        path: str,
        type_: type[T],
        parameters: dict[str, Any] | None = None,
        accept: tuple[int, ...] = (),
    ) -> T:
        return self._ask("GET", path, type_, parameters, accept)

    def _ask(
        self,
        method: str,
        path: str,
        type_: type[T],
        parameters: dict[str, Any] | None = None,
        accept: tuple[int, ...] = (),
    ) -> T:
        given = {key: value for key, value in (parameters or {}).items() if value}
        with self._errors():
            response = self._http.request(method, path, params=given)
        if response.status_code != 200 and response.status_code not in accept:
            raise _refused(response)
        try:
            return msgspec.json.decode(response.content, type=type_)
        except msgspec.DecodeError as exc:
            raise AdminError(
                f"cannot understand the daemon's answer to {path}: {exc}",
                "are the daemon and this command of the same version? `nodeproxy --version`",
            ) from exc

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as exc:
            raise self._no_daemon(exc) from exc
        except httpx.TimeoutException as exc:
            raise AdminError(
                f"the daemon at {self.socket} did not answer in time",
                "it may be stopped or stuck: `systemctl status nodeproxy`, and its log",
            ) from exc
        except httpx.TransportError as exc:
            raise AdminError(
                f"the daemon at {self.socket} broke off its answer: {exc}",
                "its log may say why: `journalctl -u nodeproxy`",
            ) from exc

    def _no_daemon(self, reason: Exception) -> NoDaemon:
        elsewhere = "`--socket PATH` or NODEPROXY_SOCKET names another socket"
        match reason:
            case PermissionError():
                hint = "use sudo, or be the user that runs the daemon"
                return NoDaemon(f"no permission to use {self.socket}", hint)
            case FileNotFoundError() | NotADirectoryError():
                answer = NoDaemon(
                    f"no daemon answers: there is no socket {self.socket}",
                    f"is it running? `systemctl status nodeproxy`; {elsewhere}",
                )
                answer.absent = True
                return answer
            case ConnectionRefusedError():
                answer = NoDaemon(
                    f"no daemon answers at {self.socket}, which one that has ended left behind",
                    f"start it: `systemctl start nodeproxy`; {elsewhere}",
                )
                answer.absent = True
                return answer
        return NoDaemon(
            f"no daemon answers at {self.socket}: {reason}",
            f"is it running, or stuck? `systemctl status nodeproxy`; {elsewhere}",
        )


def _refused(response: httpx.Response) -> AdminError:
    try:
        content = msgspec.json.decode(response.content, type=dict[str, str])
        return AdminError(content["error"], content.get("hint", ""), response.status_code)
    except (msgspec.DecodeError, KeyError):
        return AdminError(f"the daemon answered {response.status_code}", "", response.status_code)
