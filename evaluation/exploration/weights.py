"""What the weights of known policies say about logged propensities.

Two policies are known in every drawn slot, whatever drew it: *uniform* over the slot's feasible set, and *near greed*,
which puts the slot's floor share uniformly and the rest on greed. The mean of known / logged propensity is 1 for both
if the logged numbers are what was acted upon. Near greed's weights lie within [0, 1 / p(greedy)], so its mean is judged
by a normal interval; uniform's may be in the hundreds, so its mean is judged by Bernstein's inequality with the bound
that the floor gives, which holds at any n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluation.off_policy import audit
from evaluation.off_policy.audit import MIN_ROWS
from liverank.v1 import decision_pb2

Floats: TypeAlias = NDArray[np.float64]
ALPHA: Final = 0.003
"""Chance of a false alarm over all slots of a group."""


@dataclass(frozen=True)
class DrawnSlots:
    """Drawn slots of decisions that were drawn by one policy, as arrays of one length.

    Attributes
    ----------
    decision
        Which decision each belongs to, counted from 0.
    position
        From 1.
    propensity, effective_floor
        As logged.
    n_feasible
        Size of the slot's feasible set.
    explored
        Not what greed would have put there.
    """

    decision: NDArray[np.int64]
    position: NDArray[np.int64]
    propensity: Floats
    effective_floor: Floats
    n_feasible: NDArray[np.int64]
    explored: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.position)

    @property
    def uniform(self) -> Floats:
        """Weights of uniform."""
        weights: Floats = 1.0 / self.n_feasible / self.propensity
        return weights

    @property
    def near_greed(self) -> Floats:
        """Weights of near greed."""
        share = self.effective_floor * self.n_feasible
        known = np.where(self.explored, 0.0, 1.0 - share) + self.effective_floor
        weights: Floats = known / self.propensity
        return weights


def drawn_slots(decisions: Sequence[decision_pb2.Decision]) -> DrawnSlots:
    """The drawn, unpinned slots."""
    rows = [
        (at, position, slot.propensity, slot.effective_floor, slot.n_feasible, slot.explored)
        for at, made in enumerate(decisions)
        for position, slot in enumerate(made.slots, 1)
        if not slot.pinned and slot.propensity > 0 and slot.n_feasible > 0
    ]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    kinds = (np.int64, np.int64, np.float64, np.float64, np.int64, np.bool_)
    return DrawnSlots(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))


@dataclass(frozen=True, kw_only=True)
class WeightFigures:
    """Weights of uniform over all drawn slots of a group.

    Attributes
    ----------
    n
        Drawn slots.
    mean, effective, largest
        Mean weight (1 in expectation), effective sample size, largest weight.
    near_greed
        Mean weight of near greed.
    """

    n: int
    mean: float
    effective: float
    largest: float
    near_greed: float


def weight_figures(slots: DrawnSlots) -> WeightFigures:
    """Figures for the report; NaN without drawn slots."""
    if not len(slots):
        return WeightFigures(n=0, mean=math.nan, effective=0.0, largest=math.nan, near_greed=math.nan)
    weights = slots.uniform
    return WeightFigures(
        n=len(slots),
        mean=float(weights.mean()),
        effective=float(weights.sum() ** 2 / (weights**2).sum()),
        largest=float(weights.max()),
        near_greed=float(slots.near_greed.mean()),
    )


@dataclass(frozen=True, kw_only=True)
class SlotVerdict:
    """One slot of a group.

    Attributes
    ----------
    position, n
        From 1; rows in which it was drawn.
    near_greed, near_greed_limit
        Mean weight, and how far from 1 it may lie.
    uniform, uniform_limit
        Likewise.
    passed
        Both lie within.
    """

    position: int
    n: int
    near_greed: float
    near_greed_limit: float
    uniform: float
    uniform_limit: float
    passed: bool


def judge(slots: DrawnSlots, n_decisions: int, *, min_rows: int = MIN_ROWS, alpha: float = ALPHA) -> list[SlotVerdict]:
    """Verdict per position, Bonferroni over positions and the two policies; positions with fewer rows are left out.

    Parameters
    ----------
    slots
        Of one policy.
    n_decisions
        That they come from.
    min_rows
        Rows that a verdict needs.
    alpha
        Chance of a false alarm over all of it.
    """
    positions = [at for at in np.unique(slots.position).tolist() if int((slots.position == at).sum()) >= min_rows]
    found = []
    for position in positions:
        rows = np.flatnonzero(slots.position == position)
        each = alpha / (2 * len(positions))
        near = _near_greed(slots, rows, each)
        uniform, limit = slots.uniform[rows], _bernstein(slots, rows, each)
        passed = near[2] and abs(float(uniform.mean()) - 1.0) <= limit
        found.append(
            SlotVerdict(
                position=position,
                n=len(rows),
                near_greed=near[0],
                near_greed_limit=near[1],
                uniform=float(uniform.mean()),
                uniform_limit=limit,
                passed=passed,
            )
        )
    return found


def _near_greed(slots: DrawnSlots, rows: NDArray[np.int64], alpha: float) -> tuple[float, float, bool]:
    weights, n = slots.near_greed[rows], len(rows)
    if n >= MIN_ROWS:
        known = weights * slots.propensity[rows]
        one = audit(slots.propensity[rows][:, None], known[:, None], alpha=alpha)[0]
        # A few rows on which a policy that hardly explores explored nothing have no spread of their own.
        limit = _limit(one.standard_error, n, float(weights.max()), alpha)
        return one.mean_weight, limit, abs(one.mean_weight - 1.0) <= limit
    error = float(weights.std(ddof=1) / np.sqrt(n))
    limit = _limit(error, n, float(weights.max()), alpha)
    return float(weights.mean()), limit, abs(float(weights.mean()) - 1.0) <= limit


def _limit(error: float, n: int, largest: float, alpha: float) -> float:
    """Empirical Bernstein for weights in [0, largest] (Maurer and Pontil 2009, theorem 4)."""
    log_term = math.log(4.0 / alpha)
    return error * math.sqrt(2.0 * log_term) + 7.0 * largest * log_term / (3.0 * max(n - 1, 1))


def _bernstein(slots: DrawnSlots, rows: NDArray[np.int64], alpha: float) -> float:
    """Bernstein for weights in [0, M] with mean 1, whose variance is then below M; M from the floors."""
    bound = float((1.0 / slots.n_feasible[rows] / np.maximum(slots.effective_floor[rows], 1e-300)).max())
    if not math.isfinite(bound) or bound > 1e12:
        return math.inf  # without a floor there is no support, and nothing to hold uniform against
    log_term, n = math.log(2.0 / alpha), len(rows)
    return math.sqrt(2.0 * bound * log_term / n) + 2.0 * bound * log_term / (3.0 * n)
