"""States in memory."""

from __future__ import annotations

from collections.abc import Callable

from features import native
from streams.fold import KeyState

__all__ = ["CacheEntry", "entry_of"]


class CacheEntry:
    """A state in the cache with the due time that the index knows."""

    __slots__ = ("due_ms", "state")

    def __init__(self, state: KeyState, due_ms: int | None) -> None:
        self.state = state
        self.due_ms = due_ms


entry_of: Callable[[KeyState, int | None], CacheEntry] = CacheEntry if native.core is None else native.core.CacheEntry
"""`entry_of(state, due_ms)`; `features.native` has a twin of the class."""
