"""The catalogue that requests read while a background thread changes it: one table, one index, one lock."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from liverank.v1 import item_pb2, stream_pb2
from ranker.inputs import Floats, ItemsView, Rows
from ranker.retrieval import VectorIndex


class ItemTableWriter(ItemsView, Protocol):
    """A table that takes changes: `features.item_table.ItemTable`."""

    def apply_change(self, change: item_pb2.ItemChange, version: int) -> object:
        """Take a record of the topic `items` at offset `version`."""
        ...

    def apply_row(self, row: stream_pb2.ItemRow) -> object:
        """Take a record of the topic `item-rows`."""
        ...

    def set_vectors(self, ids: Sequence[str], matrix: Floats, space: str) -> object:
        """Set vectors of items; another space than before drops all others."""
        ...


class Catalogue:
    """Guards a table and its index.

    Readers hold `lock` while they read (a Rank does so for its few ms); writers change in small batches.

    Parameters
    ----------
    table
        The catalogue in columns.
    index
        Over its vectors.
    """

    def __init__(self, table: ItemTableWriter, index: VectorIndex | None = None) -> None:
        self.table = table
        self.index = index or VectorIndex()
        self.lock = threading.RLock()
        self.revision = 0
        self.live = False
        self._changed: deque[tuple[float, str]] = deque(maxlen=20_000)

    def change(self, changes: Sequence[tuple[item_pb2.ItemChange, int]]) -> None:
        """Take catalogue records with their offsets."""
        with self.lock:
            for change, version in changes:
                self.table.apply_change(change, version)
            self.revision += 1
            if self.live:
                now_s = time.monotonic()
                self._changed.extend((now_s, change.item_id) for change, _ in changes)

    def changed_within(self, seconds: float) -> list[str]:
        """Ids of items whose catalogue record came within the last seconds, once the first load is over (`live`)."""
        with self.lock:
            oldest_s = time.monotonic() - seconds
            while self._changed and self._changed[0][0] < oldest_s:
                self._changed.popleft()
            return list(dict.fromkeys(item_id for _, item_id in self._changed))

    def update_rows(self, rows: Sequence[stream_pb2.ItemRow]) -> None:
        """Take item rows of the change feed."""
        with self.lock:
            for row in rows:
                self.table.apply_row(row)

    def set_vectors(self, ids: Sequence[str], matrix: Floats, space: str) -> None:
        """Take vectors; they are found at once, by exact search, and enter the graph at the next rebuild."""
        with self.lock:
            self.table.set_vectors(ids, matrix, space)
            known = [self.table.rows[item_id] for item_id in ids if item_id in self.table.rows]
            self.index.touch(np.array(known, dtype=np.int32))

    def without_vector(self) -> list[str]:
        """Ids of available items that have no vector yet."""
        with self.lock:
            n = len(self.table)
            rows = np.flatnonzero(~self.table.has_vector[:n] & self.table.available[:n])
            return [self.table.ids[row] for row in rows.tolist()]

    def rebuild_if_due(self) -> bool:
        """Build the graph aside and swap it in, if it is due. Requests go on meanwhile."""
        with self.lock:
            table = self.table
            if not self.index.due(table):
                return False
            rows: Rows = np.flatnonzero(table.has_vector[: len(table)]).astype(np.int32)
            vectors, space = table.vectors[rows].copy(), table.space
        self.index.rebuild(vectors, rows, space)
        return True

    def probe(self, rng: np.random.Generator, n_queries: int = 16) -> float:
        """Measure the index's recall on queries between the catalogue's own vectors, and act on it."""
        with self.lock:
            table = self.table
            rows = np.flatnonzero(table.has_vector[: len(table)])
            if not len(rows):
                return float("nan")
            chosen = rng.choice(rows, size=min(n_queries, len(rows)), replace=False)
            pairs = table.vectors[chosen] + table.vectors[np.roll(chosen, 1)]
        norms = np.linalg.norm(pairs, axis=1, keepdims=True)
        queries = np.ascontiguousarray(pairs / np.maximum(norms, 1e-9), dtype=np.float32)
        recalls = []
        for query in queries:  # one at a time: the lock is given back in between
            with self.lock:
                recalls.append(self.index.measure(self.table, query[None, :]))
        recall = float(np.mean(recalls))
        self.index.judge(recall)
        return recall
