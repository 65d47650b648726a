"""Logistic posterior by Laplace: outcomes as Bernoulli draws around the base model's probabilities."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from bandits.curvature import Curvature
from bandits.errors import CorruptStatisticsError, InvalidPolicyError, InvalidStatisticsError
from bandits.partials import Partial
from bandits.posterior import RewardPosterior, phi_of, weights_of

Floats: TypeAlias = NDArray[np.float64]

_MAGIC = b"LRBL"
_VERSION = 1
# magic, version, reserved, bytes of the slope's partial, bytes of the curvature
_HEADER = struct.Struct("<4sBBII")


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

    Per head h: ``H_h = sum p_h (1 - p_h) phi phi^T`` (`Curvature`) and ``b_h = sum phi (outcome_h - p_h)``, the
    curvature and slope of the log likelihood at the base model. Both are of the same slots: the slope of a shared
    `Partial` will not do where that has counted longer.

    Parameters
    ----------
    dim, n_heads, half_life_ms : int
        As in `Partial`.
    """

    __slots__ = ("_curvature", "_slope")

    def __init__(self, dim: int, n_heads: int, half_life_ms: int = 0) -> None:
        self._slope = Partial(dim, n_heads, half_life_ms)
        self._curvature = Curvature(dim, n_heads, half_life_ms)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LogisticPartial):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]

    @property
    def dim(self) -> int:
        """Length of phi."""
        return self._slope.dim

    @property
    def n_heads(self) -> int:
        """Number of heads."""
        return self._slope.n_heads

    @property
    def n_shown(self) -> int:
        """Shown slots, never discounted."""
        return self._slope.n_shown

    @property
    def newest_ms(self) -> int:
        """Largest event time of a slot or outcome; 0 = none."""
        return self._slope.newest_ms

    def shown(self, phi: ArrayLike, p: ArrayLike, ts_ms: int = 0, *, residuals: ArrayLike | None = None) -> None:
        """Add shown slots; see `Curvature.shown`.

        Parameters
        ----------
        residuals : array_like, shape (n, n_heads), optional
            What the slots leave so far; minus p (outcome 0) where omitted. Heads whose outcomes come late leave 0.
        """
        left = -np.asarray(p, dtype=np.float64) if residuals is None else residuals
        self._curvature.shown(phi, p, ts_ms)
        self._slope.shown(phi, left, ts_ms)

    def outcome(self, phi: ArrayLike, head: int, delta: float, ts_ms: int = 0) -> None:
        """Correct one slot's outcome; see `Partial.outcome`."""
        self._slope.outcome(phi, head, delta, ts_ms)

    def merge(self, other: LogisticPartial) -> None:
        """Add another partial's sums."""
        self._slope.merge(other._slope)
        self._curvature.merge(other._curvature)

    def take_back(self, other: LogisticPartial) -> None:
        """Subtract sums that were added before; see `Partial.take_back`."""
        self._slope.take_back(other._slope)
        self._curvature.take_back(other._curvature)

    def scaled(self, factor: float) -> LogisticPartial:
        """All sums times a factor; see `Partial.scaled`."""
        twin = LogisticPartial(self.dim, self.n_heads, self._slope.half_life_ms)
        twin._slope, twin._curvature = self._slope.scaled(factor), self._curvature.scaled(factor)
        return twin

    def slope(self) -> Floats:
        """b, shape (n_heads, dim)."""
        return self._slope.statistics().b

    def curvature(self) -> Floats:
        """H, shape (n_heads, dim, dim), discounted to the instant of the slope."""
        return self._curvature.matrices(self._slope.newest_ms)

    def to_bytes(self) -> bytes:
        """Versioned bytes (docs/specs/bandit-bytes.md); 22 KB at dim 32 and 4 heads."""
        slope, curvature = self._slope.to_bytes(), self._curvature.to_bytes()
        return _HEADER.pack(_MAGIC, _VERSION, 0, len(slope), len(curvature)) + slope + curvature

    @classmethod
    def from_bytes(cls, data: bytes) -> LogisticPartial:
        """Read `to_bytes`.

        Raises
        ------
        CorruptStatisticsError
            Cut, altered, or of an unknown version.
        """
        if len(data) < _HEADER.size or data[:4] != _MAGIC:
            raise CorruptStatisticsError(f"logistic statistics begin with {_MAGIC!r}; got {len(data)} bytes")
        _, version, _, n_slope, n_curvature = _HEADER.unpack_from(data)
        if version != _VERSION or len(data) != _HEADER.size + n_slope + n_curvature:
            raise CorruptStatisticsError(
                f"logistic statistics of version {_VERSION} in {_HEADER.size + n_slope + n_curvature} bytes wanted, "
                f"got version {version} in {len(data)}"
            )
        slope = Partial.from_bytes(data[_HEADER.size :][:n_slope])
        curvature = Curvature.from_bytes(data[_HEADER.size + n_slope :])
        if (slope.dim, slope.n_heads) != (curvature.dim, curvature.n_heads):
            raise CorruptStatisticsError("slope and curvature of logistic statistics have different shapes")
        made = cls(slope.dim, slope.n_heads, slope.half_life_ms)
        made._slope, made._curvature = slope, curvature
        return made


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
    silent : bool, default False
        The same uncertainty, nothing learned.

    References
    ----------
    Chapelle and Li, "An Empirical Evaluation of Thompson Sampling", NeurIPS 2011, algorithm 3; there the
    approximation is sequential and diagonal, here one full step from the base model.
    """

    __slots__ = ("_factors", "_weights", "thetas")

    def __init__(
        self,
        statistics: LogisticPartial,
        head_weights: Sequence[float],
        prior: LogisticPrior,
        *,
        silent: bool = False,
    ) -> None:
        self._weights = weights_of(head_weights, statistics.n_heads)
        precision = statistics.curvature() + np.eye(statistics.dim) / prior.sd**2
        self._factors: Floats = np.linalg.inv(np.linalg.cholesky(precision))
        slope = np.zeros((statistics.n_heads, statistics.dim)) if silent else statistics.slope()
        self.thetas: Floats = np.einsum("hij,hik,hk->hj", self._factors, self._factors, slope)

    def bind(self, arms: Sequence[str], p_first: Floats, items: Sequence[str] = ()) -> RewardPosterior:
        """See `Learned.bind`; arms are not looked at."""
        return self.of(p_first)

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
        spread = np.matmul(self._factors, x.T)
        variance = np.einsum("hin,hin->nh", spread, spread) * (q * (1.0 - q)) ** 2
        sd: Floats = np.sqrt(variance @ self._weights**2)
        return sd

    def draws(self, phi: Floats, n_draws: int, rng: Generator) -> Floats:
        """Joint draws through the sigmoid, shape (n_draws, n)."""
        x = phi_of(phi, self._thetas.shape[1])
        drawn: Floats = np.zeros((n_draws, x.shape[0]))
        for head, weight in enumerate(self._weights):
            shifted = rng.standard_normal((n_draws, x.shape[1])) @ (self._factors[head] @ x.T)
            shifted += self._logits[:, head] + x @ self._thetas[head]
            # The sigmoid in place: 0.5 (1 + tanh(z / 2)), times the weight.
            shifted *= 0.5
            np.tanh(shifted, out=shifted)
            shifted *= 0.5 * weight
            shifted += weight * (0.5 - self._p[:, head])
            drawn += shifted
        return drawn


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result
