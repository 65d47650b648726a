"""Items whose content is near the newest items that the user liked, one by one.

The user vectors average; this keeps tastes apart: a user who likes two unlike things gets neighbours of both.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ranker.retrieval.source import NOTHING, Proposal, Query
from ranker.retrieval.vector import nearest_allowed
from ranker.retrieval.vector_index import VectorIndex

RECENT: Final = 5
BREADTH: Final = 100
"""Of its graph searches: neighbours of single items are a hint, not the main list."""


class SemanticNeighbours:
    """Source over the index by the vectors of the newest five liked items.

    Parameters
    ----------
    index
        Shared with `UserVectors`.
    """

    name = "semantic"

    def __init__(self, index: VectorIndex) -> None:
        self._index = index

    def propose(self, query: Query, quota: int) -> Proposal:
        """See `Source`; the score is the largest cosine with one of the liked items."""
        table, affinity = query.table, query.affinity
        liked = affinity.rows[affinity.weights > 0]
        liked = liked[table.has_vector[liked]]
        # Newest first, each once.
        _, first = np.unique(liked, return_index=True)
        seeds = liked[np.sort(first)][:RECENT]
        if not len(seeds):
            return NOTHING
        return nearest_allowed(self._index, query, np.ascontiguousarray(table.vectors[seeds]), quota, ef=BREADTH)
