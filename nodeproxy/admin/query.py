"""Reads the request that ``explain`` is asked about. Pure, and shared by the CLI and the API,
so that a mistake is reported in the same words with and without a daemon."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from nodeproxy.admin.views import ExplainQuery

__all__ = ["BadQuery", "explain_query"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PORTS = {"http": 80, "https": 443}


class BadQuery(ValueError):
    """The question cannot be understood; the message says what is wrong."""


def explain_query(
    *, method: str, url: str, headers: Iterable[str] = (), source: str = ""
) -> ExplainQuery:
    """``GET``, ``http://10.96.0.10/cart``, ``["version: two"]``, ``10.244.1.11``.

    The host may be an address, a host name, or a service's name as ``http://name.namespace``
    (also with ``.svc.cluster.local`` behind it); which of these, the daemon knows.
    Raises BadQuery.
    """
    if not _TOKEN.fullmatch(method):
        raise BadQuery(f'"{method}" is not a method: write GET, POST, ...')
    if "://" not in url:
        raise BadQuery(f'"{url}" has no scheme: write http://HOST[:PORT]/PATH or tcp://HOST:PORT')
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as exc:
        raise BadQuery(f'"{url}" is not a URL: {exc}') from exc
    if parts.scheme not in ("http", "https", "tcp"):
        raise BadQuery(f'"{parts.scheme}" is not a scheme that passes here: http, https or tcp')
    if not host:
        raise BadQuery(f'"{url}" names no host')
    if port is None:
        port = _PORTS.get(parts.scheme)
    if not port:
        raise BadQuery(f'"{url}" names no port')
    path = parts.path or "/"
    if parts.query:
        path += "?" + parts.query
    return ExplainQuery(
        method=method,
        url=url,
        scheme=parts.scheme,  # type: ignore[arg-type]  # just compared with the literal's values
        host=host,
        port=port,
        path="" if parts.scheme == "tcp" else path,
        headers=tuple(_header(text) for text in headers),
        source=_source(source),
    )


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not _TOKEN.fullmatch(name.strip()):
        raise BadQuery(f'"{text}" is not a header: write "name: value"')
    value = value.strip()
    if any(ord(character) < 32 and character != "\t" for character in value):
        raise BadQuery(f'the value of header "{name.strip()}" holds a control character')
    return name.strip().lower(), value


def _source(text: str) -> str:
    if not text:
        return ""
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise BadQuery(
            f'"{text}" is not an address: --from takes the IP address of a pod or host'
        ) from None
