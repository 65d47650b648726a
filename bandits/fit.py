"""Hyper-parameters of the posterior from held-out residuals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandits.errors import InvalidStatisticsError
from bandits.partials import Partial, Statistics, on_phi_grid
from bandits.posterior import Posterior, Prior, weights_of

Floats: TypeAlias = NDArray[np.float64]

DISCOUNTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
GRID = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def fit_prior(
    learned: Partial | Statistics,
    phi: ArrayLike,
    residuals: ArrayLike,
    head_weights: Sequence[float],
    grid: Sequence[float] = GRID,
) -> Prior:
    """The prior under which held-out residuals are most likely, given what was learned from earlier slots.

    The noise sd is that of the held-out residual value; the prior sd is the one of the grid with the highest Gaussian
    predictive density, the smaller one on a tie.

    Parameters
    ----------
    learned : Partial or Statistics
        Statistics of earlier slots.
    phi : array_like, shape (n, dim)
        Bandit features of later slots.
    residuals : array_like, shape (n, n_heads)
        Their final residuals.
    head_weights : sequence of float, length n_heads
        Value of one unit of each head, in clicks.
    grid : sequence of float
        Prior sds to try, ascending.

    Raises
    ------
    InvalidStatisticsError
        Wrong shapes, fewer than 100 slots, or residuals without any variance.
    """
    x, value = _held_out(phi, residuals, head_weights)
    noise_sd = float(value.std())
    if not noise_sd > 0:
        raise InvalidStatisticsError("held-out residuals are all alike; nothing can be fitted on them")

    def density(sd: float) -> float:
        return _density(Posterior(learned, head_weights, Prior(sd=sd, noise_sd=noise_sd)), x, value)

    densities = [density(sd) for sd in grid]
    return Prior(sd=grid[int(np.argmax(densities))], noise_sd=noise_sd)


def fit_discount(
    rescored: Partial,
    phi: ArrayLike,
    residuals: ArrayLike,
    head_weights: Sequence[float],
    prior: Prior,
    factors: Sequence[float] = DISCOUNTS,
) -> float:
    """How much of the re-scored statistics a new model starts with: the factor for `Partial.scaled`.

    The one under which held-out residuals of the new model are most likely; the smaller one on a tie, so that
    statistics which say nothing are dropped.

    Parameters
    ----------
    rescored : Partial
        Statistics of recent slots with the new model's own out-of-time probabilities.
    phi : array_like, shape (n, dim)
        Bandit features of later, held-out slots.
    residuals : array_like, shape (n, n_heads)
        Their residuals under the new model.
    head_weights : sequence of float, length n_heads
        Value of one unit of each head, in clicks.
    prior : Prior
        Hyper-parameters, e.g. from `fit_prior`.
    factors : sequence of float
        To try, ascending, each in [0, 1].

    Raises
    ------
    InvalidStatisticsError
        Wrong shapes, fewer than 100 slots, or a factor outside [0, 1].
    """
    x, value = _held_out(phi, residuals, head_weights)
    densities = [_density(Posterior(rescored.scaled(factor), head_weights, prior), x, value) for factor in factors]
    return float(factors[int(np.argmax(densities))])


def _held_out(phi: ArrayLike, residuals: ArrayLike, head_weights: Sequence[float]) -> tuple[Floats, Floats]:
    """(phi on its grid, residual values), checked."""
    x, e = on_phi_grid(phi), np.asarray(residuals, dtype=np.float64)
    if x.ndim != 2 or e.ndim != 2 or x.shape[0] != e.shape[0] or x.shape[0] < 100:
        raise InvalidStatisticsError(
            f"phi (n, dim) and residuals (n, n_heads), n >= 100, wanted; got {x.shape} and {e.shape}"
        )
    value: Floats = e @ weights_of(head_weights, e.shape[1])
    return x, value


def _density(posterior: Posterior, x: Floats, value: Floats) -> float:
    """Mean Gaussian predictive log density of residual values, without the constant."""
    variance = posterior.sd(x) ** 2 + posterior.prior.noise_sd**2
    return float((-0.5 * (value - posterior.mean(x)) ** 2 / variance - 0.5 * np.log(variance)).mean())
