"""Items near the user's three vectors: what they like this week, this month, this half-year."""

from __future__ import annotations

from typing import Final

import numpy as np

from ranker.inputs import Floats, Rows
from ranker.retrieval.source import NOTHING, Proposal, Query, best
from ranker.retrieval.vector_index import VectorIndex

SHARE: Final = 0.7
"""Of the quota, asked for by each of several query vectors: they overlap."""
FEW_EACH: Final = 0.4
"""The same for more than three."""
ENOUGH: Final = 0.6
"""Of the quota; below it the index is asked deeper."""


class UserVectors:
    """Source over the index by the user's vectors; a vector of zeros (no event in its window) asks nothing.

    Parameters
    ----------
    index
        Shared with `SemanticNeighbours`.
    """

    name = "vector"

    def __init__(self, index: VectorIndex) -> None:
        self._index = index

    def propose(self, query: Query, quota: int) -> Proposal:
        """See `Source`; the score is the largest of the three cosines."""
        user, table = query.user, query.table
        vectors = user.vectors
        if vectors.size == 0 or user.space != table.space or vectors.shape[1] != table.vectors.shape[1]:
            return NOTHING
        norms = np.linalg.norm(vectors, axis=1)
        asked: Floats = (vectors[norms > 0] / norms[norms > 0][:, None]).astype(np.float32)
        return nearest_allowed(self._index, query, asked, quota)


def nearest_allowed(index: VectorIndex, query: Query, asked: Floats, quota: int, *, ef: int | None = None) -> Proposal:
    """The `quota` best of the allowed rows over several query vectors; asks deeper once if too few are allowed."""
    if not len(asked):
        return NOTHING
    share = float(query.allowed.mean()) if len(query.allowed) else 0.0
    if share == 0.0:
        return NOTHING
    each = quota + 10 if len(asked) == 1 else int(np.ceil((SHARE if len(asked) <= 3 else FEW_EACH) * quota)) + 10
    n = len(query.table)
    k = min(n, int(each / max(share, 0.05)))
    rows, scores = _allowed(index, query, asked, k, ef)
    if len(rows) < ENOUGH * quota and k < n:
        rows, scores = _allowed(index, query, asked, min(n, 3 * k), ef)
    return best(rows, scores, quota)


def _allowed(index: VectorIndex, query: Query, asked: Floats, k: int, ef: int | None) -> tuple[Rows, Floats]:
    near, cosines = index.search(query.table, asked, k, ef=ef)
    rows, scores = union_of_best(near.ravel(), cosines.ravel())
    keep = query.allowed[rows]
    return rows[keep], scores[keep]


def union_of_best(rows: Rows, scores: Floats) -> tuple[Rows, Floats]:
    """Each row once, with its best score; entries of -inf are dropped."""
    finite = np.isfinite(scores)
    rows, scores = rows[finite], scores[finite]
    order = np.lexsort((-scores, rows))
    rows, scores = rows[order], scores[order]
    first = np.ones(len(rows), dtype=np.bool_)
    first[1:] = rows[1:] != rows[:-1]
    return rows[first], scores[first]
