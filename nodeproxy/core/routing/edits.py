"""Changing header fields on their raw lines: RequestHeaderModifier and ResponseHeaderModifier.

Order, case and repeats of fields that no filter names stay as they came. ``set`` takes the place
of the first line of that name, ``add`` goes behind the value that is there, with a comma (a
Set-Cookie gets a line of its own: RFC 9110 section 5.3 knows no list of them), ``remove`` removes
all lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from nodeproxy.core.routing.httproute import HeaderFilter

__all__ = ["FORBIDDEN", "Edits", "edits"]

FORBIDDEN: Final = frozenset(
    (
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""A filter that changes one of these would change where the message ends, or who its next hop
is."""
_SEPARATE: Final = frozenset((b"set-cookie",))


class Edits(msgspec.Struct, frozen=True):
    """One filter, compiled. All names are in lower case, and each stands in one of the three."""

    set: dict[bytes, bytes]
    """Name -> the whole line."""
    add: dict[bytes, tuple[bytes, bytes]]
    """Name -> the whole line, and the value alone."""
    remove: frozenset[bytes]
    finder: re.Pattern[bytes]
    """Finds a line of any of the names, from the LF before it."""
    appended: bytes
    """What is added where no line has one of the names."""

    @property
    def names(self) -> frozenset[bytes]:
        return frozenset(self.set) | frozenset(self.add) | self.remove

    def apply(self, fields: bytes) -> bytes:
        """``fields``: lines, each with its CRLF."""
        if self.finder.search(b"\n" + fields) is None:
            return fields + self.appended
        setting, adding, remove = self.set, self.add, self.remove
        seen: set[bytes] = set()
        out: list[bytes] = []
        for line in fields.splitlines(keepends=True):
            name = line[: line.index(b":")].lower()
            if name in setting:
                if name in seen:
                    continue
                line = setting[name]
            elif name in remove:
                continue
            elif name in adding and name not in seen and name not in _SEPARATE:
                line = line[:-2].rstrip(b" \t") + b"," + adding[name][1] + b"\r\n"
            seen.add(name)
            out.append(line)
        out += [line for name, line in setting.items() if name not in seen]
        out += [line for name, (line, _) in adding.items() if name in _SEPARATE or name not in seen]
        return b"".join(out)


def edits(filters: Sequence[HeaderFilter]) -> Edits | None:
    """One filter of all that a rule has (the API allows one); None where nothing is changed."""
    setting: dict[bytes, bytes] = {}
    adding: dict[bytes, tuple[bytes, bytes]] = {}
    removing: set[bytes] = set()
    for one in filters:
        for header in one.set:
            name, value = header.name.encode(), header.value.encode()
            setting[name.lower()] = b"%b: %b\r\n" % (name, value)
        for header in one.add:
            name, value = header.name.encode(), header.value.encode()
            adding[name.lower()] = (b"%b: %b\r\n" % (name, value), value)
        removing.update(name.lower().encode() for name in one.remove)
    names = sorted({*setting, *adding, *removing})
    if not names:
        return None
    finder = re.compile(rb"\n(?:%b):" % b"|".join(map(re.escape, names)), re.IGNORECASE)
    appended = b"".join([*setting.values(), *(line for line, _ in adding.values())])
    return Edits(setting, adding, frozenset(removing), finder, appended)
