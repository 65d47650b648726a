"""Thompson-sampled retrieval from many Beta arms: the best of one joint draw, without drawing all of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits.errors import InvalidStatisticsError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

_PILOT_SEED = 20_261_121


class BetaProposer:
    """The `m` arms that rank first in one joint draw of independent Beta posteriors, exactly.

    Only arms that can come near the top are drawn. For a level t an arm of mean mu = alpha / (alpha + beta) exceeds it
    with a probability of at most ``c = (t / mu)^alpha ((1 - t) / (1 - mu))^beta`` (Chernoff; 1 where mu >= t). One
    uniform number u an arm decides: where ``u >= c`` the arm lies below t. Else its two gamma variables are drawn from
    the law that is tilted towards t,

        G_a = Gamma(alpha) t / mu,   G_b = Gamma(beta) (1 - t) / (1 - mu),   D = (1 - t) G_a - t G_b,

    and kept if ``D > 0`` and ``u < c exp(-s D)``, ``s = (t - mu) / (t (1 - t))``: c exp(-s D) is the likelihood ratio
    of the plain law to the tilted one, so what is kept are exactly the draws above t, each with its own law. Should
    fewer than m lie above t, the rest is drawn plainly on the condition that it lies below.

    Immutable and thread safe; a function of counts and generator. Made once per refresh of the counts (3 ms for
    10,000 arms), then about 110 us a draw of 100 out of 10,000, against 450 for drawing all.

    Parameters
    ----------
    arms : sequence of str, length n
        Names.
    alpha, beta : ndarray of float64, shape (n,)
        Parameters, positive.
    m : int
        Arms wanted a draw, at least 1.

    Raises
    ------
    InvalidStatisticsError
        Wrong shapes, parameters that are not positive, or m below 1.
    """

    __slots__ = ("_alpha", "_arms", "_beta", "_ceiling", "_m", "_slope", "_stretch_a", "_stretch_b", "level")

    def __init__(self, arms: Sequence[str], alpha: Floats, beta: Floats, m: int) -> None:
        n = len(arms)
        if alpha.shape != (n,) or beta.shape != (n,) or not (alpha.min(initial=1.0) > 0 and beta.min(initial=1.0) > 0):
            raise InvalidStatisticsError(f"positive alpha and beta of shape ({n},) wanted")
        if m < 1:
            raise InvalidStatisticsError(f"m >= 1 wanted, got {m}")
        self._arms = tuple(arms)
        self._alpha, self._beta, self._m = alpha.copy(), beta.copy(), m
        # About m + 6 sqrt(m) arms above the level, so that fewer than m is rare; any level gives the same law.
        above = math.ceil(m + 6.0 * math.sqrt(m) + 5.0)
        level = 0.0
        if above < n:
            pilot = np.random.default_rng(_PILOT_SEED).beta(alpha, beta, size=(2, n))
            level = float(np.partition(pilot, n - above, axis=1)[:, n - above].mean())
        self._tilt(level)

    @classmethod
    def at_level(cls, arms: Sequence[str], alpha: Floats, beta: Floats, m: int, level: float) -> BetaProposer:
        """The same with a level of one's own in (0, 1): same law, another cost."""
        made = cls(arms, alpha, beta, m)
        made._tilt(level)
        return made

    def _tilt(self, level: float) -> None:
        self.level = min(max(level, 1e-9), 1.0 - 1e-9) if level else 0.0
        if self.level:
            mean = self._alpha / (self._alpha + self._beta)
            tilted = mean < self.level
            self._stretch_a: Floats = np.where(tilted, self.level / mean, 1.0)
            self._stretch_b: Floats = np.where(tilted, (1.0 - self.level) / (1.0 - mean), 1.0)
            log_ceiling = self._alpha * np.log(self._stretch_a) + self._beta * np.log(self._stretch_b)
            self._ceiling: Floats = np.exp(np.minimum(log_ceiling, 0.0))
            self._slope: Floats = np.where(tilted, (self.level - mean) / (self.level * (1.0 - self.level)), 0.0)

    def __len__(self) -> int:
        return len(self._arms)

    def draw(self, rng: Generator) -> list[str]:
        """The arms that rank first in one joint draw, best first; at most m."""
        arms = self._arms
        return [arms[place] for place in self.draw_places(rng)[0].tolist()]

    def draw_places(self, rng: Generator) -> tuple[Ints, Floats]:
        """As `draw`: places of these arms in the sequence that was given, and their drawn rates, both best first."""
        if not self._arms:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        if not self.level:
            return self._best(np.arange(len(self._arms)), rng.beta(self._alpha, self._beta))
        u = rng.random(len(self._arms))
        rows = np.flatnonzero(u < self._ceiling)
        a = rng.standard_gamma(self._alpha[rows]) * self._stretch_a[rows]
        b = rng.standard_gamma(self._beta[rows]) * self._stretch_b[rows]
        ahead = (1.0 - self.level) * a - self.level * b
        kept = (ahead > 0.0) & (u[rows] < self._ceiling[rows] * np.exp(-self._slope[rows] * np.maximum(ahead, 0.0)))
        found, values = rows[kept], (a[kept] / (a[kept] + b[kept]))
        if found.shape[0] < self._m:
            rest = np.setdiff1d(np.arange(len(self._arms)), found, assume_unique=True)
            found, values = np.concatenate([found, rest]), np.concatenate([values, self._below(rest, rng)])
        return self._best(found, values)

    def _below(self, rows: Ints, rng: Generator) -> Floats:
        """Draws of arms on the condition that they do not exceed the level."""
        values = rng.beta(self._alpha[rows], self._beta[rows])
        while (again := np.flatnonzero(values > self.level)).shape[0]:
            values[again] = rng.beta(self._alpha[rows[again]], self._beta[rows[again]])
        return values

    def _best(self, rows: Ints, values: Floats) -> tuple[Ints, Floats]:
        m = min(self._m, rows.shape[0])
        top = np.argpartition(values, rows.shape[0] - m)[rows.shape[0] - m :]
        top = top[np.argsort(-values[top], kind="stable")]
        return rows[top], values[top]
