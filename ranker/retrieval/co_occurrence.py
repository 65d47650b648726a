"""Items that others met together with what this user liked lately."""

from __future__ import annotations

from typing import Final

import numpy as np

from ranker.affinity import Affinities
from ranker.inputs import Floats, ItemsView, Rows
from ranker.retrieval.source import NO_ROWS, NO_SCORES, NOTHING, Proposal, Query, best

RECENT: Final = 30
"""Newest liked items whose neighbours are read."""


def co_occurrence(affinity: Affinities, table: ItemsView) -> tuple[Rows, Floats]:
    """Every neighbour of the newest liked items with its summed score; own items are left in.

    The score of an item is the sum over liked items of (user's decayed weight) x (decayed pair weight, divided by the
    square root of the liked item's total), so that items that meet everything do not win everything.

    Returns
    -------
    rows, scores
        Unique rows in rising order, and their scores, float32.
    """
    liked = affinity.weights > 0
    seeds, weights = affinity.rows[liked][:RECENT], affinity.weights[liked][:RECENT]
    parts: list[tuple[Rows, Floats]] = []
    for row, weight in zip(seeds.tolist(), weights.tolist(), strict=True):
        neighbours, pairs = table.neighbours(row, affinity.as_of_ms)
        if len(neighbours):
            total = float(pairs.sum())
            if total > 0:
                parts.append((neighbours, (pairs * (weight / np.sqrt(total))).astype(np.float32)))
    if not parts:
        return NO_ROWS, NO_SCORES
    rows, inverse = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    scores = np.bincount(inverse, weights=np.concatenate([part[1] for part in parts])).astype(np.float32)
    known = (rows >= 0) & (rows < len(table)) & (scores > 0)
    return rows[known].astype(np.int32), scores[known]


class CoOccurrence:
    """Source over `co_occurrence`."""

    name = "co_occurrence"

    def propose(self, query: Query, quota: int) -> Proposal:
        """See `Source`."""
        rows, scores = query.met
        if not len(rows):
            return NOTHING
        allowed = query.allowed[rows]
        return best(rows[allowed], scores[allowed], quota)
