"""Where a new arm starts: a click rate from its content, with the strength that held-out arms give it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandits.errors import InvalidStatisticsError

Floats: TypeAlias = NDArray[np.float64]

STRENGTHS = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
RIDGES = (1.0, 10.0, 100.0)
N_FOLDS = 5
_lgamma = np.frompyfunc(math.lgamma, 1, 1)


@dataclass(frozen=True)
class ContentPrior:
    """Click rates expected of arms from their content, and what the guess is worth.

    Attributes
    ----------
    base_rate : float
        Click rate of all arms together.
    strength : float
        Shown slots that a guess is worth: the strength of a Beta prior.
    weights : ndarray of float64, shape (dim + 1,)
        Intercept and coefficients in logits; all coefficients 0 where content did not help.
    gain : float
        Held-out log likelihood a shown slot that the content's guess gained over the base rate, each at its best
        strength; not above 0 means that content was not believed.
    """

    base_rate: float
    strength: float
    weights: Floats
    gain: float

    def mean(self, content: ArrayLike) -> Floats:
        """Expected click rates, shape (n,), within 20 times the base rate either way and below 1.

        Parameters
        ----------
        content : array_like, shape (n, dim)
            Content vectors or validated attributes of the arms, scaled as those that were fitted on.
        """
        x = np.asarray(content, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] + 1 != self.weights.shape[0] or not bool(np.isfinite(x).all()):
            raise InvalidStatisticsError(f"finite content of shape (n, {self.weights.shape[0] - 1}) wanted")
        rates = _sigmoid(self.weights[0] + x @ self.weights[1:])
        clipped: Floats = np.clip(rates, self.base_rate / 20.0, min(0.99, 20.0 * self.base_rate))
        return clipped


def fit_content_prior(
    content: ArrayLike, shown: ArrayLike, clicked: ArrayLike, strengths: Sequence[float] = STRENGTHS, seed: int = 0
) -> ContentPrior:
    """Fit the guess on old arms and measure its strength on arms that it has not seen.

    The guess is a ridge-penalised logistic regression of click rates on content. Arms are split into five folds; each
    fold is judged by the Beta-Bernoulli likelihood of its counts under the guess of the others. Ridge and strength are
    those with the highest held-out likelihood. The base rate alone, at its own best strength, is the rival: where the
    content's guess is not better, it is not used. So a provider whose attributes mislead costs nothing but the fit.

    Parameters
    ----------
    content : array_like, shape (n, dim)
        Content of the arms.
    shown, clicked : array_like, shape (n,)
        Counts, 0 <= clicked <= shown.
    strengths : sequence of float
        To choose from, ascending.
    seed : int
        Of the split.

    Raises
    ------
    InvalidStatisticsError
        Wrong shapes, counts that are none, fewer than 25 arms, or no click or nothing but clicks.

    References
    ----------
    Agarwal, Chen and Elango, "Spatio-Temporal Models for Estimating Click-through Rate", WWW 2009 (gamma-Poisson prior
    from content); the strength by held-out likelihood is ours.
    """
    x, n, k = (np.asarray(one, dtype=np.float64) for one in (content, shown, clicked))
    good = x.ndim == 2 and n.shape == k.shape == (x.shape[0],) and bool(np.isfinite(x).all())
    if not good or x.shape[0] < 25 or not bool(((k >= 0) & (k <= n)).all()) or not 0 < k.sum() < n.sum():
        raise InvalidStatisticsError(
            "content (n, dim), counts 0 <= clicked <= shown of shape (n,), n >= 25 and some clicks wanted"
        )
    fold = np.random.default_rng(seed).permutation(x.shape[0]) % N_FOLDS
    base_rate = float(k.sum() / n.sum())
    candidates = {}
    for ridge in (None, *RIDGES):
        guess = np.empty(x.shape[0])
        for one in range(N_FOLDS):
            rest = fold != one
            rate = float(k[rest].sum() / n[rest].sum())
            if ridge is None:
                guess[~rest] = rate
            else:
                weights = _logistic(x[rest], n[rest], k[rest], ridge)
                guess[~rest] = _sigmoid(weights[0] + x[~rest] @ weights[1:])
        guess = np.clip(guess, base_rate / 20.0, min(0.99, 20.0 * base_rate))
        for strength in strengths:
            candidates[ridge, strength] = _likelihood(guess, strength, n, k) / float(n.sum())
    plain = max((pair for pair in candidates if pair[0] is None), key=lambda pair: candidates[pair])
    best = max((pair for pair in candidates if pair[0] is not None), key=lambda pair: candidates[pair])
    gain = candidates[best] - candidates[plain]
    if gain <= 0 or best[0] is None:
        weights = np.zeros(x.shape[1] + 1)
        weights[0] = math.log(base_rate / (1.0 - base_rate))
        return ContentPrior(base_rate, plain[1], weights, gain)
    return ContentPrior(base_rate, best[1], _logistic(x, n, k, best[0]), gain)


def _likelihood(mean: Floats, strength: float, n: Floats, k: Floats) -> float:
    """Log likelihood of counts whose rates are Beta(strength mean, strength (1 - mean)), without the constant."""
    a, b = strength * mean, strength * (1.0 - mean)
    terms = _log_beta(a + k, b + n - k) - _log_beta(a, b)
    return float(terms.sum())


def _log_beta(a: Floats, b: Floats) -> Floats:
    return np.asarray(_lgamma(a) + _lgamma(b) - _lgamma(a + b), dtype=np.float64)


def _logistic(x: Floats, n: Floats, k: Floats, ridge: float) -> Floats:
    """Intercept and coefficients of binomial counts by Newton's method, coefficients ridge-penalised."""
    design = np.concatenate([np.ones((x.shape[0], 1)), x], axis=1)
    penalty = np.full(design.shape[1], ridge)
    penalty[0] = 1e-6
    weights = np.zeros(design.shape[1])
    rate = float(k.sum() / n.sum())
    weights[0] = math.log(rate / (1.0 - rate))
    for _ in range(20):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (k - n * p) - penalty * weights
        hessian = (design * (n * p * (1.0 - p))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        weights = weights + step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-8:
            break
    return weights


def _sigmoid(z: Floats) -> Floats:
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * z))
    return result
