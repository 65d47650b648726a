"""What a shown item is worth, in clicks: V = factor x sum_h w_h p_h.

Factors are bounded to [0.5, 2] each and act before the draw: they are the soft rules. A negative V is divided by its
factor, so that a factor above 1 always helps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ranker.affinity import Affinities
from ranker.columns import INDEX
from ranker.errors import RankerConfigError
from ranker.inputs import Floats

HEAD_WEIGHTS: Final[Mapping[str, float]] = MappingProxyType(
    {"click": 1.0, "dwell": 1.0, "like": 2.0, "save": 2.0, "purchase": 5.0, "dismiss": -2.0}
)
LOWEST: Final = 0.5
HIGHEST: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class ValueWeights:
    """Weights of heads and strengths of soft rules; 0 switches a rule off.

    Attributes
    ----------
    heads
        Clicks that one outcome of a head is worth.
    liking, aversion
        How strongly a user's newest likes and dislikes of an item's first category move its value at once, before any
        model has learned them: factor ``exp(liking x tanh(liked / 2) - aversion x (disliked / 2) ** 1.5)``. One
        dismissal (weight 2) is a hint, several in a row are a verdict.
    freshness
        Up to this share more for an item published now, halving every 7 days.
    shown
        From the fifth showing without a click: this factor for each further one, in (0, 1]; 1 = off.
    relevance
        How much the order of retrieval and the user's vectors count where the model reads no columns: factor
        ``exp(relevance x (2 x retrieval + mean cosine) / 3)``, both at most 1.
    """

    heads: Mapping[str, float] = field(default_factory=lambda: HEAD_WEIGHTS)
    liking: float = 0.05
    aversion: float = 0.02
    freshness: float = 0.0
    shown: float = 0.85
    relevance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("liking", "aversion", "freshness", "relevance"):
            if not 0 <= getattr(self, name) <= 1:
                raise RankerConfigError(f"value weight {name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0 < self.shown <= 1:
            raise RankerConfigError(f"value weight shown must lie in (0, 1], got {self.shown}")
        if not all(np.isfinite(weight) for weight in self.heads.values()):
            raise RankerConfigError(f"head weights must be finite, got {dict(self.heads)}")

    def of(self, heads: Sequence[str]) -> NDArray[np.float64]:
        """Weights in the order of a model's heads; an unknown head weighs 0."""
        return np.array([self.heads.get(head, 0.0) for head in heads], dtype=np.float64)


def soft_factors(
    x: Floats,
    main: NDArray[np.int32],
    affinity: Affinities,
    weights: ValueWeights,
    *,
    times_shown: NDArray[np.int32] | None = None,
    relevance: Floats | None = None,
) -> NDArray[np.float64]:
    """Product of the soft rules per candidate, each rule within [0.5, 2].

    Parameters
    ----------
    x
        Feature rows, shape ``(n, len(COLUMNS))``.
    main
        Code of the first category, shape ``(n,)``.
    affinity
        Of the user.
    weights
        Strengths.
    times_shown
        Times shown to this user since their last click on it, shape ``(n,)``.
    relevance
        Retrieval's own order in [0, 1], where the model has none.
    """
    liked, disliked = affinity.category_liking[main], affinity.category_aversion[main]
    kind = np.exp(weights.liking * np.tanh(liked / 2) - weights.aversion * (disliked / 2) ** 1.5)
    factors = np.clip(kind.astype(np.float64), LOWEST, HIGHEST)
    if weights.freshness > 0:
        age_days = x[:, INDEX["crosses:item_age_days"]]
        young = np.where(age_days >= 0, np.exp2(-np.maximum(age_days, 0) / 7), 0)
        factors *= np.clip(1 + weights.freshness * young, LOWEST, HIGHEST)
    if times_shown is not None and weights.shown < 1:
        factors *= np.clip(weights.shown ** np.maximum(times_shown - 4, 0), LOWEST, 1.0)
    if relevance is not None and weights.relevance > 0:
        first = INDEX["crosses:cosine_1w"]
        near = x[:, first : first + 3].mean(axis=1)
        factors *= np.clip(np.exp(weights.relevance * (2 * relevance + near) / 3), LOWEST, HIGHEST)
    return factors


def value(
    p: NDArray[np.float64], head_weights: NDArray[np.float64], factors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """V of candidates.

    Parameters
    ----------
    p
        Head probabilities at slot 1, shape ``(n, n_heads)``.
    head_weights
        Shape ``(n_heads,)``.
    factors
        Positive, shape ``(n,)``.
    """
    plain = p @ head_weights
    return np.where(plain >= 0, plain * factors, plain / factors)
