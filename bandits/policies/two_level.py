"""Two levels: first a row or category, then an item of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits.laws import Law, TwoLevelLaw
from bandits.policy import in_range, register
from bandits.slates import Problem

Floats: TypeAlias = NDArray[np.float64]


@register
@dataclass(frozen=True, kw_only=True)
class TwoLevel:
    """Choose a row or category by votes of posterior draws, then an item of it by votes among its own.

    In each draw an arm (`Problem.arms`) is worth the mean of its best `top` feasible candidates, and votes for the arm
    that is worth most; within each arm every draw votes for its best candidate. A candidate's probability is the
    product of both shares: P(arm) P(item | arm), exact, like every law here. With Thompson's votes over all candidates
    at once an arm with many uncertain candidates wins often, merely because one of many draws is high; here it does
    not. Without arms it is Thompson.

    Attributes
    ----------
    n_draws : int, default 128
        Posterior draws that vote, 1 to 65,536.
    top : int, default 3
        Candidates that speak for their arm, 1 to 1,000.
    """

    name: ClassVar[str] = "two_level"

    n_draws: int = 128
    top: int = 3

    def __post_init__(self) -> None:
        in_range("n_draws", self.n_draws, 1, 65_536)
        in_range("top", self.top, 1, 1_000)

    def law(self, problem: Problem, score: Floats, rng: Generator) -> Law:
        """See `Policy.law`; the first slot costs some 12 us an arm, later ones what changed."""
        scores = problem.posterior.draws(problem.phi, self.n_draws, rng)
        scores += problem.value
        arms = np.zeros(problem.n, dtype=np.int64) if problem.arms is None else problem.arms
        return TwoLevelLaw(scores, arms, self.top)
