"""What a policy knows about the residual value of candidates.

`RewardPosterior` is the role; `Posterior` is its default: linear-Gaussian, shared by all items, read from summed
statistics. `Learned` is what becomes one when it is bound to a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits.errors import InvalidPolicyError, InvalidStatisticsError
from bandits.partials import Partial, Statistics

Floats: TypeAlias = NDArray[np.float64]


class RewardPosterior(Protocol):
    """Belief about the residual value of each candidate, in clicks.

    All three methods are pure: they change neither the posterior nor their input, and the same generator state gives
    the same draws. Posteriors that need more than phi (the arm of each candidate, its head probabilities) are bound
    to it per request, e.g. `DisjointPosterior.of(arms)`, so that policies see this role only.

    Parameters
    ----------
    phi : ndarray of float64, shape (n, dim)
        Bandit features of the candidates.
    n_draws : int
        Number of draws.
    rng : numpy.random.Generator
        Source of randomness.
    """

    def mean(self, phi: Floats) -> Floats:
        """Posterior means, shape (n,)."""
        ...

    def sd(self, phi: Floats) -> Floats:
        """Posterior standard deviations, shape (n,)."""
        ...

    def draws(self, phi: Floats, n_draws: int, rng: Generator) -> Floats:
        """Joint draws, shape (n_draws, n)."""
        ...


class Learned(Protocol):
    """What was learned, before it knows whom it is asked about. Immutable and thread safe."""

    def bind(self, arms: Sequence[str], p_first: Floats, items: Sequence[str] = ()) -> RewardPosterior:
        """The belief about the candidates of one request.

        Parameters
        ----------
        arms : sequence of str
            Arm (first category) of each candidate; empty = none.
        p_first : ndarray of float64, shape (n, n_heads)
            Head probabilities of the candidates at slot 1.
        items : sequence of str
            Id of each candidate; only of those that learn items.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Hyper-parameters of a linear-Gaussian posterior.

    Attributes
    ----------
    sd : float, default 0.3
        Prior standard deviation of each coefficient of the residual value, in clicks per unit of phi.
    noise_sd : float, default 0.5
        Standard deviation of one slot's residual value, in clicks.
    """

    sd: float = 0.3
    noise_sd: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.sd < np.inf and 0 < self.noise_sd < np.inf):
            raise InvalidPolicyError(f"sd and noise_sd must be positive and finite, got {self.sd} and {self.noise_sd}")

    @property
    def ridge(self) -> float:
        """What the prior adds to the diagonal of A."""
        return (self.noise_sd / self.sd) ** 2


def weights_of(head_weights: Sequence[float] | Floats, n_heads: int) -> Floats:
    """Head weights as an array, checked.

    Raises
    ------
    InvalidStatisticsError
        Not one finite weight per head.
    """
    weights = np.asarray(head_weights, dtype=np.float64)
    if weights.shape != (n_heads,) or not bool(np.isfinite(weights).all()):
        raise InvalidStatisticsError(f"{n_heads} finite head weights wanted, got {head_weights}")
    return weights


def phi_of(phi: Floats, dim: int) -> Floats:
    """Bandit features as a float64 matrix, checked.

    Raises
    ------
    InvalidStatisticsError
        Not of shape (n, dim).
    """
    array = np.asarray(phi, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != dim:
        raise InvalidStatisticsError(f"phi of shape (n, {dim}) wanted, got {array.shape}")
    return array


class Posterior:
    """Linear-Gaussian posterior of the residual value, shared by all candidates.

    With precision ``P = A + (noise_sd / sd)^2 I`` and ``theta_h = P^-1 b_h``, the residual value of a candidate is
    Gaussian with mean ``sum_h w_h phi^T theta_h`` and variance ``noise_sd^2 phi^T P^-1 phi``. Weights are applied
    here: changing them changes the posterior at once, and to what learning with them from the start would have given.

    Immutable and thread safe. Building takes 60 us at dim 32, `mean` 2 us and 128 draws of 50 candidates 45 us.

    Parameters
    ----------
    statistics : Partial or Statistics
        The summed statistics.
    head_weights : sequence of float, length n_heads
        Value of one unit of each head, in clicks.
    prior : Prior
        Hyper-parameters.

    References
    ----------
    Agrawal and Goyal, "Thompson Sampling for Contextual Bandits with Linear Payoffs", ICML 2013, section 2.2; here
    the noise scale is a hyper-parameter instead of their v, and the statistics hold residuals of calibrated heads
    instead of rewards.

    Examples
    --------
    >>> partial = Partial(dim=1, n_heads=2)
    >>> partial.shown([[1.0]], [[0.5, -0.25]])
    >>> posterior = Posterior(partial, [1.0, -2.0], Prior(sd=1.0, noise_sd=1.0))
    >>> posterior.mean(np.ones((1, 1))).round(12).tolist()
    [0.5]
    """

    __slots__ = ("factor", "head_weights", "n_shown", "prior", "theta")

    def __init__(self, statistics: Partial | Statistics, head_weights: Sequence[float] | Floats, prior: Prior) -> None:
        sums = statistics.statistics() if isinstance(statistics, Partial) else statistics
        self.head_weights = weights_of(head_weights, sums.n_heads)
        self.prior = prior
        self.n_shown = sums.n_shown
        precision = sums.a + prior.ridge * np.eye(sums.dim)
        inverse_cholesky = np.linalg.inv(np.linalg.cholesky(precision))
        self.theta: Floats = inverse_cholesky.T @ (inverse_cholesky @ (self.head_weights @ sums.b))
        # factor^T factor is the covariance of theta.
        self.factor: Floats = prior.noise_sd * inverse_cholesky

    @property
    def dim(self) -> int:
        """Length of phi."""
        return int(self.theta.shape[0])

    def bind(self, arms: Sequence[str], p_first: Floats, items: Sequence[str] = ()) -> RewardPosterior:
        """See `Learned.bind`; the same for all candidates."""
        return self

    @property
    def covariance(self) -> Floats:
        """Covariance of the coefficients, shape (dim, dim)."""
        return self.factor.T @ self.factor

    def mean(self, phi: Floats) -> Floats:
        """Posterior means, shape (n,)."""
        mean: Floats = phi_of(phi, self.theta.shape[0]).dot(self.theta)
        return mean

    def sd(self, phi: Floats) -> Floats:
        """Posterior standard deviations, shape (n,)."""
        spread = phi_of(phi, self.dim) @ self.factor.T
        sd: Floats = np.sqrt(np.einsum("ij,ij->i", spread, spread))
        return sd

    def draws(self, phi: Floats, n_draws: int, rng: Generator) -> Floats:
        """Joint draws, shape (n_draws, n)."""
        x = phi_of(phi, self.dim)
        noise = rng.standard_normal((n_draws, self.dim))
        drawn: Floats = noise @ (self.factor @ x.T) + x @ self.theta
        return drawn
