"""One record per request or connection: filled along the way, emitted exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nodeproxy.core.http1 import RequestHead

__all__ = ["Record"]

UNSET: Final = -1.0


class Record:
    """What happened to one HTTP request or one relayed TCP connection.

    Times are seconds of ``time.monotonic`` (``UNSET`` where the moment never came), byte
    counts are bytes on the wire of that leg's body (HTTP) or stream (TCP).
    """

    __slots__ = (
        "authority",
        "backend",
        "bytes_received",
        "bytes_sent",
        "client",
        "destination",
        "detail",
        "ended",
        "flags",
        "head",
        "local_upstream",
        "method",
        "path",
        "protocol",
        "request_id",
        "responded",
        "route",
        "sent",
        "service",
        "started",
        "status",
        "tries",
        "upstream",
        "user_agent",
        "x_forwarded_for",
    )

    def __init__(self, started: float, protocol: str, client: str, destination: str) -> None:
        self.started = started
        """When the request's first byte was read, or the connection accepted."""
        self.sent = UNSET
        """When the (last try of the) request was handed to an endpoint."""
        self.responded = UNSET
        """When the first byte of the response was read."""
        self.ended = UNSET
        self.protocol = protocol
        """``HTTP/1.1``, ``HTTP/1.0`` or ``TCP``."""
        self.client = client
        """``address:port`` of the peer that was accepted."""
        self.destination = destination
        """``address:port`` that the client dialled."""
        self.service = ""
        """``namespace/name``, or empty for an unknown destination."""
        self.backend = ""
        """``namespace/name:port`` of the service port that was chosen."""
        self.route = ""
        self.upstream = ""
        """``address:port`` of the endpoint, or empty when none was reached."""
        self.local_upstream = ""
        self.head: RequestHead | None = None
        """The request as it was read. What follows is taken from it by :meth:`describe`, and
        only for those records that somebody reads."""
        self.method = b""
        self.path = b""
        self.authority = b""
        self.user_agent = b""
        self.x_forwarded_for = b""
        self.request_id = b""
        self.status = 0
        """Status code that the client was given; 0 for TCP or when it left before."""
        self.flags = ""
        """Envoy response flags, comma separated: ``UF``, ``UH`` ..."""
        self.detail = ""
        """The error's reason and message, for people; empty when all went well."""
        self.tries = 0
        """Endpoints tried, the first included."""
        self.bytes_received = 0
        """From the client."""
        self.bytes_sent = 0
        """To the client."""

    def describe(self) -> None:
        """Fill in what the request's head tells: for the access log, not for each request."""
        head = self.head
        if head is not None:
            self.method = head.method
            self.path = head.target
            self.authority = head.host
            self.user_agent = head.user_agent
            self.x_forwarded_for = head.x_forwarded_for
            self.request_id = head.request_id
