"""The given virtual addresses on disk.

One file: a line with the format, its version and the SHA-256 of all that follows, then JSON. A
file that is cut, altered or of another version is refused as a whole. All functions here block:
call them in a worker thread.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from registry.vips import Given

__all__ = ["BadFile", "load", "path_in", "save"]

_MAGIC: Final = b"nodeproxy-vips 1 "


class BadFile(Exception):
    """The file is not one that we may use; the message names it and says why."""


def path_in(state_dir: Path) -> Path:
    return state_dir / "vips.state"


def save(path: Path, given: Callable[[], Given]) -> None:
    """Replace the file: whoever reads finds the old or the new one. Raises OSError."""
    body = msgspec.json.encode(given()) + b"\n"
    head = _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(head + body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: Path) -> Given | None:
    """What was saved; None if there is no file. Raises BadFile and OSError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    head, newline, body = data.partition(b"\n")
    if not newline or not head.startswith(_MAGIC):
        raise BadFile(f"{path} has no addresses of this version: it is ignored")
    if hashlib.sha256(body).hexdigest().encode() != head[len(_MAGIC) :]:
        raise BadFile(f"{path} is damaged (its checksum does not match): it is ignored")
    try:
        return msgspec.json.decode(body, type=Given)
    except msgspec.MsgspecError as error:
        raise BadFile(f"{path} cannot be read ({error}): it is ignored") from None
