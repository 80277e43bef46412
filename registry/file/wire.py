"""How what a file says travels from whoever parsed it: frames, small enough to take one by one.

Reading a file of a hundred thousand endpoints holds the interpreter for seconds, so it is done
in a child process (:mod:`registry.file.loader`). Its answer is a stream of frames, so that the
loop never decodes more than one service at a time, and each service comes with a digest, so that
one that is as before is not decoded at all.

Frame: 32-bit big-endian length, then MessagePack. For each file that was asked for, in that
order: a Head, then a Part for each service.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from registry.base import Problem
from registry.file.formats import read
from registry.file.fragment import Content, Fragment
from registry.strict import DocumentError

__all__ = [
    "Head",
    "Job",
    "Part",
    "Reader",
    "Reading",
    "Splitter",
    "answer",
    "as_reading",
    "decode_fragment",
    "decode_head",
    "decode_part",
    "services",
]

_LENGTH: Final = struct.Struct(">I")
MAX_FRAME: Final = 1 << 30


class Job(msgspec.Struct, frozen=True):
    """A file to read."""

    path: str
    source: str
    """The file's name in messages."""
    size: int = 0
    """Bytes, as far as known."""
    known: bytes = b""
    """Digest of its last reading."""


class Head(msgspec.Struct, frozen=True):
    """What is said about the file as a whole."""

    digest: bytes
    """Of the text. Equal to the digest that was known before: nothing follows."""
    parts: int = 0
    bad: bool = False
    """Nothing of it can be used; ``problems`` says why."""
    gone: bool = False
    """There is no such file (any more)."""
    problems: tuple[Problem, ...] = ()
    unreadable: tuple[str, ...] = ()
    partial: bool = False


class Part(msgspec.Struct, frozen=True):
    """One service (or one object of another reader)."""

    name: str
    digest: bytes
    fragment: msgspec.Raw


class Reading(NamedTuple):
    """What a reader finds in a text: parts by name, and what :class:`Head` says besides."""

    parts: Iterable[tuple[str, Any]]
    problems: tuple[Problem, ...] = ()
    unreadable: tuple[str, ...] = ()
    partial: bool = False


Reader = Callable[[str, str], Reading]
"""From a text and its name in messages. Raises DocumentError. A function of a module, so that a
child process can import it."""


def services(text: str, source: str) -> Reading:
    """The reader of the back end."""
    return as_reading(read(text, source))


def as_reading(content: Content) -> Reading:
    """Of a file's services."""
    return Reading(
        [(fragment.service.name, fragment) for fragment in content.fragments],
        content.problems,
        content.unreadable,
        content.partial,
    )


def answer(job: Job, reader: Reader = services) -> Iterator[bytes]:
    """The frames for one file. Blocks."""
    # Durations and the like are numbers with a class of their own.
    encode = msgspec.msgpack.Encoder(enc_hook=float).encode
    try:
        with open(job.path, "rb") as file:
            data = file.read()
    except OSError as error:
        problem = Problem(f"cannot be read: {error.strerror}", job.source)
        gone = isinstance(error, FileNotFoundError)
        yield _frame(encode(Head(b"", bad=True, gone=gone, problems=(problem,))))
        return
    digest = _digest(data)
    if digest == job.known:
        yield _frame(encode(Head(digest)))
        return
    try:
        found = reader(data.decode("utf-8"), job.source)
        parts = list(found.parts)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = Problem(f"not UTF-8: {error.reason}", job.source, line)
        yield _frame(encode(Head(digest, bad=True, problems=(problem,))))
        return
    except DocumentError as error:
        yield _frame(encode(Head(digest, bad=True, problems=tuple(error.problems))))
        return
    yield _frame(
        encode(
            Head(
                digest,
                len(parts),
                problems=found.problems,
                unreadable=found.unreadable,
                partial=found.partial,
            )
        )
    )
    for name, value in parts:
        body = encode(value)
        part = Part(name, _digest(body), msgspec.Raw(body))
        yield _frame(encode(part))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _frame(body: bytes) -> bytes:
    return _LENGTH.pack(len(body)) + body


class Splitter:
    """Cuts a stream into frames, however it arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are complete now. Must be run to its end before the next feed."""
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer, at)
            if size > MAX_FRAME:
                raise ValueError("a frame is too large")
            end = at + _LENGTH.size + size
            if end > len(self._buffer):
                break
            yield bytes(self._buffer[at + _LENGTH.size : end])
            at = end
        del self._buffer[:at]

    @property
    def clean(self) -> bool:
        """Nothing is left over."""
        return not self._buffer


decode_head = msgspec.msgpack.Decoder(Head).decode
decode_part = msgspec.msgpack.Decoder(Part).decode
decode_fragment = msgspec.msgpack.Decoder(Fragment).decode
