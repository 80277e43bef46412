"""One HTTP request of a back end, and what its options say of the way there.

What :mod:`registry.http` is to sockets this is to requests: answers of bounded size, read without
holding the loop, failures as :class:`RegistryError`, and credentials that are taken out of URLs
before anything else can see them.
"""

from __future__ import annotations

import io
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Final, NamedTuple, Self
from urllib.parse import unquote, urlsplit

import httpx
import trio

from registry.base import RegistryError
from registry.http import failed

__all__ = ["Answer", "Body", "Server", "fetch", "read_secret", "server", "tls_context"]

MAX_BODY: Final = 256 * 1024 * 1024
"""Bytes of an answer that are accepted."""


class Answer(NamedTuple):
    """An answer of any status."""

    status: int
    headers: httpx.Headers
    body: bytes

    def said(self) -> str:
        """The beginning of the body, for messages."""
        return " ".join(self.body[:200].decode("utf-8", "replace").split())


class Server(NamedTuple):
    """Where a registry is. ``url`` has no credentials and no slash at its end."""

    url: str
    auth: httpx.BasicAuth | None
    unix_socket: str


def server(text: str) -> Server:
    """``http://user:password@host:port/path``, or ``unix:///run/x.sock``. Raises ValueError,
    whose message has no credentials."""
    parts = urlsplit(text)
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError("write a unix socket as unix:///PATH")
        return Server("http://localhost", None, parts.path)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise ValueError("a server is written http://HOST:PORT or https://HOST:PORT")
    if parts.query or parts.fragment:
        raise ValueError("a server's URL has no ? and no #")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = f"{host}:{port}" if port else host
    auth = None
    if parts.username is not None:
        auth = httpx.BasicAuth(unquote(parts.username), unquote(parts.password or ""))
    return Server(f"{parts.scheme}://{place}{parts.path.rstrip('/')}", auth, "")


async def fetch(
    http: httpx.AsyncClient,
    url: str,
    *,
    doing: str,
    params: Mapping[str, str | list[str]] | None = None,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
    content: bytes | None = None,
    method: str = "",
    auth: httpx.Auth | None = None,
    read_timeout: float = 30.0,
) -> Answer:
    """``method``, or GET, or with ``form`` or ``content`` POST. Raises RegistryError, which says
    what we were ``doing``."""
    request = http.build_request(
        method or ("GET" if form is None and content is None else "POST"),
        url,
        params=params,
        # The network is near: compressing costs both ends more.
        headers={"Accept": "application/json", "Accept-Encoding": "identity", **(headers or {})},
        data=form,
        content=content,
        timeout=httpx.Timeout(5.0, read=read_timeout),
    )
    request.stream = Body(request.content)
    try:
        response = await http.send(request, stream=True, auth=auth)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise failed(doing, error) from None
    # Its value can be had without a copy, which of 100 MB would take 20 ms.
    body = io.BytesIO()
    stream = response.aiter_raw()
    try:
        async for chunk in stream:
            body.write(chunk)
            if body.tell() > MAX_BODY:
                raise RegistryError(f"{doing}: the answer is larger than {MAX_BODY >> 20} MiB")
    except httpx.HTTPError as error:
        raise failed(doing, error) from None
    finally:
        with trio.CancelScope(shield=True):
            assert isinstance(stream, AsyncGenerator)
            await stream.aclose()
            await response.aclose()
    return Answer(response.status_code, response.headers, body.getvalue())


class Body(httpx.AsyncByteStream):
    """A request's body. httpx's own is an asynchronous generator, which is left unfinished, to the
    garbage collector's complaint, where a server answers or hangs up early."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self._content)


class _Once:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._content:
            raise StopAsyncIteration
        content, self._content = self._content, b""
        return content


def tls_context(
    base_dir: str, ca_file: str | None, cert_file: str | None, key_file: str | None
) -> ssl.SSLContext | None:
    """None for the system's trust. Reads files: call it in a thread. Raises RegistryError."""
    if ca_file is None and cert_file is None:
        return None
    try:
        context = ssl.create_default_context(
            cafile=os.path.join(base_dir, ca_file) if ca_file is not None else None
        )
        if cert_file is not None:
            context.load_cert_chain(
                os.path.join(base_dir, cert_file),
                os.path.join(base_dir, key_file) if key_file is not None else None,
            )
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(name for name in (ca_file, cert_file, key_file) if name)
        raise RegistryError(f"the TLS files {files} cannot be used: {error}") from None
    return context


def read_secret(base_dir: str, path: str) -> str:
    """A secret in a file of its own. Reads: call it in a thread. Raises RegistryError."""
    place = os.path.join(base_dir, path)
    try:
        with open(place, encoding="utf-8") as file:
            return file.read(65536).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RegistryError(f"{place} cannot be read: {error}") from None
