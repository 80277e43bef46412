"""Who may import whom, read from the source: also imports inside of functions count.

    cli, demo -> daemon -> {admin, dataplane, routes} -> {telemetry, core} -> registry
    dataplane and daemon -> iptables;  daemon, cli and demo -> config -> registry
    daemon -> dns -> registry

The layer "daemon" is every module directly in nodeproxy/: the composition root and its helpers.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("nodeproxy", "registry", "iptables")

ALLOWED = {
    "registry": set(),
    "iptables": set(),
    "config": {"registry"},
    "core": {"registry"},
    "routes": {"core", "registry"},
    "telemetry": {"core", "registry"},
    "dns": {"registry"},
    "admin": {"telemetry", "core", "registry"},
    "dataplane": {"telemetry", "core", "registry", "iptables"},
    "daemon": {
        "admin",
        "dataplane",
        "dns",
        "telemetry",
        "core",
        "registry",
        "iptables",
        "config",
        "routes",
    },
    "cli": {
        "daemon",
        "admin",
        "telemetry",
        "core",
        "registry",
        "iptables",
        "config",
        "routes",
        "demo",
    },
    "demo": {
        "cli",
        "daemon",
        "admin",
        "telemetry",
        "core",
        "registry",
        "iptables",
        "config",
        "routes",
    },
}
"""Layer -> the layers that it may import, besides itself."""

IMPURE = {
    "asyncio",
    "os",
    "random",
    "select",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "trio",
}
"""What core may name in annotations only: it is given the time, and its random generator."""


class Import(NamedTuple):
    module: str
    line: int
    for_types: bool
    """Below ``if TYPE_CHECKING``: never run."""


def layer(module: str) -> str:
    """``nodeproxy.core.pool`` -> ``core``; ``nodeproxy`` itself has none: anybody may ask for
    its version."""
    parts = module.split(".")
    if parts[0] != "nodeproxy":
        return parts[0]
    if len(parts) == 1:
        return ""
    return parts[1] if parts[1] in ALLOWED else "daemon"


def imports(source: str, modules: frozenset[str] = frozenset()) -> Iterator[Import]:
    """Every import of a source text, wherever it stands. ``modules``: what is known to be a
    module, as ``from nodeproxy import daemon`` imports one."""

    def walk(node: ast.AST, for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield Import(whole if whole in modules else base, node.lineno, for_types)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("importlib.import_module", "__import__")
            and node.args
        ):
            # A computed name counts by its constant beginning.
            text = node.args[0]
            first = text.values[0] if isinstance(text, ast.JoinedStr) and text.values else text
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield Import(first.value.rstrip("."), node.lineno, for_types)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for part in node.body:
                yield from walk(part, True)
            for part in node.orelse:
                yield from walk(part, for_types)
            return
        for part in ast.iter_child_nodes(node):
            yield from walk(part, for_types)

    yield from walk(ast.parse(source), False)


def violations(sources: Mapping[str, str]) -> list[str]:
    """Module name -> source text; what is wrong, one line each."""
    modules = frozenset(sources)
    found = []
    for module, source in sources.items():
        own = layer(module)
        for what in imports(source, modules):
            place = f"{module}:{what.line}"
            if what.module.startswith("."):
                found.append(f"{place}: relative import {what.module}")
                continue
            top = what.module.split(".")[0]
            if own == "core" and top in IMPURE and not what.for_types:
                found.append(f"{place}: core imports {what.module}")
            if top in OURS and own:
                target = layer(what.module)
                if target and target != own and target not in ALLOWED[own]:
                    found.append(f"{place}: {own} imports {what.module} ({target})")
            elif top in OURS and layer(what.module):
                found.append(f"{place}: the package itself imports {what.module}")
    return found


def tree() -> dict[str, str]:
    """All modules of the three packages."""
    found = {}
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path.read_text(encoding="utf-8")
    return found


def test_imports_point_one_way() -> None:
    assert violations(tree()) == []


def test_every_package_has_a_place() -> None:
    packages = {
        path.parent.name
        for path in (ROOT / "nodeproxy").glob("*/__init__.py")
        if path.parent.name not in ALLOWED
    }
    assert packages == set(), "give it a layer in ALLOWED"


def test_the_layers_have_no_circle() -> None:
    # cli and demo stand side by side: the command shows the demo, the demo runs commands.
    remaining = {
        name: needed - ({"cli", "demo"} if name in ("cli", "demo") else set())
        for name, needed in ALLOWED.items()
    }
    while remaining:
        free = {name for name, needed in remaining.items() if not needed & remaining.keys()}
        assert free, f"circle among {sorted(remaining)}"
        remaining = {name: needed for name, needed in remaining.items() if name not in free}


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("registry.model", "import nodeproxy.core", "registry imports nodeproxy.core (core)"),
        ("registry.model", "from iptables import names", "registry imports iptables (iptables)"),
        ("iptables.rules", "from registry.model import Port", "iptables imports registry.model"),
        ("nodeproxy.core.pool", "import socket", "core imports socket"),
        ("nodeproxy.core.pool", "def f():\n    from time import monotonic", "core imports time"),
        ("nodeproxy.core.pool", "from nodeproxy.telemetry import log", "core imports nodeproxy"),
        ("nodeproxy.core.pool", "from nodeproxy import daemon", "imports nodeproxy.daemon"),
        (
            "nodeproxy.telemetry.log",
            "if True:\n    import nodeproxy.dataplane.lane",
            "telemetry imports nodeproxy.dataplane.lane",
        ),
        ("nodeproxy.admin.api", "import nodeproxy.dataplane", "admin imports nodeproxy.dataplane"),
        ("nodeproxy.admin.api", "import iptables.manager", "admin imports iptables.manager"),
        (
            "nodeproxy.dataplane.lane",
            "from nodeproxy.config import Config",
            "imports nodeproxy.con",
        ),
        (
            "nodeproxy.daemon",
            "import nodeproxy.cli.main",
            "daemon imports nodeproxy.cli.main (cli)",
        ),
        ("nodeproxy.cli.run", "import nodeproxy.dataplane.lane", "cli imports nodeproxy.dataplane"),
        (
            "nodeproxy.daemon",
            "import importlib\nimportlib.import_module(f'nodeproxy.cli.{name}')",
            "daemon imports nodeproxy.cli (cli)",
        ),
        ("nodeproxy", "from nodeproxy.core import errors", "the package itself imports"),
        ("nodeproxy.core.pool", "from .errors import X", "relative import .errors"),
    ],
)
def test_the_checker_catches(module: str, source: str, wrong: str) -> None:
    known = {"nodeproxy.daemon": "", module: source}
    found = violations(known)
    assert len(found) == 1
    assert wrong in found[0]
    assert found[0].startswith(f"{module}:{source.count(chr(10)) + 1}")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("nodeproxy.core.pool", "if TYPE_CHECKING:\n    import random"),
        ("nodeproxy.core.pool", "from registry.model import Port\nimport msgspec"),
        ("nodeproxy.cli.run", "def f():\n    from nodeproxy import daemon, __version__"),
        ("nodeproxy.dataplane.lane", "import trio, socket\nfrom iptables import names"),
        ("nodeproxy.settings", "from nodeproxy.config import Config"),
    ],
)
def test_the_checker_lets_pass(module: str, source: str) -> None:
    assert violations({"nodeproxy.daemon": "", module: source}) == []
