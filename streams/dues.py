"""The due index in memory: which keys want attention by when.

The whole index lies in the store (a sorted set, moved by the fence). Memory holds the part up to a *horizon*; the
rest is read when the clock comes near, so that a partition with millions of keys due in half a year costs nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from features import native

__all__ = ["HORIZON_MS", "DueIndex"]

#: How far beyond the clock entries are held in memory.
HORIZON_MS = 10 * 60 * 1000


class _DueIndex:
    """Keys by due time, up to the horizon. Not thread safe.

    Every change is remembered in `changes` until the call that carries it takes it with `take_changes`.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._due: dict[str, int] = {}
        self.horizon_ms = 0
        self.changes: dict[str, int | None] = {}

    def extend(self, entries: Iterable[tuple[str, int]], horizon_ms: int) -> None:
        """Take in entries of the store with due times in (old horizon, `horizon_ms`]."""
        self.horizon_ms = horizon_ms
        for key, due_ms in entries:
            if key not in self._due:
                self._due[key] = due_ms
                heapq.heappush(self._heap, (due_ms, key))

    def put(self, key: str, due_ms: int | None) -> None:
        """Note that `key` is due at `due_ms`; None = never."""
        self.changes[key] = due_ms
        if due_ms is not None and due_ms <= self.horizon_ms:
            self._due[key] = due_ms
            heapq.heappush(self._heap, (due_ms, key))
        else:
            self._due.pop(key, None)

    def any_due(self, clock_ms: int) -> bool:
        """Whether something may be due: the top of the heap, which can be out of date."""
        return bool(self._heap) and self._heap[0][0] <= clock_ms

    def pop_due(self, clock_ms: int) -> list[tuple[int, str]]:
        """Remove and return all (due_ms, key) with due_ms <= `clock_ms`, in order; one entry per key."""
        heap, found = self._heap, []
        while heap and heap[0][0] <= clock_ms:
            due_ms, key = heapq.heappop(heap)
            if self._due.get(key) == due_ms:
                del self._due[key]
                found.append((due_ms, key))
        return found

    def take_changes(self) -> dict[str, int | None]:
        """Return and forget the changes since the last call."""
        changes, self.changes = self.changes, {}
        return changes

    def __len__(self) -> int:
        return len(self._due)


DueIndex: type[_DueIndex] = _DueIndex if native.core is None else native.core.DueIndex
"""The index; `features.native` has a twin."""
