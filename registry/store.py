"""The last good state of a registry on disk, so that a node starts with every registry down.

One file a registry::

    nodeproxy-registry-state 1 <sha256 of all that follows>\\n
    frame: Meta        frame: Service        frame: Service ...

A frame is a 32-bit big-endian length and that many bytes of MessagePack. The checksum covers
every byte after the first line; a file that is cut, altered or of another version is refused as
a whole, never used in part. When the registry last confirmed its answer is the file's
modification time, so that a confirmation without a change costs no rewrite.

All functions here block: call them in a worker thread. They work a service at a time, so that
no single call into C holds the interpreter for longer than one service takes.
"""

from __future__ import annotations

import hashlib
import os
import struct
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from registry.model import Service

__all__ = ["Bad", "Saved", "confirm", "load", "save", "state_file"]

MAGIC: Final = b"nodeproxy-registry-state 1 "
_LENGTH: Final = struct.Struct(">I")
_DIGEST_SIZE: Final = 64


class Bad(Exception):
    """The file is not a state that we may use; the message names it and says why."""


class Meta(msgspec.Struct, frozen=True):
    """Whose state it is. The state of another source must not be served under this name."""

    registry: str
    identity: str
    """Digest of kind and options."""
    services: int


class Saved(msgspec.Struct, frozen=True):
    """A state read from disk."""

    services: tuple[Service, ...]
    synced_at: float
    """Seconds since the epoch: when the registry last confirmed it."""


def state_file(state_dir: Path, registry: str) -> Path:
    """Where the state of ``registry`` is kept; any name gives one safe file name."""
    return state_dir / f"registry-{urllib.parse.quote(registry, safe='')}.state"


def save(
    path: Path, registry: str, identity: str, services: Iterable[Service], synced_at: float
) -> int:
    """Replace the state at ``path``; the number of bytes. Raises OSError.

    Whoever reads at any moment, even after a power cut, finds the old state or the new one.
    """
    services = tuple(services)
    encoder = msgspec.msgpack.Encoder()
    digest = hashlib.sha256()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One fixed name: whatever a crash leaves behind is overwritten by the next save.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(MAGIC + b"0" * _DIGEST_SIZE + b"\n")
            for part in (Meta(registry, identity, len(services)), *services):
                frame = encoder.encode(part)
                frame = _LENGTH.pack(len(frame)) + frame
                digest.update(frame)
                file.write(frame)
            size = file.tell()
            file.seek(len(MAGIC))
            file.write(digest.hexdigest().encode())
            file.flush()
            os.utime(file.fileno(), (synced_at, synced_at))
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return size


def confirm(path: Path, synced_at: float) -> None:
    """The state on disk was still right at ``synced_at``. Raises OSError."""
    os.utime(path, (synced_at, synced_at))


def load(path: Path, registry: str, identity: str) -> Saved | None:
    """The state at ``path``; None if there is none. Raises Bad and OSError."""
    try:
        with path.open("rb") as file:
            data = file.read()
            synced_at = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    start = len(MAGIC) + _DIGEST_SIZE + 1
    if not data.startswith(MAGIC) or len(data) < start or data[start - 1] != 0x0A:
        raise Bad(f"{path} is not a registry state of this version: it is ignored")
    body = memoryview(data)[start:]
    if hashlib.sha256(body).hexdigest().encode() != data[len(MAGIC) : start - 1]:
        raise Bad(f"{path} is damaged (its checksum does not match): it is ignored")
    try:
        frames = _frames(body)
        meta = msgspec.msgpack.decode(frames[0], type=Meta)
        if (meta.registry, meta.identity) != (registry, identity):
            raise Bad(
                f"{path} was saved with other options of registry {registry!r}: it is ignored"
            )
        decoder = msgspec.msgpack.Decoder(Service)
        services = tuple([decoder.decode(frame) for frame in frames[1:]])
    except (msgspec.MsgspecError, IndexError, struct.error) as error:
        # The checksum was right, so another program (or version) wrote it.
        raise Bad(f"{path} cannot be read ({error}): it is ignored") from None
    if len(services) != meta.services:
        raise Bad(f"{path} has {len(services)} services, not {meta.services}: it is ignored")
    return Saved(services, synced_at)


def _frames(body: memoryview) -> list[memoryview]:
    frames: list[memoryview] = []
    at = 0
    while at < len(body):
        (size,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size
        frames.append(body[at : at + size])
        at += size
    return frames
