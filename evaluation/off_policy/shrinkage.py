"""Doubly robust estimation with optimistic shrinkage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evaluation.off_policy.errors import InvalidLogError
from evaluation.off_policy.estimator import Terms
from evaluation.off_policy.logs import Log


@dataclass(frozen=True, kw_only=True)
class DRos:
    """DR with the weight w shrunk to lam w / (w^2 + lam): the model takes over smoothly where weights are large.

    Attributes
    ----------
    lam : float, default 100.0
        Non-negative; 0 gives the direct method, infinity DR.

    References
    ----------
    Su, Dimakopoulou, Krishnamurthy and Dudik, "Doubly Robust Off-policy Evaluation with Shrinkage", ICML 2020,
    equation 6.
    """

    name: ClassVar[str] = "dros"

    lam: float = 100.0

    def __post_init__(self) -> None:
        if not self.lam >= 0:
            raise InvalidLogError(f"lam >= 0 wanted, got {self.lam}")

    def terms(self, log: Log) -> Terms:
        """See `Estimator.terms`."""
        predicted, expected = log.model(self.name)
        weight = log.weight
        shrunk = (
            weight if np.isinf(self.lam) else self.lam * weight / (weight**2 + self.lam + np.finfo(np.float64).tiny)
        )
        return Terms((expected + shrunk * (log.reward - predicted))[:, None], None, weight)
