"""From a file to a checked tree."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import msgspec

from nodeproxy.config.checks import Check
from nodeproxy.config.tree import Admin, Config, File
from nodeproxy.config.values import RegistryEntry
from registry.base import Problem

__all__ = ["EXAMPLE", "ConfigError", "load", "parse"]

EXAMPLE = """\
interception: {mode: none}            # iptables: take the node's traffic (needs root)
listeners:
  - {bind: 127.0.0.1:8080, service: web, port: 80}
registries:
  - {kind: file, path: services.yaml}
"""
"""The smallest configuration that does something, shown where none is found."""


class ConfigError(Exception):
    """The configuration can't be used. ``problems`` holds every reason and is never empty."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def load(path: str | Path) -> Config:
    """Read a file. Raises ConfigError with every problem; OSError if it can't be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise ConfigError([Problem(f"not UTF-8: {exc}", str(path))]) from None
    return parse(text, path)


def parse(text: str, path: str | Path) -> Config:
    """Read a text that stands (or would stand) at ``path``. Raises ConfigError."""
    from registry import strict  # needs PyYAML: whoever only wants the tree should not pay

    source = str(path)
    try:
        documents = strict.parse(text, source)
    except strict.DocumentError as exc:
        raise ConfigError(exc.problems) from None
    if len(documents) > 1:
        message = "the configuration is one document; remove the line ---"
        raise ConfigError([documents[1].problem(message)])
    if not documents:
        return _finish(File(), None, source)
    file, problems = strict.convert(documents[0], File)
    if file is None:
        raise ConfigError(problems)
    return _finish(file, documents[0], source)


def _finish(file: File, document: Any, source: str) -> Config:
    """Resolve paths and check what belongs together. ``document`` is a strict.Document."""
    check = Check(document, source)
    check.all(file)
    if check.problems:
        raise ConfigError(sorted(check.problems, key=lambda p: p.line))
    base = Path(source).absolute().parent
    replace = msgspec.structs.replace
    log = file.telemetry.access_log
    if log.path not in ("stderr", "stdout"):
        log = replace(log, path=str(base / log.path))
    settings = {name: getattr(file, name) for name in File.__struct_fields__}
    settings |= {
        "node": replace(file.node, name=file.node.name or socket.gethostname()),
        "state_dir": str(base / file.state_dir),
        "telemetry": replace(file.telemetry, access_log=log),
        "routes": str(base / file.routes) if file.routes else "",
        "admin": Admin(socket=str(base / file.admin.socket)),
        "registries": tuple(
            RegistryEntry(e.kind, e.name, e.options, check.place("registries", i))
            for i, e in enumerate(file.registries)
        ),
    }
    return Config(
        **settings,
        path=source,
        base_dir=str(base),
        warnings=tuple(check.warnings),
        origins=dict(check.origins()),
    )
