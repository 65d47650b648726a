"""Bootstrap intervals of means and of paired differences; units that hang together (a user's requests) as clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from liverank.errors import ContractError


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval.

    Attributes
    ----------
    n : int
        Units (not clusters) behind it.
    """

    estimate: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """`ahead of`, `behind` or `not distinguishable from`: whether the interval leaves out 0."""
        if self.low > 0:
            return "ahead of"
        return "behind" if self.high < 0 else "not distinguishable from"

    def __str__(self) -> str:
        return f"{self.estimate:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def bootstrap(
    values: ArrayLike,
    *,
    clusters: Sequence[object] | None = None,
    n_draws: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a mean.

    Parameters
    ----------
    values : array, shape (n,)
        One number a unit.
    clusters : sequence, length n, optional
        Units with the same cluster are drawn together (ratio of sums over clusters); each unit its own where not given.
    n_draws : int
        Bootstrap draws.
    level : float
        Coverage, in (0, 1).
    seed : int
        Same seed, same interval.

    Raises
    ------
    ContractError
        No values, NaN, or lengths that differ.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
        raise ContractError("not_finite", f"a bootstrap needs finite numbers in one dimension, got shape {x.shape}")
    if clusters is not None and len(clusters) != len(x):
        raise ContractError("bad_value", f"one cluster a value: {len(x)} values, {len(clusters)} clusters")
    sums, counts = _by_cluster(x, clusters)
    rng = np.random.default_rng(seed)
    n = len(sums)
    means = np.empty(n_draws)
    for start in range(0, n_draws, 200):
        picked = rng.integers(n, size=(min(200, n_draws - start), n))
        means[start : start + len(picked)] = sums[picked].sum(axis=1) / counts[picked].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(x.mean()), float(low), float(high), len(x))


def paired(ours: ArrayLike, theirs: ArrayLike, *, clusters: Sequence[object] | None = None, seed: int = 0) -> Interval:
    """95 % interval of the mean of `ours - theirs`, unit by unit."""
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if a.shape != b.shape:
        raise ContractError("bad_value", f"pairs have one shape, got {a.shape} and {b.shape}")
    return bootstrap(a - b, clusters=clusters, seed=seed)


def _by_cluster(
    x: NDArray[np.float64], clusters: Sequence[object] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if clusters is None:
        return x, np.ones(len(x))
    index = {cluster: n for n, cluster in enumerate(dict.fromkeys(clusters))}
    codes = np.array([index[cluster] for cluster in clusters])
    counts = np.bincount(codes).astype(np.float64)
    sums = np.bincount(codes, weights=x).astype(np.float64)
    return sums, counts
