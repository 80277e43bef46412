"""Which files there are, and which folders show when that changes. Blocks: call it in a thread."""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from typing import Final

import msgspec

__all__ = ["Found", "Scan", "scan", "watch_points"]

SUFFIXES: Final = (".yaml", ".yml", ".json")
BACKUPS: Final = ("~", ".bak", ".swp", ".tmp")
"""Endings of names that editors make up; no service is called so."""
_MAX_LINKS: Final = 40
_RACY: Final = 0.1

Signature = tuple[int, int, int, int, int]


class Found(msgspec.Struct, frozen=True):
    """A file, followed through links."""

    path: str
    size: int
    signature: Signature | None
    """Device, inode, size, mtime, ctime; None: just written, so that another write within the
    clock's granularity could not be told from this one. Look again."""


class Scan(msgspec.Struct, frozen=True):
    """What is at a path now."""

    files: tuple[Found, ...]
    folders: tuple[str, ...]
    """Folders to watch for changes of this answer."""
    missing: str = ""
    """Why there is nothing."""


def scan(path: str, any_name: bool = False) -> Scan:
    """``path``: absolute, a file or a folder. ``any_name``: of a folder take every file but
    editors' backups, not only YAML and JSON."""
    folders: dict[str, None] = dict.fromkeys(watch_points(path))
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            names = sorted(
                name
                for name in os.listdir(path)
                if (not name.endswith(BACKUPS) if any_name else name.endswith(SUFFIXES))
                and not name.startswith(".")
            )
            paths = [os.path.join(path, name) for name in names]
        else:
            paths = [path]
    except OSError as error:
        return Scan((), tuple(folders), f"{path}: {error.strerror}")
    files: list[Found] = []
    now = time.time()
    for file in paths:
        if file != path and os.path.islink(file):
            folders.update(dict.fromkeys(watch_points(file)))
        try:
            found = os.stat(file)
        except OSError:
            continue  # gone since it was listed, or a link to nowhere
        if not stat.S_ISREG(found.st_mode):
            continue
        racy = abs(now - found.st_mtime) < _RACY or abs(now - found.st_ctime) < _RACY
        signature = (
            found.st_dev,
            found.st_ino,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
        )
        files.append(Found(file, found.st_size, None if racy else signature))
    if paths == [path] and not files:
        return Scan((), tuple(folders), f"{path}: not a file or folder")
    return Scan(tuple(files), tuple(folders))


def watch_points(path: str) -> list[str]:
    """The folders in which a rename, a new link or a write could change what ``path`` is.

    Its own folder, the folder of each symbolic link on the way (a ConfigMap's ``..data``), the
    folder itself if it is one, and where the way ends early the last folder that exists.
    """
    points: dict[str, None] = {}
    here = "/"
    rest = deque(part for part in path.split("/") if part)
    links = 0
    while rest:
        part = rest.popleft()
        if part == ".":
            continue
        if part == "..":
            here = os.path.dirname(here)
            continue
        step = os.path.join(here, part)
        try:
            if os.path.islink(step):
                points[here] = None
                links += 1
                target = os.readlink(step)
                if links > _MAX_LINKS:
                    break
                if target.startswith("/"):
                    here = "/"
                rest.extendleft(reversed([p for p in target.split("/") if p]))
                continue
            is_folder = os.path.isdir(step)
        except OSError:
            points[here] = None
            break
        if not rest or not is_folder:
            points[here] = None
            if is_folder:
                points[step] = None
            break
        here = step
    return list(points)
