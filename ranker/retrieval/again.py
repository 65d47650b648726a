"""Items that the user took before: in shops a third of all purchases are repeats."""

from __future__ import annotations

import numpy as np

from ranker.retrieval.source import NOTHING, Proposal, Query, best


class Again:
    """Source over the user's own history; proposes nothing where the seen policy leaves own items out."""

    name = "again"

    def propose(self, query: Query, quota: int) -> Proposal:
        """See `Source`; the score is the decayed sum of the user's own good news about the item."""
        affinity = query.affinity
        liked = affinity.weights > 0
        rows, inverse = np.unique(affinity.rows[liked], return_inverse=True)
        if not len(rows):
            return NOTHING
        scores = np.bincount(inverse, weights=affinity.weights[liked]).astype(np.float32)
        allowed = query.allowed[rows]
        return best(rows[allowed], scores[allowed], quota)
