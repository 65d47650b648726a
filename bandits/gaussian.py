"""Joint Gaussian draws over the candidates of a request."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_JITTER = 1e-10


def joint_draws(mean: Floats, covariance: Floats, n_draws: int, rng: Generator) -> Floats:
    """Draws of scores that are correlated: candidates of one arm move together.

    Cheaper than drawing every arm's coefficients where there are fewer candidates than coefficients, and the same
    law. The diagonal is raised by 1e-10 of its largest entry, so that two candidates with equal features are no
    obstacle.

    Parameters
    ----------
    mean : ndarray of float64, shape (n,)
        Means of the scores.
    covariance : ndarray of float64, shape (n, n)
        Their covariance, positive semi-definite. Overwritten.
    n_draws : int
        Number of draws.
    rng : Generator
        Source of randomness: n_draws * n normals are taken.

    Returns
    -------
    ndarray of float64, shape (n_draws, n)
    """
    diagonal = np.einsum("ii->i", covariance)
    diagonal += _JITTER * diagonal.max(initial=0.0) + np.finfo(np.float64).tiny
    noise = rng.standard_normal((n_draws, mean.shape[0]))
    drawn: Floats = noise @ np.linalg.cholesky(covariance).T + mean
    return drawn
