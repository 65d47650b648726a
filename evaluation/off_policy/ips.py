"""Inverse propensity scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluation.off_policy.estimator import Terms
from evaluation.off_policy.logs import Log


@dataclass(frozen=True, kw_only=True)
class IPS:
    """Mean of weight times reward: unbiased wherever the log has support, with the variance of the weights.

    References
    ----------
    Horvitz and Thompson, 1952; Strehl, Langford, Li and Kakade, "Learning from Logged Implicit Exploration Data",
    NeurIPS 2010.
    """

    name: ClassVar[str] = "ips"

    def terms(self, log: Log) -> Terms:
        """See `Estimator.terms`."""
        return Terms((log.weight * log.reward)[:, None], None, log.weight)
