"""The admin API's sockets: the unix socket with its life-time rules, and loopback TCP.

Who owns the unix socket is decided by a lock beside it, not by its file: a file outlives
kill -9, while the kernel drops a lock with its process. A daemon that hangs or is stopped
still holds its lock, so a second one can't take its socket away.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import trio

__all__ = ["SocketBusy", "tcp_listener", "unix_listener"]

_BACKLOG = 64
_PATH_LIMIT = 107  # sun_path holds 108 bytes with the final zero


class SocketBusy(OSError):
    """Another process serves this address; the message says which address and what to do."""


@contextlib.contextmanager
def unix_listener(path: str | Path) -> Iterator[trio.SocketListener]:
    """Listen on a unix socket with mode 0600 for the time of the context.

    Creates the parent folder, replaces the socket of a dead daemon, removes its own at the
    end. Raises SocketBusy when a living process serves the path, OSError for anything else
    (the path is not a socket, is too long, or may not be written).
    """
    path = Path(path).absolute()
    if len(os.fsencode(path)) > _PATH_LIMIT - len(".new"):
        raise OSError(errno.ENAMETOOLONG, "the path of a unix socket has at most 103 bytes", path)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _lock(path):
        _check_free(path)
        listening, identity = _bind(path)
        try:
            yield trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        finally:
            listening.close()  # a second time if serve() has ended in order: harmless
            # Somebody may have put another file in our place: that one is not ours to remove.
            with contextlib.suppress(FileNotFoundError):
                if _identity(path) == identity:
                    path.unlink()


def tcp_listener(host: str, port: int) -> trio.SocketListener:
    """Listen on one address. Raises SocketBusy when it is taken, OSError otherwise."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listening.bind((host, port))
            listening.listen(_BACKLOG)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise SocketBusy(
                    exc.errno, f"{host}:{port} is taken by another process (see: ss -ltnp)"
                ) from exc
            raise
        stack.pop_all()
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    name = path.with_name(path.name + ".lock")
    while True:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us may have removed the file between our open and our lock.
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == name.stat().st_ino:
                    break
        except BlockingIOError:
            os.close(descriptor)
            raise _busy(path) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield
    finally:
        name.unlink(missing_ok=True)
        os.close(descriptor)


def _check_free(path: Path) -> None:
    """Raise when something that is not a dead daemon's socket is there."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(errno.EEXIST, "not a socket; it will not be replaced", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody listens
    raise _busy(path)


def _bind(path: Path) -> tuple[socket.socket, tuple[int, int]]:
    # Bound under another name, made private, listening, and only then moved to its place: no
    # moment exists in which others could connect, or in which a client would be refused.
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), 0o600)  # Linux applies this to the file that bind makes
        listening.bind(str(new))
        new.chmod(0o600)
        listening.listen(_BACKLOG)
        identity = _identity(new)
        new.rename(path)
    except BaseException:
        listening.close()
        new.unlink(missing_ok=True)
        raise
    return listening, identity


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _busy(path: Path) -> SocketBusy:
    return SocketBusy(
        errno.EADDRINUSE,
        f"another nodeproxy serves {path}; stop it, or give this one its own admin.socket",
    )
