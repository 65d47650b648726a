"""Retrieval: sources propose candidates, `retrieve` unites them."""

from ranker.retrieval.again import Again
from ranker.retrieval.caller import CallerCandidates, caller_candidates
from ranker.retrieval.co_occurrence import CoOccurrence, Met, co_occurrence
from ranker.retrieval.explore import Explore
from ranker.retrieval.semantic import SemanticNeighbours
from ranker.retrieval.source import Proposal, Query, Source
from ranker.retrieval.standard import standard_sources
from ranker.retrieval.top_lists import TopLists, demand, fresh, popular, trending
from ranker.retrieval.union import CandidateSet, retrieve, unite
from ranker.retrieval.vector import UserVectors
from ranker.retrieval.vector_index import IndexSettings, VectorIndex

__all__ = [
    "Again",
    "CallerCandidates",
    "CandidateSet",
    "CoOccurrence",
    "Explore",
    "IndexSettings",
    "Met",
    "Proposal",
    "Query",
    "SemanticNeighbours",
    "Source",
    "TopLists",
    "UserVectors",
    "VectorIndex",
    "caller_candidates",
    "co_occurrence",
    "demand",
    "fresh",
    "popular",
    "retrieve",
    "standard_sources",
    "trending",
    "unite",
]
