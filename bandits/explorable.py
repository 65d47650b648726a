"""Limits on what may be explored: a candidate that is not explorable stands in a slot only where greed puts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits.errors import InvalidStatisticsError
from bandits.feasible import Feasible
from bandits.laws import Law
from bandits.policy import Policy, in_range
from bandits.slates import Problem

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]


class Explorable:
    """The hard rules of a request, and among what they allow only explorable candidates and the greedy one.

    A function of the prefix alone, as `Feasible` asks. Never empty where the rules are not.

    Parameters
    ----------
    rules : Feasible
        Hard rules.
    allowed : ndarray of bool, shape (n,)
        Candidates that may be explored.
    score : ndarray of float64, shape (n,)
        What greed ranks by: value plus posterior mean, as `draw_slate` computes it.

    Examples
    --------
    >>> from bandits.feasible import Everything
    >>> rule = Explorable(Everything(3), np.array([False, False, True]), np.array([0.3, 0.2, 0.1]))
    >>> rule.mask([]).tolist()
    [True, False, True]
    """

    __slots__ = ("_allowed", "_ranking", "_rules")

    def __init__(self, rules: Feasible, allowed: Bools, score: Floats) -> None:
        if allowed.shape != score.shape or allowed.ndim != 1:
            raise InvalidStatisticsError(
                f"allowed and score of one shape (n,) wanted, got {allowed.shape}, {score.shape}"
            )
        self._rules = rules
        self._allowed = allowed
        self._ranking = np.argsort(-score, kind="stable").tolist()

    def mask(self, prefix: Sequence[int]) -> Bools:
        """See `Feasible.mask`; what the rules cost and 2 us."""
        placed = set(prefix)
        mask = self._rules.mask(prefix)
        explorable: Bools = mask & self._allowed
        for candidate in self._ranking:
            if mask[candidate] and candidate not in placed:
                explorable[candidate] = True
                break
        return explorable


@dataclass(frozen=True, kw_only=True)
class Reserved:
    """A policy with a share of every slot's law reserved for some candidates, evenly among those that are feasible.

    How new items get their exposures: an exact law, because who is reserved is fixed before the draw and logged. Not
    registered: a decision logs the policy within, the share and the flags.

    Attributes
    ----------
    policy : Policy
        Gets the rest of the law, and all of it where no reserved candidate is feasible.
    reserved : ndarray of bool, shape (n,)
        The candidates.
    share : float
        In [0, 1).
    """

    name: ClassVar[str] = "reserved"

    policy: Policy
    reserved: Bools
    share: float

    def __post_init__(self) -> None:
        in_range("share", self.share, 0.0, 1.0)

    def law(self, problem: Problem, score: Floats, rng: Generator) -> Law:
        """See `Policy.law`."""
        return _ReservedLaw(self.policy.law(problem, score, rng), self.reserved, self.share)


class _ReservedLaw:
    """See `Reserved`."""

    __slots__ = ("_law", "_reserved", "_share")

    def __init__(self, law: Law, reserved: Bools, share: float) -> None:
        self._law, self._reserved, self._share = law, reserved, share

    def weights(self, feasible: Bools) -> Floats:
        """See `Law.weights`; 4 us more than the law within."""
        weights = self._law.weights(feasible)
        among = feasible & self._reserved
        n_among = int(np.count_nonzero(among))
        if not n_among:
            return weights
        total = float(weights.sum())
        if total == 0.0:
            weights, total = feasible.astype(np.float64), float(np.count_nonzero(feasible))
        mixed: Floats = weights * ((1.0 - self._share) / total) + among * (self._share / n_among)
        return mixed
