"""Uniform: the baseline that every policy must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits.laws import Law, StaticLaw
from bandits.policy import register
from bandits.slates import Problem

Floats: TypeAlias = NDArray[np.float64]


@register
@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Every feasible candidate alike; also the fixed known policy whose mean weight proves a log."""

    name: ClassVar[str] = "uniform"

    def law(self, problem: Problem, score: Floats, rng: Generator) -> Law:
        """See `Policy.law`."""
        return StaticLaw(np.ones(problem.n))
