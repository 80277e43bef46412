"""Responses of the proxy's own: what a client gets when its request ends in an error.

One sentence for an operator, and the same in Proxy-Status (RFC 9209), so that the answer of the
proxy can be told from one of the service. Nothing that a peer sent is echoed as it came.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from nodeproxy.core.errors import ProxyError

__all__ = ["error_response", "printable"]

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


def error_response(
    error: ProxyError,
    *,
    server: str = "nodeproxy",
    keep_alive: bool = False,
    head_only: bool = False,
    extra: bytes = b"",
) -> bytes:
    """The whole response for ``error``.

    ``server`` names the proxy in Proxy-Status (a token). ``keep_alive``: the request was read to
    its end and the connection goes on. ``head_only``: the request was HEAD. ``extra``: whole
    field lines (Via), each with its CRLF.
    """
    detail = printable(str(error)) or _PHRASES.get(error.status, "Error")
    kind = error.reason if error.reason in _REGISTERED else _nearest(error.status)
    quoted = detail.replace("\\", "\\\\").replace('"', '\\"')
    body = f"{server}: {detail}\n"
    head = (
        f"HTTP/1.1 {error.status} {_PHRASES.get(error.status, 'Error')}\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n"
        f"Content-Length: {len(body)}\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        f'Proxy-Status: {server}; error={kind}; details="{quoted}"\r\n'
    )
    if not keep_alive:
        head += "Connection: close\r\n"
    return b"%b%b\r\n%b" % (head.encode(), extra, b"" if head_only else body.encode())


def _nearest(status: int) -> str:
    return "http_request_error" if status < 500 else "proxy_internal_error"
