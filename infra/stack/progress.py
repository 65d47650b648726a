"""How a long command tells what it does: one step after the other, each with its seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Step(Protocol):
    """A step under way."""

    def note(self, text: str) -> None:
        """Say what came of it; the last note stands."""


class Progress(Protocol):
    """Receives the steps; `liverank.cli` shows them, tests ignore them."""

    def step(self, name: str) -> AbstractContextManager[Step]:
        """Open a step; leaving the context ends it, an exception marks it as failed."""


class Silent:
    """Shows nothing."""

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Open a step that nobody sees."""
        del name
        yield _Unseen()


class _Unseen:
    def note(self, text: str) -> None:
        """Forget the text."""
