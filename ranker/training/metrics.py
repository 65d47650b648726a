"""How good predictions are: discrimination, calibration, and what each feature is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def auc(y: Floats, score: Floats) -> float:
    """Area under the ROC curve, ties counted half; NaN where one class is missing.

    References
    ----------
    Mann and Whitney (1947): the share of (positive, negative) pairs in the right order.
    """
    n_pos = float((y > 0).sum())
    n_neg = len(y) - n_pos
    if n_pos == 0 or n_neg == 0:
        return float("nan")
    order = np.argsort(score, kind="stable")
    ordered = np.asarray(score)[order]
    new = np.r_[True, ordered[1:] != ordered[:-1]]
    run = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    last = np.r_[first[1:], len(ordered)] - 1
    rank = (first + last)[run] / 2 + 1
    return float((rank[np.asarray(y)[order] > 0].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def log_loss(y: Floats, p: Floats) -> float:
    """Mean negative log-likelihood of 0/1 outcomes, in nats."""
    p = np.clip(np.asarray(p, dtype=np.float64), 1e-12, 1 - 1e-12)
    return float(-np.mean(np.where(np.asarray(y) > 0, np.log(p), np.log1p(-p))))


def ece(y: Floats, p: Floats, n_bins: int = 15) -> float:
    """Expected calibration error: mean |observed - predicted| over bins of equal size.

    References
    ----------
    Naeini et al. (2015), eq. 1; deviation: bins of equal mass, since probabilities here crowd near 0.
    """
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(n_bins, len(order)))
    y, p = np.asarray(y, dtype=np.float64), np.asarray(p, dtype=np.float64)
    return float(sum(len(part) * abs(y[part].mean() - p[part].mean()) for part in parts if len(part)) / max(len(y), 1))


def hit_rate(y: Floats, score: Floats, group: NDArray[np.int64], k: int = 10) -> float:
    """Share of groups whose positive is among the k best; ties count against it."""
    hits = []
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    for start, end in zip(starts, np.r_[starts[1:], len(group)], strict=True):
        own, truth = score[start:end], y[start:end] > 0
        if truth.any():
            hits.append(float((own >= own[truth].max()).sum() <= k))
    return float(np.mean(hits)) if hits else float("nan")


def permutation_worth(
    predict: Callable[[NDArray[np.float32]], Floats],
    X: NDArray[np.float32],
    y: Floats,
    columns: Sequence[int],
    seed: int = 0,
    max_rows: int = 20_000,
) -> dict[int, float]:
    """AUC lost when one column's values are shuffled between rows: what the model would miss without it.

    Parameters
    ----------
    predict : callable
        Rows -> scores.
    X, y
        Held-out rows; the newest `max_rows` are used.
    columns : sequence of int
        Which to try; one prediction each.
    """
    rng = np.random.default_rng(seed)
    X, y = X[-max_rows:].copy(), np.asarray(y)[-max_rows:]
    full = auc(y, predict(X))
    worth = {}
    for column in columns:
        kept = X[:, column].copy()
        X[:, column] = rng.permutation(kept)
        worth[column] = full - auc(y, predict(X))
        X[:, column] = kept
    return worth
