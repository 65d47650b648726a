"""Greedy: exploration off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits.laws import ArgmaxLaw, Law
from bandits.policy import register
from bandits.slates import Problem

Floats: TypeAlias = NDArray[np.float64]


@register
@dataclass(frozen=True, kw_only=True)
class Greedy:
    """Always the feasible candidate with the highest value plus posterior mean.

    With a floor of 0 its log has no support for anything else; with a floor it is the cheapest way to keep some.
    """

    name: ClassVar[str] = "greedy"

    def law(self, problem: Problem, score: Floats, rng: Generator) -> Law:
        """See `Policy.law`."""
        return ArgmaxLaw(score)
