"""Counting votes: how many posterior draws rank each candidate first, while candidates leave one after another.

`Votes` and `ArmVotes` say what is counted; where `bandits.native` is compiled it counts, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bandits import native

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]


class Votes:
    """How many draws rank each candidate first, of those that are left; on a tie the first candidate has the vote.

    Parameters
    ----------
    scores : ndarray of float64, shape (n_draws, n)
        One row a posterior draw; kept, not changed.
    feasible : ndarray of bool, shape (n,)
        Candidates that are there at first.
    """

    __slots__ = ("_left", "weights")

    def __init__(self, scores: Floats, feasible: Bools) -> None:
        self._left: Floats = np.where(feasible, scores, -np.inf)
        self.weights: list[float] = []
        self._count()

    def drop(self, places: Sequence[int]) -> None:
        """Take out candidates that were there; 5 us for 128 draws of 50, 1 us where nobody voted for them."""
        voted = False
        for place in places:
            self._left[:, place] = -np.inf
            voted = voted or self.weights[place] > 0
        if voted:
            self._count()

    def _count(self) -> None:
        n = self._left.shape[1]
        self.weights = np.bincount(self._left.argmax(axis=1), minlength=n).tolist()


class ArmVotes:
    """Votes for arms, times votes within each arm.

    In a draw an arm is worth the mean of its `top` best candidates that are left, and the arm worth most has the vote;
    within each arm every draw votes for its best candidate.

    Parameters
    ----------
    scores, feasible
        As in `Votes`.
    arms : ndarray of int64, shape (n,)
        Arm of each candidate, 0 and up.
    top : int
        Candidates whose mean speaks for their arm.
    """

    __slots__ = ("_arms", "_best", "_left", "_members", "_top", "_worth", "weights")

    def __init__(self, scores: Floats, feasible: Bools, arms: Ints, top: int) -> None:
        n_arms = int(arms.max(initial=-1)) + 1
        self._left: Floats = np.where(feasible, scores, -np.inf)
        self._arms, self._top = arms, top
        self._members = [np.flatnonzero(arms == arm) for arm in range(n_arms)]
        self._worth: Floats = np.full((scores.shape[0], n_arms), -np.inf)
        self._best: Floats = np.zeros(scores.shape[1])
        self.weights: list[float] = []
        self._look(range(n_arms))

    def drop(self, places: Sequence[int]) -> None:
        """Take out candidates that were there."""
        self._left[:, places] = -np.inf
        self._look(sorted(set(self._arms[places].tolist())))

    def _look(self, changed: Sequence[int]) -> None:
        n_draws = self._left.shape[0]
        for arm in changed:
            places = self._members[arm]
            own = self._left[:, places]
            alive = places[own[0] > -np.inf] if n_draws else places
            own = self._left[:, alive]
            self._best[places] = 0.0
            if not len(alive):
                self._worth[:, arm] = -np.inf
                continue
            taken = min(self._top, len(alive))
            ranked = np.sort(own, axis=1)
            total = ranked[:, -1].copy()
            for at in range(2, taken + 1):
                total += ranked[:, -at]
            self._worth[:, arm] = total / taken
            self._best[alive] = np.bincount(own.argmax(axis=1), minlength=len(alive)) / n_draws
        winners = np.bincount(self._worth.argmax(axis=1), minlength=self._worth.shape[1])
        self.weights = (winners[self._arms] * self._best).tolist()


class NativeVotes:
    """`Votes` in machine code; 2 us a call."""

    __slots__ = ("_alive", "_scores", "_winners", "weights")

    def __init__(self, scores: Floats, feasible: Bools) -> None:
        self._scores = np.ascontiguousarray(scores).data  # its buffer costs less to ask for
        self._alive = bytearray(feasible.tobytes())
        self._winners = bytearray(b"\xff" * (4 * scores.shape[0]))
        self.weights: list[float] = native.core.votes(self._scores, self._alive, self._winners)

    def drop(self, places: Sequence[int]) -> None:
        """See `Votes.drop`."""
        for place in places:
            self._alive[place] = 0
        self.weights = native.core.votes(self._scores, self._alive, self._winners)


class NativeArmVotes:
    """`ArmVotes` in machine code; 20 us at first, 5 us a call, for 128 draws of 50 candidates in 8 arms."""

    __slots__ = ("_alive", "_arms", "_of", "_state", "_top", "weights")

    def __init__(self, scores: Floats, feasible: Bools, arms: Ints, top: int) -> None:
        n_arms, n_draws = int(arms.max(initial=-1)) + 1, scores.shape[0]
        self._arms, self._of, self._top = np.ascontiguousarray(arms), arms.tolist(), top
        self._alive = bytearray(feasible.tobytes())
        self._state = np.ascontiguousarray(scores), np.empty((n_draws, n_arms)), bytearray(4 * n_draws * n_arms)
        self.weights: list[float] = []
        self._look(bytearray(b"\1" * n_arms))

    def drop(self, places: Sequence[int]) -> None:
        """See `ArmVotes.drop`."""
        changed = bytearray(self._state[1].shape[1])
        for place in places:
            self._alive[place] = 0
            changed[self._of[place]] = 1
        self._look(changed)

    def _look(self, changed: bytearray) -> None:
        scores, worth, best = self._state
        self.weights = native.core.arm_votes(scores, self._alive, self._arms, self._top, worth, best, changed)


def votes(scores: Floats, feasible: Bools) -> Votes | NativeVotes:
    """`Votes`, in machine code where it is compiled."""
    return Votes(scores, feasible) if native.core is None else NativeVotes(scores, feasible)


def arm_votes(scores: Floats, feasible: Bools, arms: Ints, top: int) -> ArmVotes | NativeArmVotes:
    """`ArmVotes`, in machine code where it is compiled."""
    made = ArmVotes if native.core is None else NativeArmVotes
    return made(scores, feasible, arms, top)
