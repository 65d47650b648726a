"""Cascade doubly robust estimation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evaluation.off_policy.errors import InvalidLogError
from evaluation.off_policy.estimator import Terms
from evaluation.off_policy.logs import SlateLog


@dataclass(frozen=True, kw_only=True)
class CascadeDR:
    """RIPS with a reward model per slot as baseline: unbiased under the cascade whatever the model, less variance if
    it is good.

    References
    ----------
    Kiyohara, Saito, Matsuhiro, Narita, Shimizu and Yamamoto, "Doubly Robust Off-Policy Evaluation for Ranking
    Policies under the Cascade Behavior Model", WSDM 2022, equation 9; the model given may be of the slot's own reward
    instead of the reward to go.
    """

    name: ClassVar[str] = "cascade_dr"

    def terms(self, log: SlateLog) -> Terms:
        """See `Estimator.terms`."""
        if log.predicted is None or log.expected is None:
            raise InvalidLogError("cascade_dr needs `predicted` and `expected` per slot")
        weight = log.prefix_weight
        before = np.concatenate([np.ones((log.n, 1)), weight[:, :-1]], axis=1)
        return Terms(weight * (log.reward - log.predicted) + before * log.expected, None, log.weight)
