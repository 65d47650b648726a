"""The sources of serving, in one place: training retrieves with the same."""

from __future__ import annotations

from ranker.retrieval.again import Again
from ranker.retrieval.co_occurrence import CoOccurrence
from ranker.retrieval.explore import Explore
from ranker.retrieval.semantic import SemanticNeighbours
from ranker.retrieval.source import Source
from ranker.retrieval.top_lists import DEMAND_KEEP_S, KEEP_MS, demand, fresh, popular, trending
from ranker.retrieval.vector import UserVectors
from ranker.retrieval.vector_index import VectorIndex


def standard_sources(index: VectorIndex, *, keep: bool = True) -> list[Source]:
    """All sources, the one that fills what is missing last.

    Parameters
    ----------
    index
        Of the catalogue's vectors.
    keep
        Whether lists that do not depend on the user are kept for seconds; False where every request must see every
        event before it (recorded time, training): there nothing is drawn either.
    """
    exploring: list[Source] = [Explore()] if keep else []
    short_s, long_s = (KEEP_MS / 1000, DEMAND_KEEP_S) if keep else (0.0, 0.0)
    return [
        CoOccurrence(),
        UserVectors(index),
        SemanticNeighbours(index),
        Again(),
        demand(long_s),
        trending(short_s),
        fresh(),
        *exploring,
        popular(short_s),
    ]
