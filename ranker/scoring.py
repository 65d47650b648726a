"""From candidates to values: cheap model over many, all heads over few, then the soft rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from liverank.v1 import event_pb2
from ranker import columns
from ranker.affinity import Affinities
from ranker.inputs import Floats, ItemsView, Rows, UserView
from ranker.models import Model
from ranker.retrieval import CandidateSet, Met
from ranker.value import ValueWeights, hints, kept, soft_factors, value

MANY: Final = 300
"""More candidates than this are thinned by the light model."""
FEW: Final = 200
"""Candidates that all heads see."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Candidates that all heads have seen.

    Attributes
    ----------
    places
        Their places in the candidate set, shape ``(n,)``.
    x
        Feature rows, shape ``(n, n_columns)``.
    p_first
        Head probabilities at slot 1, shape ``(n, n_heads)``.
    value
        V with its soft rules but fading, shape ``(n,)``.
    kept
        Share of its places in the slate that each candidate's kind keeps after the newest rejections, shape ``(n,)``.
    """

    places: NDArray[np.int64]
    x: Floats
    p_first: NDArray[np.float64]
    value: NDArray[np.float64]
    kept: NDArray[np.float64]


def score(
    user: UserView,
    table: ItemsView,
    candidates: CandidateSet,
    *,
    affinity: Affinities,
    met: Met,
    context: event_pb2.Context,
    as_of_ms: int,
    model: Model,
    weights: ValueWeights,
    times_shown: NDArray[np.int32],
    few: int = FEW,
) -> Scored:
    """Score candidates.

    Parameters
    ----------
    user, table, candidates, affinity, context, as_of_ms
        The request.
    met
        Items that met the user's newest liked ones: co-occurrence of every candidate, whoever proposed it.
    model
        Heads; one that reads no columns ranks by retrieval's own order times its rates.
    weights
        Of heads and soft rules.
    times_shown
        Times each candidate was shown since the user's last click on it, shape ``(len(candidates.rows),)``.
    few
        Candidates that all heads see.
    """
    rows: Rows = candidates.rows
    reads_columns = bool(model.feature_names)
    scores = {**candidates.scores, **met.of(rows)}
    x = columns.build(user, table, rows, context=context, as_of_ms=as_of_ms, scores=scores, affinity=affinity)
    places = np.arange(len(rows))
    if len(rows) > max(MANY, few):
        thin = model.light(x) if reads_columns else candidates.relevance.astype(np.float64)
        places = np.sort(np.argpartition(-thin, few - 1)[:few])
        x = x[places]
    p_first = model.predict(x, np.ones(len(x), dtype=np.int32))
    factors = soft_factors(
        x,
        weights,
        times_shown=times_shown[places],
        relevance=None if reads_columns else candidates.relevance[places],
    )
    main = table.categories[rows[places], 0]
    hint = hints(x, main, affinity, weights)
    worth = value(p_first, weights.of(model.heads), factors, hint, main=main, diversity=weights.diversity)
    return Scored(places=places, x=x, p_first=p_first, value=worth, kept=kept(main, affinity, weights))
