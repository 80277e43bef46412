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

__all__ = ["Listener", "Own", "listen", "original_destination"]

ACCEPTS: Final = 32
"""Connections taken at one event, so that a flood of them leaves time for the others."""
PAUSE: Final = 0.1
"""Seconds, at least, without accepting when the process or the host is out of descriptors."""
SO_ORIGINAL_DST: Final = 80  # linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h
_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_EVERY: Final = frozenset({"0.0.0.0", "::"})

Accept = Callable[[socket.socket, Address], None]


def listen(address: Address, *, backlog: int = 4096) -> socket.socket:
    """A listening, non-blocking TCP socket. Raises OSError."""
    family = _family(address[0])
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
        service: str = "",
    ) -> None:
        self.service = service
        """``namespace/name:port`` of an explicit listener; empty: redirected connections."""
        self.accepted = 0
        """Connections taken since the start."""
        self.open = 0
        """Those of them that are served now."""
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
            self.accepted += 1
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._on_accept(sock, peer[:2])
            except OSError as error:  # it could not be watched
                sock.close()
                self._pause(error)
                return

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

    def finish(self) -> None:
        """Take the connections that wait in the kernel's queue, which would be reset, and stop
        listening."""
        taken = ACCEPTS
        while taken >= ACCEPTS and not self.closed:
            before = self.accepted
            self.on_event(select.EPOLLIN)
            taken = self.accepted - before
        self.close()

    def close(self) -> None:
        """Stop listening. Connections that were accepted go on."""
        if not self.closed:
            self.closed = True
            self.reactor.close_later(self.sock)


class Own:
    """Where the proxy itself listens: never dialled, for that would call ourselves for ever."""

    def __init__(self) -> None:
        self._exact: set[Address] = set()
        self._every: dict[int, int] = {}  # port -> family, of listeners on every address

    def add(self, address: Address) -> None:
        """A listener was opened there; on ``0.0.0.0`` or ``::``: on every address we have."""
        host, port = address
        if host in _EVERY:
            self._every[port] = _family(host)
        else:
            self._exact.add(address)

    def __contains__(self, address: object) -> bool:
        """Whether dialling an (address, port) would reach a listener of ours."""
        if address in self._exact:
            return True
        if not self._every or not isinstance(address, tuple):
            return False
        host, port = address
        return self._every.get(port) == _family(host) and _is_local(host)


def _is_local(host: str) -> bool:
    """Whether an address is this host's: one can only bind to these."""
    with socket.socket(_family(host), socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


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
