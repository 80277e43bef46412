"""What the data plane is told by the configuration. Times are seconds."""

from __future__ import annotations

import msgspec

from nodeproxy.core.policy import Policy

__all__ = ["Settings"]


class Settings(msgspec.Struct, frozen=True):
    """Settings of all connections of a node; a service's own are in its Policy."""

    mark: int = 0
    """SO_MARK of every connection that the proxy opens, by which iptables knows them; 0: none."""
    registry_only: bool = False
    """Refuse destinations that no registry knows, instead of passing them through."""
    via: bool = True
    """Add ``Via: 1.1 nodeproxy`` to requests (RFC 9110, 7.6.3). Responses are left as they are."""
    max_head: int = 65536
    """Bytes of a request's head."""
    header_timeout: float = 10.0
    """For the whole head of a request, from its first byte."""
    keep_alive_timeout: float = 75.0
    """For the next request on a connection."""
    body_timeout: float = 60.0
    """Longest silence within a body, of the client."""
    detect_timeout: float = 0.2
    """How long the first bytes of an undeclared protocol may leave it undecided."""
    tcp_idle_timeout: float = 3600.0
    """Longest silence of a relayed connection, in both directions."""
    policy: Policy = Policy()
    """Of services without their own."""
