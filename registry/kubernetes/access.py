"""How the API server is reached and what it is shown: from a pod's files or from a kubeconfig.

Files are read again whenever a back end starts, and tokens for each request, so what rotates on
disk is followed. Nothing here puts a credential into a message.
"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec

from registry.base import RegistryError
from registry.kubernetes.options import IN_CLUSTER, Options
from registry.strict import DocumentError, convert, parse

__all__ = ["Access", "access", "read_token"]

MAX_FILE: Final = 1 << 20


class Access(msgspec.Struct, frozen=True):
    """Everything that a client needs. ``repr`` never shows what is secret."""

    server: str
    """``https://10.96.0.1:443``, without a slash at the end."""
    ca: str | None = None
    """PEM; None: the system's trust store."""
    verify: bool = True
    server_name: str = ""
    """The name to check the certificate for, where it is not the server's."""
    token: str = ""
    token_file: str = ""
    certificate: bytes = b""
    """PEM."""
    key: bytes = b""

    def __repr__(self) -> str:
        return f"Access({self.server!r})"

    def tls(self) -> ssl.SSLContext:
        """Raises RegistryError for a bad CA, certificate or key. Blocks: a system's trust store
        takes tens of milliseconds to read."""
        if not self.server.startswith("https:"):
            # Trusts nobody and will not be asked.
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context = ssl.create_default_context(cadata=self.ca)
        except ssl.SSLError as error:
            raise RegistryError(f"the CA for {self.server} cannot be used: {error}") from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            _load(context, self.certificate, self.key, self.server)
        return context


