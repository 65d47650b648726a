"""What a shown item is worth, in clicks: V = factor x sum_h w_h p_h + spread x (hint - repetition - fading).

Factors, hint, repetition and fading are the soft rules; they act before the draw. Factors are bounded to [0.5, 2] each;
a negative V is divided by its factor, so that a factor above 1 always helps. The hint is what the user's newest likes
say about an item's kind before any model has learned them; repetition is what each further item of one kind loses.
Fading is what the newest rejections say: they take a share of the places that the kind would have had. Its items are
worth nearly the same, so a plain deduction would take none or all of them. All three are measured in the spread of this
request's own values, so that one signal means the same under every model: a fixed factor is drowned by one model and
overdone by the next.
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
BEST: Final = 50
"""So many of the best values make a request's spread."""
LEAST_SPREAD: Final = 0.05
"""Least spread, as a share of the mean size of these values."""
LARGEST_HINT: Final = 4.0
FADE: Final = 4.0
"""Spreads that the first whole place too many costs."""
LARGEST_FADE: Final = 16.0


@dataclass(frozen=True, kw_only=True)
class ValueWeights:
    """Weights of heads and strengths of soft rules; 0 switches a rule off.

    Attributes
    ----------
    heads
        Clicks that one outcome of a head is worth.
    liking, nearness
        The hint: ``liking x liked ** .75 + nearness x cosine``, within +-4, from the user's newest likes of the item's
        first category (half-life one day) and the mean cosine to the user's three vectors.
    aversion
        Share of its places in the slate that a first category loses with one dismissal (weight 2) of the last day:
        ``n`` places become ``n x (1 - aversion) ** (disliked / 2)``.
    diversity
        Repetition: each further item of one first category is worth so many spreads less than the one before it (by
        value), at most 4 in all.
    freshness
        Up to this share more for an item published now, halving every 7 days.
    shown
        From the fifth showing without a click: this factor for each further one, in (0, 1]; 1 = off.
    relevance
        How much the order of retrieval counts where the model reads no columns: factor
        ``exp(relevance x 2 x retrieval / 3)``, retrieval at most 1.
    """

    heads: Mapping[str, float] = field(default_factory=lambda: HEAD_WEIGHTS)
    liking: float = 1.0
    aversion: float = 0.3
    nearness: float = 0.1
    diversity: float = 0.25
    freshness: float = 0.0
    shown: float = 0.85
    relevance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("liking", "aversion", "nearness", "diversity", "freshness", "relevance"):
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
    weights
        Strengths.
    times_shown
        Times shown to this user since their last click on it, shape ``(n,)``.
    relevance
        Retrieval's own order in [0, 1], where the model has none.
    """
    factors = np.ones(len(x))
    if weights.freshness > 0:
        age_days = x[:, INDEX["crosses:item_age_days"]]
        young = np.where(age_days >= 0, np.exp2(-np.maximum(age_days, 0) / 7), 0)
        factors *= np.clip(1 + weights.freshness * young, LOWEST, HIGHEST)
    if times_shown is not None and weights.shown < 1:
        factors *= np.clip(weights.shown ** np.maximum(times_shown - 4, 0), LOWEST, 1.0)
    if relevance is not None and weights.relevance > 0:
        factors *= np.clip(np.exp(weights.relevance * 2 * relevance / 3), LOWEST, HIGHEST)
    return factors


def hints(x: Floats, main: NDArray[np.int32], affinity: Affinities, weights: ValueWeights) -> NDArray[np.float64]:
    """What the newest signals say, in spreads, shape ``(n,)``, within +-4.

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
    """
    liked = affinity.newest_liking[main]
    first = INDEX["crosses:cosine_1w"]
    near = x[:, first : first + 3].mean(axis=1)
    hint = weights.liking * liked**0.75 + weights.nearness * near
    bounded: NDArray[np.float64] = np.clip(hint.astype(np.float64), -LARGEST_HINT, LARGEST_HINT)
    return bounded


def kept(main: NDArray[np.int32], affinity: Affinities, weights: ValueWeights) -> NDArray[np.float64]:
    """Share of its places that each candidate's kind keeps after the newest rejections, shape ``(n,)``, in [0, 1].

    Parameters
    ----------
    main
        Code of the first category, shape ``(n,)``.
    affinity
        Of the user.
    weights
        Strengths.
    """
    share: NDArray[np.float64] = (1.0 - weights.aversion) ** (affinity.newest_aversion[main].astype(np.float64) / 2)
    return share


def repetition(values: NDArray[np.float64], main: NDArray[np.int32]) -> NDArray[np.float64]:
    """How many better items of the same first category there are, shape ``(n,)``; 0 for items without one.

    Parameters
    ----------
    values
        V, shape ``(n,)``.
    main
        Code of the first category, shape ``(n,)``; 0 = none.
    """
    order = np.lexsort((-values, main))
    kinds = main[order]
    starts = np.flatnonzero(np.r_[True, kinds[1:] != kinds[:-1]]) if len(kinds) else np.empty(0, dtype=np.int64)
    within = np.arange(len(kinds)) - np.repeat(starts, np.diff(np.r_[starts, len(kinds)]))
    out = np.zeros(len(values))
    out[order] = np.where(kinds > 0, within, 0)
    return out


def fading(
    values: NDArray[np.float64], main: NDArray[np.int32], kept: NDArray[np.float64], slate: NDArray[np.int32]
) -> NDArray[np.float64]:
    """What the items of a rejected kind lose, in spreads, shape ``(n,)``, within [0, 16].

    A kind with n places in the slate that would be shown without the rejections keeps ``n x kept`` of them: its item at
    place r within the kind loses ``4 x (r + 1 - n x kept) ** 2`` where that place is beyond the kept ones. The best
    item so stays longest, a faint signal costs little, and nothing depends on how close together the model sees items.

    Parameters
    ----------
    values
        V without the rejections, shape ``(n,)``.
    main
        Code of the first category, shape ``(n,)``; 0 = none: such items lose nothing.
    kept
        Share of its places that the kind keeps, shape ``(n,)``.
    slate
        Places, in these arrays, of the greedy slate without the rejections. A kind that is not in it counts as if it
        had one item there.
    """
    lost = np.zeros(len(values))
    rejected = (kept < 1.0) & (main > 0)
    if not rejected.any():
        return lost
    had = np.maximum(np.bincount(main[slate], minlength=int(main.max()) + 1), 1)[main[rejected]]
    beyond = np.maximum(repetition(values, main)[rejected] + 1 - had * kept[rejected], 0.0)
    lost[rejected] = np.minimum(FADE * beyond**2, LARGEST_FADE)
    return lost


def spread(values: NDArray[np.float64]) -> float:
    """Standard deviation of the best 50 values, in clicks; at least 5 % of their mean size."""
    best = np.partition(values, -BEST)[-BEST:] if len(values) > BEST else values
    if not len(best):
        return 0.0
    return float(max(best.std(), LEAST_SPREAD * np.abs(best).mean()))


def value(
    p: NDArray[np.float64],
    head_weights: NDArray[np.float64],
    factors: NDArray[np.float64],
    hint: NDArray[np.float64] | float = 0.0,
    *,
    main: NDArray[np.int32] | None = None,
    diversity: float = 0.0,
) -> NDArray[np.float64]:
    """V of candidates, without fading.

    Parameters
    ----------
    p
        Head probabilities at slot 1, shape ``(n, n_heads)``.
    head_weights
        Shape ``(n_heads,)``.
    factors
        Positive, shape ``(n,)``.
    hint
        In spreads, shape ``(n,)``.
    main
        First categories, shape ``(n,)``; without them nothing repeats.
    diversity
        What each further item of one of them loses, in spreads.
    """
    plain = p @ head_weights
    ruled = np.where(plain >= 0, plain * factors, plain / factors)
    unit = spread(ruled)
    ruled = ruled + unit * np.asarray(hint)
    if main is None:
        return ruled
    return ruled - unit * np.minimum(diversity * repetition(ruled, main), LARGEST_HINT)
