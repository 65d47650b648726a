"""Inverse propensity scoring of whole slates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluation.off_policy.estimator import Terms
from evaluation.off_policy.logs import SlateLog


@dataclass(frozen=True, kw_only=True)
class SlateIPS:
    """Weight of the whole slate times its reward: always unbiased with support, and far too heavy for more than a few
    slots.

    Attributes
    ----------
    normalised : bool, default False
        Divide by the sum of weights.
    """

    normalised: bool = False

    labels: ClassVar[tuple[str, str]] = ("slate_ips", "slate_snips")

    @property
    def name(self) -> str:
        """Short name for tables."""
        return self.labels[self.normalised]

    def terms(self, log: SlateLog) -> Terms:
        """See `Estimator.terms`."""
        weight = log.weight[:, None]
        return Terms(weight * log.reward.sum(axis=1, keepdims=True), weight if self.normalised else None, log.weight)
