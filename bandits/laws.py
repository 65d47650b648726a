"""Laws: how likely each candidate is to be placed next, given which are feasible.

A policy turns one request into a law (all its randomness is drawn there); the slate draw asks the law once a slot. A
law answers with weights, not probabilities: the draw divides by their sum, mixes in the floor and applies the cap.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


class Law(Protocol):
    """Placement weights of one request.

    A law may keep what the last answer cost (it is used by one request only), but its answer is a function of
    `feasible` alone.
    """

    def weights(self, feasible: Bools) -> Floats:
        """Weights of the next placement.

        Parameters
        ----------
        feasible : ndarray of bool, shape (n,)
            Candidates that may be placed next; at least one. Not kept, not changed.

        Returns
        -------
        ndarray of float64, shape (n,)
            Non-negative, 0 where not feasible; all 0 means uniform over the feasible set. The caller may keep it, but
            not change it.
        """
        ...


class StaticLaw:
    """Fixed weights, renormalised over what is feasible: Plackett-Luce, or a pmf that a library gave."""

    __slots__ = ("_weights",)

    def __init__(self, weights: Floats) -> None:
        self._weights = weights

    def weights(self, feasible: Bools) -> Floats:
        """See `Law.weights`; 0.5 us."""
        return self._weights * feasible


class ArgmaxLaw:
    """All weight on the feasible candidate with the highest score (the first one on a tie)."""

    __slots__ = ("_scores",)

    def __init__(self, scores: Floats) -> None:
        self._scores = scores

    def weights(self, feasible: Bools) -> Floats:
        """See `Law.weights`; 3 us."""
        weights = np.zeros(self._scores.shape[0])
        weights[np.where(feasible, self._scores, -np.inf).argmax()] = 1.0
        return weights


def mix_uniform(weights: Floats, feasible: Bools, share: float) -> Floats:
    """Probabilities: weights divided by their sum, with a share of uniform over the feasible set mixed in; shape
    (n,).
    """
    total = weights.sum()
    if total == 0.0:
        share = 1.0
    mixed: Floats = feasible * (share / np.count_nonzero(feasible))
    if share < 1.0:
        mixed += weights * ((1.0 - share) / total)
    return mixed


class MixedLaw:
    """A share of uniform over the feasible set, the rest from another law."""

    __slots__ = ("_law", "_share")

    def __init__(self, law: Law, share: float) -> None:
        self._law = law
        self._share = share

    def weights(self, feasible: Bools) -> Floats:
        """See `Law.weights`."""
        weights = self._law.weights(feasible)
        mixed: Floats = weights * ((1.0 - self._share) / weights.sum()) + feasible * (
            self._share / np.count_nonzero(feasible)
        )
        return mixed


class VoteLaw:
    """Vote counts: how many draws rank each feasible candidate first.

    Only draws whose winner left are looked at again; where a candidate comes back (a rule that blocks for one slot)
    all are.

    Parameters
    ----------
    scores : ndarray of float64, shape (n_draws, n)
        One row a posterior draw; kept, not changed.
    """

    __slots__ = ("_alive", "_scores", "_winners")

    def __init__(self, scores: Floats) -> None:
        self._scores = scores
        self._alive: Bools = np.ones(scores.shape[1], dtype=np.bool_)
        self._winners = scores.argmax(axis=1)

    def weights(self, feasible: Bools) -> Floats:
        """See `Law.weights`; 2-6 us for 128 draws of 50 candidates."""
        if (feasible > self._alive).any():
            # Someone came back: every draw may have a new winner.
            stale = np.arange(self._winners.shape[0])
        else:
            stale = (~feasible[self._winners]).nonzero()[0]
        self._alive = feasible.copy()
        if stale.shape[0]:
            scores = self._scores[stale]
            scores[:, ~feasible] = -np.inf
            self._winners[stale] = scores.argmax(axis=1)
        return np.bincount(self._winners, minlength=feasible.shape[0]).astype(np.float64)


class TwoLevelLaw:
    """Votes for arms, then votes within each arm: the product of both shares.

    Parameters
    ----------
    scores : ndarray of float64, shape (n_draws, n)
        One row a posterior draw; kept, not changed.
    arms : ndarray of int64, shape (n,)
        Arm of each candidate.
    top : int
        Candidates whose mean speaks for their arm in a draw.
    """

    __slots__ = ("_arm_of", "_inner", "_last", "_members", "_top", "_worth")

    def __init__(self, scores: Floats, arms: NDArray[np.int64], top: int) -> None:
        self._top = top
        names, self._arm_of = np.unique(arms, return_inverse=True)
        grouped = [np.flatnonzero(self._arm_of == arm) for arm in range(len(names))]
        self._members = [(places, scores[:, places]) for places in grouped]
        self._worth: Floats = np.full((scores.shape[0], len(self._members)), -np.inf)
        self._inner: Floats = np.zeros(scores.shape[1])
        self._last: Bools | None = None

    def weights(self, feasible: Bools) -> Floats:
        """See `Law.weights`; arms whose feasible candidates did not change are not looked at again."""
        last = self._last
        everyone = range(len(self._members))
        for arm in everyone if last is None else sorted(set(self._arm_of[feasible != last].tolist())):
            places, scores = self._members[arm]
            here = feasible[places]
            if here.all():
                self._look(arm, places, scores)
            else:
                self._look(arm, places[here], scores[:, here])
                self._inner[places[~here]] = 0.0
        self._last = feasible.copy()
        winners = np.bincount(self._worth.argmax(axis=1), minlength=len(self._members))
        weights: Floats = winners[self._arm_of] * self._inner
        return weights

    def _look(self, arm: int, places: NDArray[np.int64], scores: Floats) -> None:
        n_draws, n = scores.shape
        if not n:
            self._worth[:, arm] = -np.inf
            return
        best = scores if n <= self._top else np.partition(scores, n - self._top, axis=1)[:, n - self._top :]
        self._worth[:, arm] = np.add.reduce(best, axis=1) / best.shape[1]
        self._inner[places] = np.bincount(scores.argmax(axis=1), minlength=n) / n_draws
