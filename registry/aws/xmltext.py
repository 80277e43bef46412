"""The XML of EC2 and load balancers, parsed in slices. Thin over expat."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any, Final

import trio

__all__ = ["items", "parse", "text"]

CHUNK: Final = 32 * 1024
"""Bytes that are parsed between two checkpoints (about a millisecond)."""


class _Plain(ET.TreeBuilder):
    """Tags without their namespace."""

    def start(self, tag: Any, attrs: dict[Any, Any], /) -> ET.Element:
        return super().start(tag.rpartition("}")[2], attrs)

    def end(self, tag: str, /) -> ET.Element:
        return super().end(tag.rpartition("}")[2])


async def parse(body: bytes) -> ET.Element:
    """The root. Raises ValueError."""
    parser = ET.XMLParser(target=_Plain())
    try:
        for at in range(0, len(body), CHUNK):
            if at:
                await trio.lowlevel.checkpoint()
            parser.feed(body[at : at + CHUNK])
        root: ET.Element = parser.close()
    except ET.ParseError as error:
        raise ValueError(f"not XML: {error}") from None
    return root


def text(element: ET.Element, path: str) -> str:
    """Of the element at ``path``; empty if there is none."""
    return (element.findtext(path) or "").strip()


def items(element: ET.Element, path: str) -> list[ET.Element]:
    """The members of the list at ``path``: ``member`` of query services, ``item`` of EC2."""
    found = element.find(path)
    return list(found) if found is not None else []
