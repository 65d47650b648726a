"""Policies of the simulated past: one whose propensities are exact, and the yardsticks (oracle, popular)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.simulator.population import User
from evaluation.simulator.utility import Utility

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def plackett_luce(scores: Floats, k: int, floor: float, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Draw k of n without replacement; each draw is softmax(scores) over what is left, mixed with a uniform floor.

    Parameters
    ----------
    scores : float array, shape (n,)
    k : int
        At most n.
    floor : float
        Share of a slot's probability that is spread uniformly over what is left, in [0, 1].

    Returns
    -------
    rows : int array, shape (k,)
        In drawing order.
    propensity : float array, shape (k,)
        Exact: P(this one | those before it).
    """
    weights = np.exp(scores - scores.max())
    left = np.ones(len(scores), dtype=bool)
    rows = np.empty(k, dtype=np.int64)
    propensity = np.empty(k)
    for slot in range(k):
        total = float(weights[left].sum())
        law = np.where(left, (1 - floor) * weights / total + floor / (len(scores) - slot), 0.0)
        cumulative = np.cumsum(law)
        row = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        rows[slot], propensity[slot] = row, law[row]
        left[row] = False
    return rows, propensity


@dataclass
class LoggingPolicy:
    """What ran before liverank did: popular things, kinds that the user clicked, a little of everything, nothing twice.

    Scores depend on past clicks only, so the policy is known and its propensities are exact.

    Parameters
    ----------
    half_life_ms : float
        Of a click's worth for popularity.
    floor : float
        Uniform share of each slot.
    """

    utility: Utility
    half_life_ms: float = 5 * 86_400_000.0
    floor: float = 0.05
    popular_weight: float = 1.6
    personal_weight: float = 1.2

    def __post_init__(self) -> None:
        cat = self.utility.catalogue
        self._clicks = np.zeros(len(cat.items))
        self._clock_ms = 0
        self._affinity: dict[str, Floats] = {}
        self._opened: dict[str, set[int]] = {}

    def draw(self, user: User, at_ms: int, k: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
        """A slate for a user: rows of the catalogue and their propensities."""
        self._decay(at_ms)
        cat = self.utility.catalogue
        offered = cat.live(at_ms)
        offered[list(self._opened.get(user.user_id, ()))] = False
        if int(offered.sum()) < k:
            offered = cat.live(at_ms)  # who has opened nearly everything is shown it again
        live = np.flatnonzero(offered)
        scores = self.popular_weight * np.log1p(self._clicks[live])
        affinity = self._affinity.get(user.user_id)
        if affinity is not None:
            scores = scores + self.personal_weight * np.log1p(affinity[cat.kind[live]])
        drawn, propensity = plackett_luce(scores, k, self.floor, rng)
        return live[drawn], propensity

    def learn(self, user: User, rows: Rows, at_ms: int) -> None:
        """The user clicked these."""
        self._decay(at_ms)
        cat = self.utility.catalogue
        affinity = self._affinity.setdefault(user.user_id, np.zeros(len(cat.kind_centres)))
        affinity *= 0.9
        for row in rows:
            self._clicks[row] += 1.0
            self._opened.setdefault(user.user_id, set()).add(int(row))
            affinity[cat.kind[row]] += 1.0

    def _decay(self, at_ms: int) -> None:
        if at_ms > self._clock_ms:
            self._clicks *= 0.5 ** ((at_ms - self._clock_ms) / self.half_life_ms)
            self._clock_ms = at_ms


def best_rows(p_click: Floats, rows: Rows, k: int) -> Rows:
    """The k of these rows with the highest probability, best first."""
    best: Rows = rows[np.argsort(-p_click, kind="stable")[:k]]
    return best
