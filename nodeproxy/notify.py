"""Telling systemd: ready, stopping, alive (sd_notify(3)). Without systemd, nothing happens."""

from __future__ import annotations

import contextlib
import os
import socket

__all__ = ["Notifier"]


class Notifier:
    """Sends datagrams to ``NOTIFY_SOCKET``; never blocks, never raises."""

    def __init__(self, environ: dict[str, str] | os._Environ[str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        self.watchdog: float | None = None
        """Seconds within which systemd wants to hear from us; None: it does not."""
        if not path:
            return
        # A leading @ stands for the NUL byte of an abstract socket.
        address = "\0" + path[1:] if path.startswith("@") else path
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            return
        self._socket = sock
        microseconds = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if ours and microseconds.isdecimal() and int(microseconds):
            self.watchdog = int(microseconds) / 1e6

    def send(self, *assignments: str) -> None:
        """``send("READY=1", "STATUS=...")``."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send("\n".join(assignments).encode())

    def alive(self) -> None:
        """The watchdog's beat: called from the reactor's loop, so that a hung loop is silent."""
        self.send("WATCHDOG=1")

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
