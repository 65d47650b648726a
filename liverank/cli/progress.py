"""Steps of a long command on the terminal: one line each with its seconds; a spinner while a step runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

NAME_WIDTH = 24


class _Step:
    def __init__(self) -> None:
        self.text = ""

    def note(self, text: str) -> None:
        self.text = text


class Steps:
    """Shows steps as they end, and adds up their seconds.

    Parameters
    ----------
    console : Console, optional
        Where to; standard error by default, so that standard output stays for results.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._start_s = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[_Step]:
        """Open a step; it is marked as failed if the body raises."""
        step, start_s = _Step(), time.monotonic()
        mark, style = "x", "red"
        try:
            with self._console.status(f"{name} ..."):
                yield step
            mark, style = "+", "green"
        finally:
            seconds = time.monotonic() - start_s
            line = Text.assemble(
                (f" {mark} ", style), f"{name:<{NAME_WIDTH}}", (f"{seconds:7.2f} s  ", "dim"), step.text
            )
            self._console.print(line, soft_wrap=True)

    def total(self, text: str) -> None:
        """Close with a line and the seconds of all steps."""
        self._console.print(f"   {text:<{NAME_WIDTH}}{time.monotonic() - self._start_s:7.2f} s", soft_wrap=True)
