"""Logistic posterior by Laplace: outcomes as Bernoulli draws around the base model's probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from bandits.errors import InvalidPolicyError, InvalidStatisticsError
from bandits.partials import Partial
from bandits.posterior import phi_of, weights_of

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LogisticPrior:
    """Hyper-parameter of a logistic posterior.

    Attributes
    ----------
    sd : float, default 0.5
        Prior standard deviation of each coefficient, in logits per unit of phi.
    """

    sd: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sd < np.inf:
            raise InvalidPolicyError(f"sd must be positive and finite, got {self.sd}")


class LogisticPartial:
    """Additive statistics of the logistic model, one partition's.

    Per head h: ``H_h = sum p_h (1 - p_h) phi phi^T`` and ``b_h = sum phi (outcome_h - p_h)``, the curvature and slope
    of the log likelihood at the base model. Kept as one `Partial` a head, so sums are exact and order-free to the
    grid of sqrt(p (1 - p)) phi.

    Parameters
    ----------
    dim, n_heads, half_life_ms : int
        As in `Partial`.
    """

    __slots__ = ("_curvature", "_slope")

    def __init__(self, dim: int, n_heads: int, half_life_ms: int = 0) -> None:
        self._slope = Partial(dim, n_heads, half_life_ms)
        self._curvature = [Partial(dim, 1, half_life_ms) for _ in range(n_heads)]

    @property
    def dim(self) -> int:
        """Length of phi."""
        return self._slope.dim

    @property
    def n_heads(self) -> int:
        """Number of heads."""
        return self._slope.n_heads

    def shown(self, phi: ArrayLike, p: ArrayLike, ts_ms: int = 0) -> None:
        """Add shown slots, outcome 0 so far.

        Parameters
        ----------
        phi : array_like, shape (n, dim)
            Bandit features.
        p : array_like, shape (n, n_heads)
            Head probabilities at the slot shown, each in [0, 1].
        ts_ms : int, default 0
            Event time of the exposure.

        Raises
        ------
        InvalidStatisticsError
            Wrong shape, not finite or not a probability. Nothing was added.
        """
        probabilities = np.asarray(p, dtype=np.float64)
        features = np.asarray(phi, dtype=np.float64)
        if probabilities.ndim != 2 or not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
            raise InvalidStatisticsError(f"p of shape (n, {self.n_heads}) in [0, 1] wanted; nothing was added")
        self._slope.shown(features, -probabilities, ts_ms)
        for head, partial in enumerate(self._curvature):
            root = np.sqrt(probabilities[:, head] * (1.0 - probabilities[:, head]))
            partial.shown(features * root[:, None], np.zeros((features.shape[0], 1)), ts_ms)

    def outcome(self, phi: ArrayLike, head: int, delta: float, ts_ms: int = 0) -> None:
        """Correct one slot's outcome; see `Partial.outcome`."""
        self._slope.outcome(phi, head, delta, ts_ms)

    def merge(self, other: LogisticPartial) -> None:
        """Add another partial's sums."""
        self._slope.merge(other._slope)
        for mine, theirs in zip(self._curvature, other._curvature, strict=True):
            mine.merge(theirs)

    def slope(self) -> Floats:
        """b, shape (n_heads, dim)."""
        return self._slope.statistics().b

    def curvature(self) -> Floats:
        """H, shape (n_heads, dim, dim), discounted to the instant of the slope."""
        instant = self._slope.newest_ms
        return np.stack([partial.statistics(instant).a for partial in self._curvature])


class LogisticPosterior:
    """P(outcome_h) = sigmoid(logit p_h + phi^T theta_h), with a Gaussian posterior over each head's theta.

    The Laplace approximation is taken at the base model (theta = 0) and solved by one Newton step, because only then
    are the statistics additive: ``theta_h ~ N(P_h^-1 b_h, P_h^-1)``, ``P_h = H_h + I / sd^2``. It is exact to second
    order in theta; when the base model is retrained, its residuals and with them the error shrink.

    Immutable and thread safe; bind it to a request's head probabilities with `of`.

    Parameters
    ----------
    statistics : LogisticPartial
        The summed statistics.
    head_weights : sequence of float, length n_heads
        Value of one unit of each head, in clicks.
    prior : LogisticPrior
        Hyper-parameter.

    References
    ----------
    Chapelle and Li, "An Empirical Evaluation of Thompson Sampling", NeurIPS 2011, algorithm 3; there the
    approximation is sequential and diagonal, here one full step from the base model.
    """

    __slots__ = ("_factors", "_weights", "thetas")

    def __init__(self, statistics: LogisticPartial, head_weights: Sequence[float], prior: LogisticPrior) -> None:
        self._weights = weights_of(head_weights, statistics.n_heads)
        precision = statistics.curvature() + np.eye(statistics.dim) / prior.sd**2
        self._factors: Floats = np.linalg.inv(np.linalg.cholesky(precision))
        self.thetas: Floats = np.einsum("hij,hik,hk->hj", self._factors, self._factors, statistics.slope())

    def of(self, p_first: ArrayLike) -> BoundLogistic:
        """The posterior of one request.

        Parameters
        ----------
        p_first : array_like, shape (n, n_heads)
            Head probabilities of the candidates at slot 1.
        """
        p = np.clip(np.asarray(p_first, dtype=np.float64), 1e-9, 1 - 1e-9)
        if p.ndim != 2 or p.shape[1] != self._weights.shape[0] or not bool(np.isfinite(p).all()):
            raise InvalidStatisticsError(f"finite p_first of shape (n, {self._weights.shape[0]}) wanted, got {p.shape}")
        return BoundLogistic(self.thetas, self._factors, self._weights, p)


class BoundLogistic:
    """`LogisticPosterior` bound to the head probabilities of a request; made by `LogisticPosterior.of`."""

    __slots__ = ("_factors", "_logits", "_p", "_thetas", "_weights")

    def __init__(self, thetas: Floats, factors: Floats, weights: Floats, p: Floats) -> None:
        self._thetas = thetas
        self._factors = factors
        self._weights = weights
        self._p = p
        self._logits = np.log(p / (1.0 - p))

    def mean(self, phi: Floats) -> Floats:
        """Residual value at the posterior mode, shape (n,)."""
        shifted = self._logits + phi_of(phi, self._thetas.shape[1]) @ self._thetas.T
        mean: Floats = (_sigmoid(shifted) - self._p) @ self._weights
        return mean

    def sd(self, phi: Floats) -> Floats:
        """Standard deviations by the delta method, shape (n,)."""
        x = phi_of(phi, self._thetas.shape[1])
        q = _sigmoid(self._logits + x @ self._thetas.T)
        spread = np.einsum("hij,nj->nhi", self._factors, x)
        variance = np.einsum("nhi,nhi->nh", spread, spread) * (q * (1.0 - q)) ** 2
        sd: Floats = np.sqrt(variance @ self._weights**2)
        return sd

    def draws(self, phi: Floats, n_draws: int, rng: Generator) -> Floats:
        """Joint draws through the sigmoid, shape (n_draws, n)."""
        x = phi_of(phi, self._thetas.shape[1])
        drawn: Floats = np.zeros((n_draws, x.shape[0]))
        for head, weight in enumerate(self._weights):
            noise = rng.standard_normal((n_draws, x.shape[1]))
            shift = noise @ (self._factors[head] @ x.T) + x @ self._thetas[head]
            drawn += weight * (_sigmoid(self._logits[:, head] + shift) - self._p[:, head])
        return drawn


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result
