"""Responses of the proxy's own: what a client gets when its request ends in an error.

One sentence for an operator, and the same in Proxy-Status (RFC 9209), so that the answer of the
proxy can be told from one of the service. Nothing that a peer sent is echoed as it came.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from nodeproxy.core.errors import ProxyError

__all__ = ["error_response", "own_response", "printable"]

DETAIL_BYTES: Final = 400

_REGISTERED: Final = frozenset(
    [
        "dns_timeout",
        "dns_error",
        "destination_not_found",
        "destination_unavailable",
        "destination_ip_prohibited",
        "destination_ip_unroutable",
        "connection_refused",
        "connection_terminated",
        "connection_timeout",
        "connection_read_timeout",
        "connection_write_timeout",
        "connection_limit_reached",
        "tls_protocol_error",
        "tls_certificate_error",
        "tls_alert_received",
        "http_request_error",
        "http_request_denied",
        "http_response_incomplete",
        "http_response_header_section_size",
        "http_response_header_size",
        "http_response_body_size",
        "http_response_trailer_section_size",
        "http_response_trailer_size",
        "http_response_transfer_coding",
        "http_response_content_coding",
        "http_response_timeout",
        "http_upgrade_failed",
        "http_protocol_error",
        "proxy_internal_response",
        "proxy_internal_error",
        "proxy_configuration_error",
        "proxy_loop_detected",
    ]
)
"""The error types of RFC 9209 section 2.3; ``reason`` may be finer than these."""

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus} | {
    499: "Client Closed Request"
}


def printable(text: str, limit: int = DETAIL_BYTES) -> str:
    """``text`` with everything but printable ASCII escaped, cut to ``limit`` characters."""
    text = text[:limit].encode("unicode_escape").decode("ascii")
    return text if len(text) <= limit else text[: limit - 3] + "..."


def own_response(
    status: int, fields: bytes, body: bytes, *, keep_alive: bool, head_only: bool = False
) -> bytes:
    """A whole response of the proxy's own. ``fields``: whole lines, each with its CRLF.
    ``keep_alive``: the request was read to its end and the connection goes on. ``head_only``: the
    request was HEAD."""
    return b"HTTP/1.1 %d %b\r\n%bContent-Length: %d\r\n%b\r\n%b" % (
        status,
        _PHRASES.get(status, "Error").encode(),
        fields,
        len(body),
        b"" if keep_alive else b"Connection: close\r\n",
        b"" if head_only else body,
    )


def error_response(
    error: ProxyError,
    *,
    server: str = "nodeproxy",
    keep_alive: bool = False,
    head_only: bool = False,
    proxy_status: bool = True,
    extra: bytes = b"",
) -> bytes:
    """The whole response for ``error``.

    ``server`` names the proxy in Proxy-Status (a token), which ``proxy_status`` switches; the
    rest is as for ``own_response``, with ``extra`` for more fields.
    """
    detail = printable(str(error)) or _PHRASES.get(error.status, "Error")
    fields = b"Content-Type: text/plain; charset=us-ascii\r\nX-Content-Type-Options: nosniff\r\n"
    if proxy_status:
        kind = error.reason if error.reason in _REGISTERED else _nearest(error.status)
        quoted = detail.replace("\\", "\\\\").replace('"', '\\"')
        fields += f'Proxy-Status: {server}; error={kind}; details="{quoted}"\r\n'.encode()
    body = f"{server}: {detail}\n".encode()
    return own_response(
        error.status, fields + extra, body, keep_alive=keep_alive, head_only=head_only
    )


def _nearest(status: int) -> str:
    return "http_request_error" if status < 500 else "proxy_internal_error"
