"""Doubly robust estimation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluation.off_policy.estimator import Terms
from evaluation.off_policy.logs import Log


@dataclass(frozen=True, kw_only=True)
class DR:
    """Reward model plus its weighted residual: unbiased if the propensities or the model are right.

    The model must be cross-fitted (`crossfit.cross_fit`), or its residuals on its own training rows are too small.

    References
    ----------
    Dudik, Langford and Li, "Doubly Robust Policy Evaluation and Learning", ICML 2011, equation 2.
    """

    name: ClassVar[str] = "dr"

    def terms(self, log: Log) -> Terms:
        """See `Estimator.terms`."""
        predicted, expected = log.model(self.name)
        return Terms((expected + log.weight * (log.reward - predicted))[:, None], None, log.weight)
