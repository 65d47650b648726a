"""Reward interaction inverse propensity scoring (cascade model)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluation.off_policy.estimator import Terms
from evaluation.off_policy.logs import SlateLog


@dataclass(frozen=True, kw_only=True)
class RIPS:
    """Slot k weighted by slots 1..k: unbiased if what is shown below a slot does not change its reward.

    Attributes
    ----------
    normalised : bool, default False
        Divide each slot by its sum of weights.

    References
    ----------
    McInerney, Brost, Chandar, Mehrotra and Carterette, "Counterfactual Evaluation of Slate Recommendations with
    Sequential Reward Interactions", KDD 2020, equation 6; `normalised` is their section 4.3 without the look-ahead.
    """

    normalised: bool = False

    labels: ClassVar[tuple[str, str]] = ("rips", "snrips")

    @property
    def name(self) -> str:
        """Short name for tables."""
        return self.labels[self.normalised]

    def terms(self, log: SlateLog) -> Terms:
        """See `Estimator.terms`."""
        weight = log.prefix_weight
        return Terms(weight * log.reward, weight if self.normalised else None, log.weight)
