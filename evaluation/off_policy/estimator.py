"""The role of an estimator: rows of numerators and denominators.

Every estimator here is a sum of ratios of means over rows, ``sum_j mean(numerator[:, j]) / mean(denominator[:, j])``
(denominator 1 where nothing is normalised), so one bootstrap and one delta method serve them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
LogType = TypeVar("LogType", contravariant=True)


@dataclass(frozen=True)
class Terms:
    """What an estimator makes of a log.

    Attributes
    ----------
    numerator : ndarray of float64, shape (n, m)
        One row a decision.
    denominator : ndarray of float64, shape (n, m), optional
        What the sums are divided by; None = n.
    weight : ndarray of float64, shape (n,), optional
        The weights that the estimate hangs on, for the diagnostics; None = none (direct method).
    """

    numerator: Floats
    denominator: Floats | None
    weight: Floats | None

    @property
    def value(self) -> float:
        """The estimate."""
        return float(ratio(self.numerator, self.denominator, None))

    @property
    def influence(self) -> Floats:
        """Influence of each row on the estimate, mean 0, shape (n,) (delta method for ratios)."""
        if self.denominator is None:
            rows = self.numerator.sum(axis=1)
            centred: Floats = rows - rows.mean()
            return centred
        means = self.denominator.mean(axis=0)
        ratios = self.numerator.mean(axis=0) / means
        influence: Floats = ((self.numerator - ratios * self.denominator) / means).sum(axis=1)
        return influence


def ratio(numerator: Floats, denominator: Floats | None, counts: Floats | None) -> Floats:
    """The estimate for rows repeated `counts` times: shape () for None, shape (b,) for counts of shape (b, n)."""
    n = numerator.shape[0]
    above = numerator.sum(axis=0) if counts is None else counts @ numerator
    if denominator is None:
        mean: Floats = above.sum(axis=-1) / n
        return mean
    below = denominator.sum(axis=0) if counts is None else counts @ denominator
    quotient: Floats = np.divide(above, below, out=np.zeros_like(above), where=below > 0).sum(axis=-1)
    return quotient


class Estimator(Protocol[LogType]):
    """A frozen set of hyper-parameters that turns a log into terms."""

    @property
    def name(self) -> str:
        """Short name for tables."""
        ...

    def terms(self, log: LogType) -> Terms:
        """Rows of the estimate; pure.

        Raises
        ------
        InvalidLogError
            The log lacks something that this estimator needs.
        """
        ...
