"""Is a log's propensity what was acted upon? The mean weight of a fixed known policy tells."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluation.off_policy.errors import InvalidLogError

Floats: TypeAlias = NDArray[np.float64]

MIN_ROWS = 1_000


@dataclass(frozen=True)
class SlotAudit:
    """One slot's verdict.

    Attributes
    ----------
    slot : int
        From 1.
    n : int
        Rows in which the slot was drawn.
    mean_weight, standard_error : float
        Of the known policy's probability over the logged one; 1 in expectation.
    passed : bool
        Within the limit (Bonferroni over slots).
    """

    slot: int
    n: int
    mean_weight: float
    standard_error: float
    passed: bool


def audit(
    propensity: Floats, known: Floats, *, drawn: NDArray[np.bool_] | None = None, alpha: float = 0.003
) -> list[SlotAudit]:
    """Check logged propensities slot by slot, pooled over the rows of one policy and day.

    The mean of ``known / propensity`` is 1 if, and only if, the logged numbers are the probabilities that were acted
    upon (for policies whose support covers the known one's). A policy that reorders, drops or estimates afterwards
    shows at once.

    Parameters
    ----------
    propensity : ndarray of float64, shape (n, k)
        Logged P(item | the slots before it).
    known : ndarray of float64, shape (n, k)
        Probability of the same item under a known policy: uniform over the slot's feasible set is 1 / its size.
    drawn : ndarray of bool, shape (n, k), optional
        False for pinned slots, which say nothing; all drawn where omitted.
    alpha : float, default 0.003
        Chance of a false alarm over all slots.

    Returns
    -------
    list of SlotAudit
        Slots with at least one drawn row, in order.

    Raises
    ------
    InvalidLogError
        Fewer than 1,000 rows, wrong shapes, or propensities that are not in (0, 1].
    """
    if propensity.ndim != 2 or propensity.shape != known.shape or propensity.shape[0] < MIN_ROWS:
        raise InvalidLogError(
            f"propensity and known of one shape (n >= {MIN_ROWS}, k) wanted, "
            f"got {propensity.shape} and {known.shape}; pool more days"
        )
    mask = np.ones(propensity.shape, dtype=np.bool_) if drawn is None else drawn
    if not ((propensity[mask] > 0) & (propensity[mask] <= 1 + 1e-9)).all():
        raise InvalidLogError("logged propensities must lie in (0, 1]")
    slots = np.flatnonzero(mask.any(axis=0)).tolist()
    limit = NormalDist().inv_cdf(1.0 - alpha / (2 * max(len(slots), 1)))
    found = []
    for slot in slots:
        rows = mask[:, slot]
        weight = known[rows, slot] / propensity[rows, slot]
        error = float(weight.std(ddof=1) / np.sqrt(weight.shape[0])) if weight.shape[0] > 1 else float("inf")
        mean = float(weight.mean())
        found.append(SlotAudit(slot + 1, int(rows.sum()), mean, error, abs(mean - 1.0) <= limit * error + 1e-12))
    return found
