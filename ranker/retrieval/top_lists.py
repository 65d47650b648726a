"""Orders of the whole catalogue that do not depend on the user: popular, in demand, trending, fresh."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from ranker.inputs import Floats, ItemsView
from ranker.retrieval.source import NOTHING, Proposal, Query

DEPTH: Final = 4_000
KEEP_MS: Final = 1_000
DEMAND_KEEP_S: Final = 10.0
"""Orders over four half-lives take 10 ms at 100k items."""
FORGOTTEN: Final = 1e-6
"""Choices at or below it are none."""


class TopLists:
    """One list of one score, kept for a second.

    A list holds the best 4,000 rows; where a request allows too few of them, the whole catalogue is ordered for it, so
    that a filter never starves a request of items that exist. Cost: 1 ms at 100k items when the list is made, 20 us
    when it is read.

    Parameters
    ----------
    name
        Name of the source.
    score
        Score of every row at an instant; rows that are not finite or not above `least` are left out.
    least
        Scores at or below it do not enter.
    keep_s
        How long a list is kept; 0 where every request must see every event before it (recorded time).
    """

    def __init__(
        self,
        name: str,
        score: Callable[[ItemsView, int], Floats],
        *,
        least: float = float("-inf"),
        depth: int = DEPTH,
        keep_s: float = KEEP_MS / 1000,
    ) -> None:
        self.name, self._keep_s = name, keep_s
        self._score, self._least, self._depth = score, least, depth
        self._lock = threading.Lock()
        self._key: tuple[int, int, int] | None = None
        self._until_s = 0.0
        self._list = NOTHING

    def propose(self, query: Query, quota: int) -> Proposal:
        """See `Source`."""
        found = self._kept(query.table, query.as_of_ms)
        keep = query.allowed[found.rows]
        if len(found) >= self._depth and int(keep.sum()) < quota:
            found = self._ordered(query.table, query.as_of_ms, len(query.table))
            keep = query.allowed[found.rows]
        at = np.flatnonzero(keep)[:quota]
        return Proposal(found.rows[at], found.scores[at])

    def _kept(self, table: ItemsView, as_of_ms: int) -> Proposal:
        key = (id(table), len(table), as_of_ms // max(KEEP_MS, int(1000 * self._keep_s)))
        with self._lock:
            if key != self._key or time.monotonic() >= self._until_s:
                self._list, self._key = self._ordered(table, as_of_ms, self._depth), key
                self._until_s = time.monotonic() + self._keep_s
            return self._list

    def _ordered(self, table: ItemsView, as_of_ms: int, depth: int) -> Proposal:
        scores = np.asarray(self._score(table, as_of_ms), dtype=np.float32)[: len(table)]
        rows = np.flatnonzero(np.isfinite(scores) & (scores > self._least) & table.available[: len(table)])
        scores = scores[rows]
        if len(rows) > depth:
            keep = np.argpartition(-scores, depth - 1)[:depth]
            rows, scores = rows[keep], scores[keep]
        order = np.lexsort((rows, -scores))
        return Proposal(rows[order].astype(np.int32), scores[order])


def popular(keep_s: float = KEEP_MS / 1000) -> TopLists:
    """Most decayed good news first; every row is in it, so that it fills what others leave."""
    return TopLists("popular", lambda table, as_of_ms: table.popularity(as_of_ms), keep_s=keep_s)


def demand(keep_s: float = DEMAND_KEEP_S) -> TopLists:
    """Most taken over the last hour, day, week or month: the four orders in turn, each item at its best place."""

    def score(table: ItemsView, as_of_ms: int) -> Floats:
        n = len(table)
        taken = table.demand(np.arange(n, dtype=np.int32), as_of_ms)
        place = np.full(n, np.inf)
        for column in taken.T:
            rows = np.flatnonzero(column > FORGOTTEN)
            if len(rows) > DEPTH // 2:
                rows = rows[np.argpartition(-column[rows], DEPTH // 2)[: DEPTH // 2]]
            rows = rows[np.lexsort((rows, -column[rows]))]
            place[rows] = np.minimum(place[rows], np.arange(len(rows)))
        return (-place).astype(np.float32)

    return TopLists("demand", score, keep_s=keep_s)


def trending(keep_s: float = KEEP_MS / 1000) -> TopLists:
    """Rising items only."""
    return TopLists("trending", lambda table, as_of_ms: table.trend(as_of_ms), least=0.0, keep_s=keep_s)


def fresh() -> TopLists:
    """Newest published first (score: minus age in days); items without a date or dated in the future are left out."""

    def score(table: ItemsView, as_of_ms: int) -> Floats:
        published = table.published_ms[: len(table)]
        dated = (published > 0) & (published <= as_of_ms)
        return np.where(dated, (published - as_of_ms) / 86_400_000, -np.inf).astype(np.float32)

    return TopLists("fresh", score)
