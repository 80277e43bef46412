"""docs/design/http1-requirements.md: every requirement names tests, and each of them exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "design" / "http1-requirements.md"


def rows() -> list[list[str]]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"
    ]
    return [row for row in cells if row[0] != "section" and not row[0].startswith("-")]


@cache
def source(name: str) -> str:
    (path,) = (ROOT / "tests").rglob(name)
    return path.read_text(encoding="utf-8")


@cache
def functions(name: str) -> frozenset[str]:
    nodes = ast.walk(ast.parse(source(name)))
    return frozenset(
        node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_every_requirement_has_tests_that_exist() -> None:
    missing = []
    for row in rows():
        assert len(row) == 4, row
        section, requirement, done, tests = row
        assert re.match(r"\d|Trace", section), row
        assert requirement
        assert done
        named = re.findall(r"`([^`]+)`", tests)
        assert named, f"no test: {row}"
        for test in named:
            match = re.fullmatch(r"(test_\w+\.py)(?:::(\w+)(?:\[([^\]]+)\])?)?", test)
            assert match, test
            file, function, case = match.groups()
            if function and function not in functions(file):
                missing.append(test)
            if case and f'"{case}"' not in source(file):
                missing.append(test)
    assert missing == []


def test_the_table_is_whole() -> None:
    """A look at its size: rows go only when a requirement does."""
    assert len(rows()) >= 100
