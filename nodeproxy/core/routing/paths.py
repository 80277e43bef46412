"""URLRewrite and RequestRedirect: what becomes of a request's target and Host.

The path is replaced as it came on the wire; the query is kept.
"""

from __future__ import annotations

from typing import Final

import msgspec

from nodeproxy.core.http1 import RequestHead
from nodeproxy.core.routing.httproute import PathModifier, RedirectFilter, RewriteFilter

__all__ = [
    "PathChange",
    "Redirect",
    "Rewrite",
    "path_change",
    "redirect",
    "replace_prefix",
    "rewrite",
    "strip_port",
]

WELL_KNOWN: Final = {b"http": 80, b"https": 443}


def replace_prefix(path: bytes, prefix: bytes, replacement: bytes) -> bytes:
    """ReplacePrefixMatch. ``prefix`` matched by whole elements; slashes at the ends of prefix
    and replacement mean nothing where more path follows."""
    rest = path[len(prefix.rstrip(b"/")) :]
    if not rest:
        return replacement or b"/"
    return replacement.rstrip(b"/") + rest


def strip_port(host: bytes) -> bytes:
    """``a:80`` -> ``a``; an IPv6 address keeps its brackets."""
    if host[:1] == b"[":
        return host[: host.find(b"]") + 1]
    return host.partition(b":")[0]


class PathChange(msgspec.Struct, frozen=True, gc=False):
    """``full`` is None for ReplacePrefixMatch."""

    full: bytes | None = None
    prefix: bytes = b""

    def apply(self, target: bytes, path: bytes, matched: bytes) -> bytes:
        """The new target; ``matched`` is the prefix by which the rule matched."""
        if self.full is not None:
            new = self.full or b"/"
        elif path[:1] != b"/":
            return target  # OPTIONS *
        else:
            new = replace_prefix(path, matched, self.prefix)
        return new + target[len(path) :]


def path_change(modifier: PathModifier | None) -> PathChange | None:
    if modifier is None:
        return None
    if modifier.type == "ReplaceFullPath":
        return PathChange((modifier.replace_full_path or "").encode())
    return PathChange(None, (modifier.replace_prefix_match or "").encode())


class Rewrite(msgspec.Struct, frozen=True, gc=False):
    """What the endpoint gets to see instead."""

    host: bytes = b""
    path: PathChange | None = None


def rewrite(filter_: RewriteFilter) -> Rewrite:
    return Rewrite((filter_.hostname or "").encode(), path_change(filter_.path))


class Redirect(msgspec.Struct, frozen=True, gc=False):
    """An answer of our own that sends the client elsewhere."""

    status: int
    scheme: bytes = b""
    host: bytes = b""
    path: PathChange | None = None
    port: int = 0

    def location(self, head: RequestHead, matched: bytes, *, scheme: bytes, port: int) -> bytes:
        """The value of Location. ``scheme`` and ``port`` are those at which the request came:
        the listener's, or the service's port that was dialled.

        A port that the filter names counts; else a scheme that it names brings its well-known
        port; else it is the listener's. 80 for http and 443 for https are not written.
        """
        to_scheme = self.scheme or scheme
        to_port = self.port or (WELL_KNOWN[self.scheme] if self.scheme else port)
        host = self.host or strip_port(head.host)
        target = head.target
        if self.path is not None:
            target = self.path.apply(target, head.path, matched)
        if target[:1] != b"/":
            target = b"/"
        if not host:
            return target  # HTTP/1.0 without Host: a relative reference (RFC 9110 section 10.2.2)
        shown = b"" if WELL_KNOWN[to_scheme] == to_port else b":%d" % to_port
        return b"%b://%b%b%b" % (to_scheme, host, shown, target)


def redirect(filter_: RedirectFilter) -> Redirect:
    return Redirect(
        filter_.status_code,
        (filter_.scheme or "").encode(),
        (filter_.hostname or "").encode(),
        path_change(filter_.path),
        filter_.port or 0,
    )
