"""What the weights say about an estimate, and when to refuse it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

MIN_EFFECTIVE = 30.0
"""Smallest effective sample size that an estimate may hang on."""
MAX_UNSUPPORTED = 0.01
"""Largest mean target probability on items that the logger could not place."""
MEAN_WEIGHT_SD = 4.0
"""Standard errors by which the mean weight may lie off 1."""


@dataclass(frozen=True)
class Diagnostics:
    """Weights of one estimate; always printed beside it.

    Attributes
    ----------
    n : int
        Rows.
    effective : float
        Effective sample size (sum w)^2 / sum w^2.
    max_weight : float
        Largest weight.
    mean_weight : float
        1 in expectation if the propensities are right and support is full.
    mean_weight_sd : float
        Standard error of the mean weight.
    unsupported : float
        Mean target probability on items that the logger could not place; 0 where not known.
    """

    n: int
    effective: float
    max_weight: float
    mean_weight: float
    mean_weight_sd: float
    unsupported: float

    @property
    def faults(self) -> tuple[str, ...]:
        """Why the log cannot carry the estimate; empty = it can."""
        found = []
        if self.effective < MIN_EFFECTIVE:
            found.append(f"effective sample size {self.effective:.1f} of {self.n}, at least {MIN_EFFECTIVE:g} wanted")
        if self.unsupported > MAX_UNSUPPORTED:
            found.append(f"{self.unsupported:.1%} of the target's probability lies where the logger had none")
        # Under heavy tails the standard error is an underestimate, so a small relative deviation is let pass.
        if abs(self.mean_weight - 1.0) > max(MEAN_WEIGHT_SD * self.mean_weight_sd, 0.1):
            found.append(
                f"mean weight {self.mean_weight:.3g} +- {self.mean_weight_sd:.2g} is off 1: "
                "wrong propensities or no support"
            )
        return tuple(found)


def diagnose(weight: Floats | None, n: int, unsupported: Floats | None = None) -> Diagnostics:
    """Diagnostics of weights; an estimate without weights (direct method) counts as having weight 1 everywhere."""
    w = np.ones(n) if weight is None else weight
    squares = float((w**2).sum())
    return Diagnostics(
        n=n,
        effective=float(w.sum()) ** 2 / squares if squares else 0.0,
        max_weight=float(w.max()),
        mean_weight=float(w.mean()),
        mean_weight_sd=float(w.std(ddof=1) / np.sqrt(n)) if n > 1 else float("inf"),
        unsupported=0.0 if unsupported is None else float(unsupported.mean()),
    )
