"""Items that others met together with what this user liked lately."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ranker.affinity import Affinities
from ranker.inputs import Floats, ItemsView, Rows
from ranker.retrieval.source import NO_ROWS, NO_SCORES, NOTHING, Proposal, Query, best

RECENT: Final = 30
"""Newest liked items whose neighbours are read."""
RANK_DECAY: Final = 0.9
"""A liked item counts so much of the next newer one."""
GAP_HALF_LIFE_MS: Final = 7 * 86_400_000
"""And half for every such span between it and the newest."""


@dataclass(frozen=True)
class Met:
    """Every item that met the user's newest liked ones; rows are unique and rise.

    Attributes
    ----------
    rows
        Rows of the table, shape ``(n,)``.
    scores
        Sum over liked items of (user's decayed weight) x (decayed pair weight, divided by the square root of the liked
        item's total), so that items that meet everything do not win everything.
    share
        Of what the liked items met, weighted by how new each liking is: a mean of P(item | liked item) over likings,
        which neither time nor the density of the log scales; sums to at most 1.
    last
        The same for the newest liked item alone.
    """

    rows: Rows
    scores: Floats
    share: Floats
    last: Floats

    def of(self, rows: Rows) -> dict[str, Floats]:
        """Scores of some rows by column name, each shape ``(len(rows),)``; 0 where nothing was met."""
        columns = {"co_occurrence": self.scores, "met_share": self.share, "met_last": self.last}
        if not len(self.rows):
            return {name: np.zeros(len(rows), dtype=np.float32) for name in columns}
        at = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        found = self.rows[at] == rows
        return {name: np.where(found, values[at], np.float32(0)) for name, values in columns.items()}


NOTHING_MET: Final = Met(NO_ROWS, NO_SCORES, NO_SCORES, NO_SCORES)


def co_occurrence(affinity: Affinities, table: ItemsView) -> Met:
    """Every neighbour of the newest liked items; own items are left in. About 0.5 ms."""
    liked = np.flatnonzero(affinity.weights > 0)[:RECENT]
    if not len(liked):
        return NOTHING_MET
    seeds, weights = affinity.rows[liked], affinity.weights[liked]
    gaps_ms = affinity.ages_ms[liked] - affinity.ages_ms[liked[0]]
    newness = RANK_DECAY ** np.arange(len(liked)) * np.exp2(-gaps_ms / GAP_HALF_LIFE_MS)
    parts: list[tuple[Rows, Floats]] = []
    scales: list[tuple[float, float, float]] = []
    for at, row in enumerate(seeds.tolist()):
        neighbours, pairs = table.neighbours(row, affinity.as_of_ms)
        total = float(pairs.sum()) if len(neighbours) else 0.0
        if total > 0:
            parts.append((neighbours, pairs))
            last = 1.0 / total if row == seeds[0] else 0.0
            scales.append((float(weights[at]) / np.sqrt(total), float(newness[at]) / total, last))
    if not parts:
        return NOTHING_MET
    everything = np.concatenate([part[0] for part in parts])
    pairs = np.concatenate([part[1] for part in parts]).astype(np.float64)
    of_seed = np.repeat(np.array(scales), [len(part[0]) for part in parts], axis=0)
    rows, inverse = np.unique(everything, return_inverse=True)
    sums = [np.bincount(inverse, weights=pairs * of_seed[:, column]) for column in range(3)]
    known = (rows >= 0) & (rows < len(table)) & (sums[0] > 0)

    def kept(values: NDArray[Any]) -> Floats:
        return values[known].astype(np.float32)

    repeats = max(1, int((seeds == seeds[0]).sum()))  # the newest item may lie in the history twice
    return Met(
        rows[known].astype(np.int32), kept(sums[0]), kept(sums[1] / float(newness.sum())), kept(sums[2] / repeats)
    )


class CoOccurrence:
    """Source over `co_occurrence`: the largest shares."""

    name = "co_occurrence"

    def propose(self, query: Query, quota: int) -> Proposal:
        """See `Source`."""
        met = query.met
        if not len(met.rows):
            return NOTHING
        allowed = query.allowed[met.rows]
        return best(met.rows[allowed], met.share[allowed], quota)
