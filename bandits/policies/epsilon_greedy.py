"""Epsilon-greedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits.laws import ArgmaxLaw, Law, MixedLaw
from bandits.policy import ITEMS, in_range, register
from bandits.slates import Problem

Floats: TypeAlias = NDArray[np.float64]


@register
@dataclass(frozen=True, kw_only=True)
class EpsilonGreedy:
    """Greedy with probability 1 - epsilon, else uniform over the slot's feasible set.

    Attributes
    ----------
    epsilon : float, default 0.1
        Share of uniform exploration, 0 to 1. The floor and the cap of the request apply on top.
    """

    name: ClassVar[str] = "epsilon_greedy"

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        in_range("epsilon", self.epsilon, 0.0, 1.0)

    def law(self, problem: Problem, score: Floats, rng: Generator) -> Law:
        """See `Policy.law`."""
        return MixedLaw(ArgmaxLaw(score), self.epsilon)


@register
@dataclass(frozen=True, kw_only=True)
class EpsilonGreedyItems(EpsilonGreedy):
    """Epsilon-greedy on what was learned of each item (`bandits.item_posterior`); with epsilon 0 it is greed."""

    name: ClassVar[str] = "epsilon_greedy_items"
    learner: ClassVar[str] = ITEMS
