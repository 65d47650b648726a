"""Items near given ones: by what users did with both, and by content."""

from __future__ import annotations

import numpy as np

from liverank.v1 import personalization_pb2 as pb
from ranker.catalogue import Catalogue
from ranker.errors import ItemNotFoundError, RequestError
from ranker.filters import Filters
from ranker.inputs import Floats
from ranker.request import MAX_K, check_filter

MAX_SEEDS = 16


def similar(request: pb.SimilarRequest, catalogue: Catalogue, filters: Filters) -> pb.SimilarReply:
    """Neighbours, nearest first: the mean of both scores, each scaled to its largest.

    Raises
    ------
    RequestError
        No ids, too many, k outside 1 to 200, or a bad filter.
    ItemNotFoundError
        An id that the catalogue does not know.
    """
    if not 1 <= len(request.item_ids) <= MAX_SEEDS:
        raise RequestError("bad_value", f"item_ids holds 1 to {MAX_SEEDS} ids, got {len(request.item_ids)}")
    if not 1 <= request.k <= MAX_K:
        raise RequestError("bad_value", f"k must be 1 to {MAX_K}, got {request.k}")
    check_filter(request.filter)
    with catalogue.lock:
        table = catalogue.table
        unknown = sorted({item_id for item_id in request.item_ids if item_id not in table.rows})
        if unknown:
            raise ItemNotFoundError(
                f"the catalogue does not know {', '.join(unknown[:5])}; publish it to `items` first"
            )
        seeds = np.unique([table.rows[item_id] for item_id in request.item_ids]).astype(np.int32)
        allowed = filters.allowed(table, request.filter, "", catalogue.revision)
        allowed[seeds] = False
        n = len(table)
        met, content = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.float32)
        for row in seeds.tolist():
            rows, weights = table.neighbours(row)
            met[rows[rows < n]] += weights[rows < n]
        with_vector = seeds[table.has_vector[seeds]]
        if len(with_vector):
            share = max(float(allowed.mean()), 0.05)
            depth = min(n, int((request.k + len(seeds) + 10) / share))
            near, cosines = catalogue.index.search(table, np.ascontiguousarray(table.vectors[with_vector]), depth)
            np.maximum.at(content, near.ravel(), np.maximum(cosines.ravel(), 0))
        score = np.where(allowed, (_scaled(met) + _scaled(content)) / 2, 0)
        best = np.argsort(-score, kind="stable")[: request.k]
        reply = pb.SimilarReply()
        for row in best[score[best] > 0].tolist():
            sources = [name for name, of in (("co_occurrence", met), ("semantic", content)) if of[row] > 0]
            reply.items.add(item_id=table.ids[row], score=float(score[row]), sources=sources)
    return reply


def _scaled(scores: Floats) -> Floats:
    top = float(scores.max()) if len(scores) else 0.0
    return scores / np.float32(top) if top > 0 else scores
