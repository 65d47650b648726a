"""Logged decisions as arrays: one slot (`Log`) or slates (`SlateLog`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluation.off_policy.errors import InvalidLogError

Floats: TypeAlias = NDArray[np.float64]

_SLACK = 1e-9


@dataclass(frozen=True, kw_only=True)
class Log:
    """Decisions about one slot each, and what another policy would have done.

    Attributes
    ----------
    reward : ndarray of float64, shape (n,)
        What the placed item earned.
    propensity : ndarray of float64, shape (n,)
        Logged probability of the placed item, in (0, 1].
    target : ndarray of float64, shape (n,)
        Probability of the placed item under the policy to be evaluated, in [0, 1].
    predicted : ndarray of float64, shape (n,), optional
        Reward model at the placed item, cross-fitted (see `crossfit`).
    expected : ndarray of float64, shape (n,), optional
        Reward model averaged over the target policy.
    unsupported : ndarray of float64, shape (n,), optional
        Target probability on items that the logger could not place; known where all candidates were logged.

    Raises
    ------
    InvalidLogError
        Wrong shapes, values that are not finite, or probabilities outside their range.
    """

    reward: Floats
    propensity: Floats
    target: Floats
    predicted: Floats | None = None
    expected: Floats | None = None
    unsupported: Floats | None = None

    def __post_init__(self) -> None:
        checked(self, self.reward.shape, 1)

    @property
    def n(self) -> int:
        """Rows."""
        return int(self.reward.shape[0])

    @property
    def weight(self) -> Floats:
        """Importance weights target / propensity, shape (n,)."""
        return self.target / self.propensity

    def model(self, estimator: str) -> tuple[Floats, Floats]:
        """(predicted, expected).

        Raises
        ------
        InvalidLogError
            The log has no reward model.
        """
        if self.predicted is None or self.expected is None:
            raise InvalidLogError(
                f"{estimator} needs `predicted` and `expected` of a reward model; see crossfit.cross_fit"
            )
        return self.predicted, self.expected


@dataclass(frozen=True, kw_only=True)
class SlateLog:
    """Decisions about slates of k slots, drawn slot by slot.

    Attributes
    ----------
    reward : ndarray of float64, shape (n, k)
        What each slot earned.
    propensity : ndarray of float64, shape (n, k)
        Logged P(item | the slots before it), in (0, 1]: what `bandits.draw_slate` returns.
    target : ndarray of float64, shape (n, k)
        The same under the policy to be evaluated (`bandits.recompute`), in [0, 1].
    marginal_propensity, marginal_target : ndarray of float64, shape (n, k), optional
        P(this item in this slot) whatever is before it, for the item-position model.
    slate_weight : ndarray of float64, shape (n,), optional
        Pseudo-inverse weights (see `pseudo_inverse.slate_weights`).
    predicted, expected : ndarray of float64, shape (n, k), optional
        Model of the reward of slot k given the prefix: at the placed item, and averaged over the target's law of that
        slot.

    Raises
    ------
    InvalidLogError
        Wrong shapes, values that are not finite, or probabilities outside their range.
    """

    reward: Floats
    propensity: Floats
    target: Floats
    marginal_propensity: Floats | None = None
    marginal_target: Floats | None = None
    slate_weight: Floats | None = None
    predicted: Floats | None = None
    expected: Floats | None = None

    def __post_init__(self) -> None:
        checked(self, self.reward.shape, 2)
        if self.marginal_propensity is not None and not (self.marginal_propensity > 0).all():
            raise InvalidLogError("marginal_propensity must be positive wherever an item was placed")

    @property
    def n(self) -> int:
        """Slates."""
        return int(self.reward.shape[0])

    @property
    def slot_weight(self) -> Floats:
        """Conditional weights of the slots, shape (n, k)."""
        return self.target / self.propensity

    @property
    def prefix_weight(self) -> Floats:
        """Weights of slots 1..k, cumulative, shape (n, k)."""
        product: Floats = np.multiply.accumulate(self.slot_weight, axis=1)
        return product

    @property
    def weight(self) -> Floats:
        """Weights of whole slates, shape (n,)."""
        return self.prefix_weight[:, -1]


def checked(log: Log | SlateLog, shape: tuple[int, ...], n_axes: int) -> None:
    """Refuse a log that breaks its contract.

    Raises
    ------
    InvalidLogError
        See `Log`.
    """
    if len(shape) != n_axes or 0 in shape:
        raise InvalidLogError(f"reward with {n_axes} axes and at least one row wanted, got shape {shape}")
    for name, values in vars(log).items():
        if values is None:
            continue
        wanted = shape[:1] if name == "slate_weight" else shape
        if values.shape != wanted or not np.isfinite(values).all():
            raise InvalidLogError(f"{name}: finite values of shape {wanted} wanted, got shape {values.shape}")
    if not ((log.propensity > 0) & (log.propensity <= 1 + _SLACK)).all():
        bad = int(((log.propensity <= 0) | (log.propensity > 1 + _SLACK)).sum())
        raise InvalidLogError(
            f"propensity in (0, 1] wanted, {bad} values are not; a shown item cannot have had probability 0"
        )
    if not ((log.target >= 0) & (log.target <= 1 + _SLACK)).all():
        raise InvalidLogError("target in [0, 1] wanted")