def _load(context: ssl.SSLContext, certificate: bytes, key: bytes, server: str) -> None:
    """Python loads certificates from files only: one that is in memory, so that a key which came
    inside of a kubeconfig never lies on a disk."""
    fd = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(certificate + b"\n" + key)
        # An encrypted key must not make OpenSSL ask on the terminal.
        context.load_cert_chain(f"/proc/self/fd/{fd}", password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise RegistryError(
            f"the client certificate for {server} cannot be used: {reason}"
        ) from None
    finally:
        os.close(fd)


def access(
    options: Options, base_dir: str, environ: Mapping[str, str] = os.environ, pod: str = IN_CLUSTER
) -> Access:
    """Where and how. Raises RegistryError. Blocks."""
    if options.kubeconfig is not None:
        path = Path(base_dir, options.kubeconfig)
        found = _kubeconfig(path, options.context)
    else:
        if options.context is not None:
            raise RegistryError("`context` needs `kubeconfig`")
        server = options.server or _service(environ)
        ca = None
        if not options.ca_file and server.startswith("https:"):
            ca = _text(Path(pod, "ca.crt"), "the pod's CA")
        token = options.token_file or str(Path(pod, "token"))
        found = Access(server, ca, token_file=str(Path(base_dir, token)))
    changes: dict[str, Any] = {}
    if options.server is not None:
        changes["server"] = options.server
    if options.ca_file is not None:
        changes["ca"] = _text(Path(base_dir, options.ca_file), "ca_file")
    if options.token_file is not None:
        changes |= {"token_file": str(Path(base_dir, options.token_file)), "token": ""}
    found = msgspec.structs.replace(found, **changes)
    return msgspec.structs.replace(found, server=_url(found.server))


def read_token(found: Access) -> str:
    """The bearer token as it is now; empty if none is used. Raises RegistryError. Blocks."""
    # A token over plain HTTP would be everybody's.
    if not found.server.startswith("https:"):
        return ""
    if not found.token_file:
        return found.token
    token = _text(Path(found.token_file), "the token").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise RegistryError(f"{found.token_file} does not hold a token")
    return token


def _url(server: str) -> str:
    try:
        parts = urlsplit(server)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username:
        raise RegistryError(f"{server!r} is not the URL of an API server: write https://HOST:PORT")
    return server.rstrip("/")


def _service(environ: Mapping[str, str]) -> str:
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    port = environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise RegistryError(
            "this is not a pod of a cluster (KUBERNETES_SERVICE_HOST is not set):"
            " give `kubeconfig` or `server`"
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _bytes(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE)
    except OSError as error:
        raise RegistryError(f"{what}: {path}: {error.strerror or error}") from None


def _text(path: Path, what: str) -> str:
    try:
        return _bytes(path, what).decode()
    except UnicodeDecodeError:
        raise RegistryError(f"{what}: {path} is not text") from None


# --- kubeconfig: kubernetes.io/docs/reference/config-api/kubeconfig.v1 ---


class _Cluster(msgspec.Struct, rename="kebab"):
    server: str
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""


class _User(
    msgspec.Struct,
    rename={"token_file": "tokenFile", "act_as": "as"}
    | {
        name: name.replace("_", "-")
        for name in (
            "client_certificate",
            "client_certificate_data",
            "client_key",
            "client_key_data",
            "auth_provider",
        )
    },
):
    token: str = ""
    token_file: str = ""
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    username: str = ""
    exec: Any = None
    auth_provider: Any = None
    act_as: str = ""


class _Context(msgspec.Struct):
    cluster: str
    user: str = ""


class _NamedCluster(msgspec.Struct):
    name: str
    cluster: _Cluster


class _NamedUser(msgspec.Struct):
    name: str
    user: _User | None = None


class _NamedContext(msgspec.Struct):
    name: str
    context: _Context


class _Config(msgspec.Struct, rename="kebab"):
    clusters: Annotated[list[_NamedCluster], msgspec.Meta(min_length=1)]
    contexts: Annotated[list[_NamedContext], msgspec.Meta(min_length=1)]
    users: list[_NamedUser] | None = None
    current_context: str = ""


_REFUSED: Final = {
    "exec": "an exec plug-in, which a node's daemon does not run",
    "auth_provider": "an auth-provider, which Kubernetes itself has removed",
    "username": "a password, which Kubernetes itself has removed",
    "act_as": "impersonation",
}


def _kubeconfig(path: Path, wanted: str | None) -> Access:
    config = _parse(path)
    name = wanted or config.current_context
    if not name:
        raise RegistryError(f"{path} has no current-context: give `context`")
    context = _named(path, "context", config.contexts, name).context
    cluster = _named(path, "cluster", config.clusters, context.cluster).cluster
    user = _User()
    if context.user:
        user = _named(path, "user", config.users or (), context.user).user or user
    for field, what in _REFUSED.items():
        if getattr(user, field):
            raise RegistryError(
                f"{path}: the user {context.user!r} needs {what}: use a token, a token file or a"
                " client certificate"
            )
    if cluster.proxy_url:
        raise RegistryError(f"{path}: the cluster {context.cluster!r} needs a proxy: not done")
    ca = _either(
        path,
        "certificate-authority",
        cluster.certificate_authority_data,
        cluster.certificate_authority,
    )
    certificate = _either(
        path, "client-certificate", user.client_certificate_data, user.client_certificate
    )
    key = _either(path, "client-key", user.client_key_data, user.client_key)
    if bool(certificate) != bool(key):
        raise RegistryError(f"{path}: a client certificate and its key come together")
    try:
        authority = ca.decode() if ca else None
    except UnicodeDecodeError:
        raise RegistryError(f"{path}: certificate-authority is not PEM") from None
    return Access(
        cluster.server,
        authority,
        verify=not cluster.insecure_skip_tls_verify,
        server_name=cluster.tls_server_name,
        # The file wins, as for every client of Kubernetes.
        token="" if user.token_file else user.token,
        token_file=str(path.parent / user.token_file) if user.token_file else "",
        certificate=certificate,
        key=key,
    )


def _parse(path: Path) -> _Config:
    try:
        documents = parse(_text(path, "kubeconfig"), str(path))
    except DocumentError as error:
        raise RegistryError(str(error.problems[0])) from None
    if len(documents) != 1:
        raise RegistryError(f"{path} is not one kubeconfig")
    config, problems = convert(documents[0], _Config)
    if config is None:
        raise RegistryError(str(problems[0]))
    return config


def _named(path: Path, what: str, entries: Any, name: str) -> Any:
    for entry in entries:
        if entry.name == name:
            return entry
    raise RegistryError(f"{path} has no {what} {name!r}")


def _either(path: Path, what: str, data: str, file: str) -> bytes:
    """What is inside wins over a file, as for every client of Kubernetes."""
    if data:
        try:
            return base64.b64decode("".join(data.split()), validate=True)
        except ValueError:
            raise RegistryError(f"{path}: {what}-data is not base64") from None
    return _bytes(path.parent / file, what) if file else b""
