"""Intervals of an estimate: bootstrap, normal, empirical Bernstein."""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evaluation.off_policy.errors import InvalidLogError
from evaluation.off_policy.estimator import Terms, ratio

Floats: TypeAlias = NDArray[np.float64]
Method: TypeAlias = Literal["bootstrap", "normal", "bernstein"]

_CHUNK_CELLS = 2_000_000


def interval(
    terms: Terms, method: Method, level: float, rng: Generator, n_bootstrap: int = 2_000
) -> tuple[float, float]:
    """(low, high) of an estimate at a confidence level.

    Parameters
    ----------
    terms : Terms
        The estimate.
    method : {"bootstrap", "normal", "bernstein"}
        Percentile bootstrap over rows (ratios recomputed in each sample); normal with the delta method; or the
        empirical Bernstein bound, which holds at any n for rows within their observed range and is wide (not for
        self-normalised estimates).
    level : float
        In (0, 1), e.g. 0.95.
    rng : Generator
        For the bootstrap.
    n_bootstrap : int, default 2000
        Samples.

    References
    ----------
    Maurer and Pontil, "Empirical Bernstein Bounds and Sample Variance Penalization", COLT 2009, theorem 4, once for
    either side.

    Raises
    ------
    InvalidLogError
        A level outside (0, 1), or Bernstein for a self-normalised estimate.
    """
    if not 0 < level < 1:
        raise InvalidLogError(f"a level in (0, 1) wanted, got {level}")
    tail = (1.0 - level) / 2.0
    if method == "bootstrap":
        samples = bootstrap(terms, rng, n_bootstrap)
        low, high = np.quantile(samples, [tail, 1.0 - tail])
        return float(low), float(high)
    n = terms.numerator.shape[0]
    influence = terms.influence
    if method == "normal":
        half = NormalDist().inv_cdf(1.0 - tail) * float(np.sqrt((influence**2).sum() / max(n - 1, 1) / n))
        return terms.value - half, terms.value + half
    if terms.denominator is not None:
        raise InvalidLogError(
            "the Bernstein bound holds for means, not for self-normalised estimates; take normal or bootstrap"
        )
    log_term = float(np.log(2.0 / tail))
    variance = float((influence**2).sum() / max(n - 1, 1))
    span = float(influence.max() - influence.min())
    half = float(np.sqrt(2.0 * variance * log_term / n)) + 7.0 * span * log_term / (3.0 * max(n - 1, 1))
    return terms.value - half, terms.value + half


def bootstrap(terms: Terms, rng: Generator, n_bootstrap: int) -> Floats:
    """Estimates of resampled logs, shape (n_bootstrap,); rows are counted by a multinomial, in chunks of bounded
    memory.
    """
    n = terms.numerator.shape[0]
    chunk = max(1, _CHUNK_CELLS // n)
    samples = []
    for start in range(0, n_bootstrap, chunk):
        size = min(chunk, n_bootstrap - start)
        rows = rng.integers(0, n, size=(size, n)) + np.arange(size)[:, None] * n
        counts = np.bincount(rows.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        samples.append(ratio(terms.numerator, terms.denominator, counts))
    return np.concatenate(samples)
