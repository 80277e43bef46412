"""The errors of the data plane: one tree.

Each class carries its ``reason`` (a metric label and the ``error`` of RFC 9209), the Envoy
``flag`` that operators know from access logs, the HTTP ``status`` that the client is given,
and whether another endpoint or another try could help (``retryable``: nothing of the request
had been delivered). The message tells an operator what to look at.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BadRequest",
    "BadResponse",
    "BodyTooLarge",
    "ClientGone",
    "ClientTimeout",
    "ConnectFailed",
    "ConnectTimeout",
    "HeadTooLarge",
    "InvalidBackend",
    "LoopRefused",
    "NoEndpoints",
    "ProxyError",
    "RouteNotFound",
    "TargetTooLong",
    "TooManyConnections",
    "UnknownDestination",
    "UnresolvedFilter",
    "Unsupported",
    "UpstreamClosed",
    "UpstreamOverflow",
    "UpstreamTimeout",
]


class ProxyError(Exception):
    """Root of all errors that end a request or a connection."""

    reason: ClassVar[str] = "proxy_internal_error"
    flag: ClassVar[str] = ""
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False


class BadRequest(ProxyError):
    """The client's bytes are not one well-formed HTTP/1.1 request in one reading."""

    reason = "http_request_error"
    flag = "DPE"
    status = 400


class HeadTooLarge(BadRequest):
    """The head of a request exceeds the limit of size or of field count."""

    reason = "http_request_head_size"
    status = 431


class TargetTooLong(HeadTooLarge):
    """The target of a request exceeds the limit of size."""

    status = 414


class BodyTooLarge(BadRequest):
    """The body of a request exceeds ``traffic.max_body``."""

    reason = "http_request_body_size"
    status = 413


class Unsupported(BadRequest):
    """A well-formed request for something that this proxy does not do (CONNECT, a transfer
    coding other than chunked)."""

    reason = "http_request_denied"
    status = 501


class ClientTimeout(ProxyError):
    """The client began a request and did not finish it in time."""

    reason = "http_request_timeout"
    flag = "SI"
    status = 408


class ClientGone(ProxyError):
    """The client closed or reset before the answer was complete. Nobody is left to be told."""

    reason = "client_disconnected"
    flag = "DC"
    status = 499


class TooManyConnections(ProxyError):
    """A limit on connections from clients was reached: in total, of one client or of one
    listener."""

    reason = "connection_limit_reached"
    flag = "OM"
    status = 503

    def __init__(self, message: str, limit: str = "") -> None:
        """``limit``: ``total``, ``listener`` or ``client``."""
        super().__init__(message)
        self.limit = limit


class UnknownDestination(ProxyError):
    """No service has this address and port, and ``outbound: registry-only`` refuses others."""

    reason = "destination_not_found"
    flag = "NR"
    status = 502


class LoopRefused(ProxyError):
    """The destination is the proxy's own listener: forwarding would call ourselves for ever."""

    reason = "proxy_loop_detected"
    flag = "NR"
    status = 508


class RouteNotFound(ProxyError):
    """The service or listener has routes, and no rule matches; see ``nodeproxy explain``."""

    reason = "route_not_found"
    flag = "NR"
    status = 404


class InvalidBackend(ProxyError):
    """The rule's backend does not exist or may not be used; see ``nodeproxy routes``."""

    reason = "backend_invalid"
    flag = "NC"
    status = 500


class UnresolvedFilter(ProxyError):
    """The rule has a filter that is not known here, and may not be skipped."""

    reason = "filter_unresolved"
    flag = "NC"
    status = 500


class NoEndpoints(ProxyError):
    """The service has no endpoint that may take traffic; see ``nodeproxy endpoints SERVICE``."""

    reason = "destination_unavailable"
    flag = "UH"
    status = 503
    retryable = False


class UpstreamOverflow(ProxyError):
    """A limit on connections or pending requests to the service was reached."""

    reason = "connection_limit_reached"
    flag = "UO"
    status = 503


class ConnectFailed(ProxyError):
    """The endpoint refused the connection or cannot be reached. Nothing was sent."""

    reason = "connection_refused"
    flag = "UF"
    status = 503
    retryable = True


class ConnectTimeout(ConnectFailed):
    """The endpoint did not answer the connection attempt in time. Nothing was sent."""

    reason = "connection_timeout"
    status = 504


class UpstreamClosed(ProxyError):
    """The endpoint closed or reset before its answer was complete."""

    reason = "connection_terminated"
    flag = "UC"
    status = 502


class UpstreamTimeout(ProxyError):
    """The endpoint took the request and did not answer in time."""

    reason = "http_response_timeout"
    flag = "UT"
    status = 504


class BadResponse(ProxyError):
    """The endpoint's bytes are not one well-formed HTTP/1.1 response in one reading."""

    reason = "http_protocol_error"
    flag = "UPE"
    status = 502
