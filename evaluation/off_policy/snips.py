"""Self-normalised inverse propensity scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluation.off_policy.estimator import Terms
from evaluation.off_policy.logs import Log


@dataclass(frozen=True, kw_only=True)
class SNIPS:
    """Weighted mean of rewards: consistent, slightly biased, and unmoved by a constant added to all rewards.

    References
    ----------
    Swaminathan and Joachims, "The Self-Normalized Estimator for Counterfactual Learning", NeurIPS 2015, equation 6.
    """

    name: ClassVar[str] = "snips"

    def terms(self, log: Log) -> Terms:
        """See `Estimator.terms`."""
        return Terms((log.weight * log.reward)[:, None], log.weight[:, None], log.weight)
