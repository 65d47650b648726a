"""SWITCH doubly robust estimation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evaluation.off_policy.errors import InvalidLogError
from evaluation.off_policy.estimator import Terms
from evaluation.off_policy.logs import Log


@dataclass(frozen=True, kw_only=True)
class SwitchDR:
    """DR where the weight is at most tau, the reward model alone above it: less variance, biased by design.

    Attributes
    ----------
    tau : float, default 5.0
        Largest weight that is trusted, positive; infinity gives DR.

    References
    ----------
    Wang, Agarwal and Dudik, "Optimal and Adaptive Off-policy Evaluation in Contextual Bandits", ICML 2017, section 4.
    """

    name: ClassVar[str] = "switch_dr"

    tau: float = 5.0

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise InvalidLogError(f"tau > 0 wanted, got {self.tau}")

    def terms(self, log: Log) -> Terms:
        """See `Estimator.terms`."""
        predicted, expected = log.model(self.name)
        trusted = np.where(log.weight <= self.tau, log.weight, 0.0)
        return Terms((expected + trusted * (log.reward - predicted))[:, None], None, log.weight)
