"""No garbage collection in the middle of a large load.

Python's cyclic collector walks every container there is when the number of containers has grown
by a quarter. While ten thousand services come in it does so again and again, for 20 to 40 ms
each (measured), and later once in a while, for nothing: a catalog has no cycles, it is freed by
reference counts. So during a load the collector is off, and afterwards what exists is moved out of
its sight. Cyclic garbage of the second or two of a load is never freed by that: use this for
loads, which are rare, not for changes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["bulk"]

_depth = 0


@contextmanager
def bulk() -> Iterator[None]:
    """Around the making of many long-lived objects. May be nested and overlap."""
    global _depth  # noqa: PLW0603 - the collector is one for the process
    if not _depth and not gc.isenabled():
        # Somebody else decides about the collector.
        yield
        return
    _depth += 1
    gc.disable()
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            gc.freeze()
            gc.enable()
