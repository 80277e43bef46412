"""Accepting connections, and finding out what they had dialled before they were redirected."""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Callable
from typing import Final

from nodeproxy.core.destination import Address
from nodeproxy.dataplane.reactor import Reactor

__all__ = ["Listener", "listen", "original_destination"]

ACCEPTS: Final = 32
"""Connections taken at one event, so that a flood of them leaves time for the others."""
PAUSE: Final = 0.1
"""Seconds without accepting when the process or the host is out of descriptors."""
SO_ORIGINAL_DST: Final = 80  # linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h
_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Accept = Callable[[socket.socket, Address], None]


def listen(address: Address, *, backlog: int = 4096) -> socket.socket:
    """A listening, non-blocking TCP socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


class Listener:
    """A listening socket on the reactor. ``on_accept`` owns the sockets that it is given."""

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        on_accept: Accept,
        *,
        on_scarce: Callable[[OSError], None],
    ) -> None:
        self.reactor = reactor
        self.sock = sock
        self.address: Address = sock.getsockname()[:2]
        self._on_accept = on_accept
        self._on_scarce = on_scarce
        self._paused_until = 0.0
        self.closed = False
        reactor.register(sock.fileno(), self, select.EPOLLIN)

    def on_event(self, events: int) -> None:
        """Take what waits, within bounds."""
        for _ in range(ACCEPTS):
            try:
                sock, peer = self.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _SCARCE:
                    self._pause(error)
                    return
                continue  # that connection was gone before we took it
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._on_accept(sock, peer[:2])

    def _pause(self, error: OSError) -> None:
        """Out of descriptors or memory: the kernel's queue holds the clients for a while."""
        self.reactor.unregister(self.sock.fileno())
        self._paused_until = self.reactor.now + PAUSE
        self._on_scarce(error)

    def maintain(self, now: float) -> None:
        """Called regularly: accept again after a pause."""
        if self._paused_until and now >= self._paused_until and not self.closed:
            self._paused_until = 0.0
            self.reactor.register(self.sock.fileno(), self, select.EPOLLIN)

    def close(self) -> None:
        """Stop listening. Connections that were accepted go on."""
        if not self.closed:
            self.closed = True
            self.reactor.close_later(self.sock)


def original_destination(sock: socket.socket) -> Address | None:
    """What the client had dialled, according to conntrack; None if nothing was redirected.

    IPv4: ``struct sockaddr_in`` at level SOL_IP; IPv6: ``sockaddr_in6`` at SOL_IPV6.
    """
    try:
        if sock.family == socket.AF_INET6:
            data = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            address = socket.inet_ntop(socket.AF_INET6, data[8:24])
        else:
            data = sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
            address = socket.inet_ntop(socket.AF_INET, data[4:8])
    except OSError:
        return None  # ENOENT: conntrack does not know it, or knows no other destination
    (port,) = struct.unpack_from("!H", data, 2)
    return address, port
