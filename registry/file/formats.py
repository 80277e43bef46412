"""From a file's text to what it says about services. Pure; the formats have a module each.

The format is recognised document by document: a mapping with ``services`` is our short form,
one with ``apiVersion`` and ``kind`` a Kubernetes object, a list a Prometheus file_sd file.
"""

from __future__ import annotations

from pathlib import PurePath

from registry.base import Problem
from registry.file import kubernetes, prometheus, short
from registry.file.collect import Collector
from registry.file.fragment import Content
from registry.strict import Document, DocumentError, near, parse

__all__ = ["read"]

_TOP_KEYS = ("services", "apiVersion", "kind")


def read(text: str, source: str) -> Content:
    """All services in ``text``; ``source`` is the file's name for messages. Raises
    DocumentError if nothing of it can be used."""
    collector = Collector(source)
    documents = parse(text, source)
    for document in documents:
        _read_document(document, collector, PurePath(source).stem)
    if not documents:
        collector.problems.append(
            Problem("the file is empty: write `services: []` if there are none", source)
        )
    return collector.content()


def _read_document(document: Document, collector: Collector, stem: str) -> None:
    value = document.value
    if isinstance(value, list):
        prometheus.read(document, collector, stem)
    elif isinstance(value, dict) and "apiVersion" in value and "kind" in value:
        kubernetes.read(document, collector)
    elif isinstance(value, dict) and "services" in value:
        short.read(document, collector)
    elif isinstance(value, dict):
        # A mistyped first key must not read as "no services".
        problems = [
            document.problem(f"unknown key {key!r}{near(key, _TOP_KEYS)}", (key,)) for key in value
        ]
        raise DocumentError(
            problems or [document.problem("expected `services:`, a Kubernetes object or a list")]
        )
    else:
        raise DocumentError(
            [document.problem("expected `services:`, a Kubernetes object or a list of targets")]
        )
