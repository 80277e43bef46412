"""How the demo speaks: plain lines that are right in a log, and on a terminal a line that
moves while something is awaited.
"""

from __future__ import annotations

import contextlib
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.rule import Rule
from rich.spinner import Spinner
from rich.text import Text

__all__ = ["Narrator"]

WIDTH = 100
"""Columns where there is no terminal, or a wider one."""
INDENT = " " * 7


class Narrator:
    """Prints, with the seconds since the start before each line."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(
            highlight=False, width=None if sys.stdout.isatty() else WIDTH
        )
        self.began = time.monotonic()
        self.act_number = 0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def act(self, title: str) -> None:
        """A chapter begins."""
        self.act_number += 1
        self.console.print()
        heading = f"{self.act_number}. {title}"
        if self.console.is_terminal:
            self.console.print(Rule(Text(heading, "bold cyan"), align="left", style="cyan"))
        else:
            self.console.print(f"== {heading} ==", markup=False)

    def say(self, text: str, style: str = "") -> None:
        """A line of the story, folded below its beginning."""
        lines = textwrap.wrap(text, max(20, min(self.console.width, WIDTH) - len(INDENT)))
        for number, line in enumerate(lines):
            margin = f"{self.elapsed:5.1f}s " if number == 0 else INDENT
            self.console.print(Text.assemble((margin, "dim"), (line, style)), soft_wrap=True)

    def quote(self, text: str) -> None:
        """What another program says, untouched and not folded."""
        for line in text.rstrip("\n").splitlines():
            self.console.print(Text(INDENT + line if line else ""), soft_wrap=True)

    def command(self, *words: str) -> None:
        self.console.print(Text(f"{INDENT}$ {' '.join(words)}", "bold"), soft_wrap=True)

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Aligned columns; the first one to the left, the others, which are numbers, to the
        right."""
        widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
        for number, row in enumerate((titles, *rows)):
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            style = "bold" if number == 0 else ""
            self.console.print(Text(INDENT + "  ".join(cells).rstrip(), style), soft_wrap=True)

    @contextlib.contextmanager
    def waiting(self, line: Callable[[], str]) -> Iterator[None]:
        """While something is awaited: on a terminal, ``line()`` is shown and kept up to date."""
        if not self.console.is_terminal:
            yield
            return
        spinner = Spinner("dots")

        def render() -> Spinner:
            spinner.update(text=Text(line(), "dim"))
            return spinner

        with Live(
            get_renderable=render, console=self.console, transient=True, refresh_per_second=8
        ):
            yield
