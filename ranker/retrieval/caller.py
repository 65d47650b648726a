"""The caller's own candidates: nothing else is ranked when they are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from liverank.v1 import personalization_pb2 as pb
from ranker.inputs import Floats, ItemsView, Rows


@dataclass(frozen=True)
class CallerCandidates:
    """What the caller gave, against the catalogue.

    Attributes
    ----------
    rows
        Rows of known candidates, each once, in the caller's order.
    scores
        Mean of the caller's score columns, each column scaled to mean 0 and sd 1 over the candidates that have it.
    unknown
        Ids that the catalogue does not know, each once, in the caller's order.
    """

    rows: Rows
    scores: Floats
    unknown: tuple[str, ...]


def caller_candidates(candidates: Sequence[pb.Candidate], table: ItemsView) -> CallerCandidates:
    """Resolve candidates; of a repeated id the first counts."""
    seen: dict[str, pb.Candidate] = {}
    for candidate in candidates:
        seen.setdefault(candidate.item_id, candidate)
    places = {item_id: table.rows[item_id] for item_id in seen if item_id in table.rows}
    # Counters may know an item before the catalogue does; it is known from its first catalogue record on.
    places = {item_id: row for item_id, row in places.items() if table.version[row] >= 0}
    known = [(row, seen[item_id]) for item_id, row in places.items()]
    unknown = tuple(item_id for item_id in seen if item_id not in places)
    rows = np.array([row for row, _ in known], dtype=np.int32)
    names = sorted({name for _, candidate in known for name in candidate.scores})
    if not names:
        return CallerCandidates(rows, np.zeros(len(rows), dtype=np.float32), unknown)
    columns = np.array([[candidate.scores.get(name, np.nan) for name in names] for _, candidate in known])
    have = np.isfinite(columns)
    count = np.maximum(have.sum(axis=0), 1)
    filled = np.where(have, columns, 0.0)
    mean = filled.sum(axis=0) / count
    centred = np.where(have, columns - mean, 0.0)
    sd = np.sqrt((centred**2).sum(axis=0) / count)
    scaled = np.divide(centred, sd, out=np.zeros_like(centred), where=sd > 0)
    scores = scaled.sum(axis=1) / np.maximum(have.sum(axis=1), 1)
    return CallerCandidates(rows, scores.astype(np.float32), unknown)
