"""Ranking metrics of one list, and of all lists together.

A list is item ids, best first, without repeats. Relevance is a set of ids (binary) or a map to gains >= 0. If nothing
is relevant a metric is not defined and raises: the caller decides what to leave out.

References
----------
NDCG: Jarvelin and Kekalainen 2002, with gain as given (not 2**gain - 1) and discount 1 / log2(1 + rank).
MAP: average precision at K is divided by min(K, number of relevant items).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from liverank.errors import ContractError

Relevant = Collection[str] | Mapping[str, float]


def ndcg_at(ranked: Sequence[str], relevant: Relevant, k: int) -> float:
    """Discounted gain of the first k over that of the best possible order; in [0, 1].

    Examples
    --------
    >>> round(ndcg_at(["a", "b", "c"], {"b"}, 3), 4)
    0.6309
    """
    gains = _gains(relevant, k)
    best = sorted(gains.values(), reverse=True)[:k]
    return _discounted(gains.get(item, 0.0) for item in _cut(ranked, k)) / _discounted(best)


def recall_at(ranked: Sequence[str], relevant: Relevant, k: int) -> float:
    """Share of the relevant items that are among the first k; in [0, 1]."""
    gains = _gains(relevant, k)
    return sum(item in gains for item in _cut(ranked, k)) / len(gains)


def reciprocal_rank_at(ranked: Sequence[str], relevant: Relevant, k: int) -> float:
    """1 / rank of the first relevant item; 0 where none is among the first k. Its mean over lists is MRR."""
    gains = _gains(relevant, k)
    return next((1.0 / rank for rank, item in enumerate(_cut(ranked, k), 1) if item in gains), 0.0)


def average_precision_at(ranked: Sequence[str], relevant: Relevant, k: int) -> float:
    """Mean of the precisions at the ranks of relevant items. Its mean over lists is MAP."""
    gains = _gains(relevant, k)
    hits, total = 0, 0.0
    for rank, item in enumerate(_cut(ranked, k), 1):
        if item in gains:
            hits += 1
            total += hits / rank
    return total / min(k, len(gains))


def coverage(lists: Iterable[Sequence[str]], n_items: int) -> float:
    """Share of the catalogue that appears in at least one list."""
    if n_items < 1:
        raise ContractError("bad_value", f"n_items is at least 1, got {n_items}")
    return len({item for ranked in lists for item in ranked}) / n_items


def gini(counts: ArrayLike) -> float:
    """Inequality of how often items are shown, over all items given: 0 all alike, towards 1 one has everything.

    Examples
    --------
    >>> gini([1, 1, 1, 1]), gini([0, 0, 0, 4])
    (0.0, 0.75)
    """
    x = np.sort(np.asarray(counts, dtype=np.float64))
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all() or x[0] < 0 or x.sum() == 0:
        raise ContractError("bad_value", "gini needs counts >= 0, at least one above 0, in one dimension")
    n = len(x)
    return float((2 * np.arange(1, n + 1) - n - 1) @ x / (n * x.sum()))


def _gains(relevant: Relevant, k: int) -> dict[str, float]:
    if k < 1:
        raise ContractError("bad_value", f"k is at least 1, got {k}")
    given = relevant if isinstance(relevant, Mapping) else dict.fromkeys(relevant, 1.0)
    gains = {item: float(gain) for item, gain in given.items() if gain > 0}
    if not gains or not all(math.isfinite(gain) for gain in gains.values()):
        raise ContractError("bad_value", "a metric needs at least one relevant item with a finite gain")
    return gains


def _cut(ranked: Sequence[str], k: int) -> Sequence[str]:
    first = ranked[:k]
    if len(set(first)) != len(first):
        raise ContractError("bad_value", "a ranked list holds an item once")
    return first


def _discounted(gains: Iterable[float]) -> float:
    return sum(gain / math.log2(1 + rank) for rank, gain in enumerate(gains, 1))
