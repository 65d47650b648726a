"""Laws: how likely each candidate is to be placed next, given which are feasible.

A policy turns one request into a law (all its randomness is drawn there); the slate draw asks the law once a slot. A
law answers with weights, not probabilities: the draw divides by their sum, mixes in the floor and applies the cap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bandits.votes import arm_votes, votes

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


class ShrinkingLaw(Law, Protocol):
    """A law that follows cheaper where candidates only leave, as they do under most rules (`feasible.Shrinking`).

    The weights are those of `Law.weights`, as a list: of some 50 numbers Python is faster than numpy.
    """

    def begin(self, feasible: Bools) -> list[float]:
        """Weights of the first placement, as `Law.weights`. The list belongs to the law; the caller only reads it."""
        ...

    def drop(self, places: Sequence[int]) -> list[float]:
        """Weights after some of the candidates left that were feasible until now.

        Parameters
        ----------
        places : sequence of int
            Each once.
        """
        ...


class StaticLaw:
    """Fixed weights, renormalised over what is feasible: Plackett-Luce, or a pmf that a library gave."""

    __slots__ = ("_live", "_weights")

    def __init__(self, weights: Floats) -> None:
        self._weights = weights
        self._live: list[float] = []

    def weights(self, feasible: Bools) -> Floats:
        """See `Law.weights`; 0.5 us."""
        return self._weights * feasible

    def begin(self, feasible: Bools) -> list[float]:
        """See `ShrinkingLaw.begin`."""
        self._live = (self._weights * feasible).tolist()
        return self._live

    def drop(self, places: Sequence[int]) -> list[float]:
        """See `ShrinkingLaw.drop`."""
        for place in places:
            self._live[place] = 0.0
        return self._live


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

    Parameters
    ----------
    scores : ndarray of float64, shape (n_draws, n)
        One row a posterior draw; kept, not changed.
    """

    __slots__ = ("_scores", "_votes")

    def __init__(self, scores: Floats) -> None:
        self._scores = scores

    def weights(self, feasible: Bools) -> Floats:
        """See `Law.weights`; 10 us for 128 draws of 50 candidates."""
        return np.array(self.begin(feasible), dtype=np.float64)

    def begin(self, feasible: Bools) -> list[float]:
        """See `ShrinkingLaw.begin`; 8 us."""
        self._votes = votes(self._scores, feasible)
        return self._votes.weights

    def drop(self, places: Sequence[int]) -> list[float]:
        """See `ShrinkingLaw.drop`; 2 us."""
        self._votes.drop(places)
        return self._votes.weights


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

    __slots__ = ("_arms", "_scores", "_top", "_votes")

    def __init__(self, scores: Floats, arms: NDArray[np.int64], top: int) -> None:
        self._scores, self._top = scores, top
        self._arms: NDArray[np.int64] = np.unique(arms, return_inverse=True)[1].astype(np.int64)

    def weights(self, feasible: Bools) -> Floats:
        """See `Law.weights`."""
        return np.array(self.begin(feasible), dtype=np.float64)

    def begin(self, feasible: Bools) -> list[float]:
        """See `ShrinkingLaw.begin`; 30 us."""
        self._votes = arm_votes(self._scores, feasible, self._arms, self._top)
        return self._votes.weights

    def drop(self, places: Sequence[int]) -> list[float]:
        """See `ShrinkingLaw.drop`; only arms that lose a candidate are looked at again: 6 us."""
        self._votes.drop(places)
        return self._votes.weights
