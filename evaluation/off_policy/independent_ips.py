"""Independent inverse propensity scoring (item-position model)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluation.off_policy.errors import InvalidLogError
from evaluation.off_policy.estimator import Terms
from evaluation.off_policy.logs import SlateLog


@dataclass(frozen=True, kw_only=True)
class IIPS:
    """Each slot weighted by its own marginal probability: unbiased if a slot's reward depends on its item and
    position alone.

    Fails silently where items of a slate interact; quote it beside wPI.

    References
    ----------
    Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen, "Offline Evaluation of Ranking Policies with Click
    Models", KDD 2018, section 4.2.
    """

    name: ClassVar[str] = "iips"

    def terms(self, log: SlateLog) -> Terms:
        """See `Estimator.terms`."""
        if log.marginal_propensity is None or log.marginal_target is None:
            raise InvalidLogError("iips needs `marginal_propensity` and `marginal_target`")
        weight = log.marginal_target / log.marginal_propensity
        return Terms(weight * log.reward, None, weight.mean(axis=1))
