"""What the data plane is told by the configuration. Times are seconds."""

from __future__ import annotations

import msgspec

from nodeproxy.core.policy import Policy
from nodeproxy.core.trust import Forwarded
from nodeproxy.dataplane.pump import UNBOUNDED

__all__ = ["Settings"]


class Settings(msgspec.Struct, frozen=True):
    """Settings of all connections of a node; a service's own are in its Policy."""

    mark: int = 0
    """SO_MARK of every connection that the proxy opens, by which iptables knows them; 0: none."""
    registry_only: bool = False
    """Refuse destinations that no registry knows, instead of passing them through."""
    via: bool = True
    """Add ``Via: 1.1 nodeproxy`` to requests (RFC 9110, 7.6.3)."""
    via_answers: bool = False
    """And to the endpoints' answers, where the RFC leaves it to a gateway."""
    forwarded: Forwarded = "append"
    """Whose X-Forwarded-For and its like are kept: everybody's, nobody's, or those of clients in
    ``trusted_proxies``."""
    trusted_proxies: tuple[str, ...] = ()
    request_id: bool = True
    """Give an X-Request-Id to requests without one."""
    traceparent: bool = False
    """Begin a W3C trace for requests without one."""
    proxy_status: bool = True
    """Say in Proxy-Status (RFC 9209) why an answer is the proxy's own."""
    max_head: int = 65536
    """Bytes of a request's head."""
    header_timeout: float = 10.0
    """For the whole head of a request, from its first byte."""
    keep_alive_timeout: float = 75.0
    """For the next request on a connection."""
    body_timeout: float = 60.0
    """Longest silence within a body, of the client."""
    request_timeout: float = 3600.0
    """For a whole request, from its first byte to its last."""
    max_body: int = UNBOUNDED
    """Bytes of a request's body."""
    detect_timeout: float = 0.2
    """How long the first bytes of an undeclared protocol may leave it undecided."""
    tcp_idle_timeout: float = 3600.0
    """Longest silence of a relayed connection, in both directions."""
    max_clients: int = 0
    """Connections of all clients; 0: no limit, also in the two below."""
    max_per_listener: int = 0
    max_per_client: int = 0
    """By the client's address."""
    policy: Policy = Policy()
    """Of services without their own."""
