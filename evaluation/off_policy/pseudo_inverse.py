"""The pseudo-inverse estimator and its weighted form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluation.off_policy.errors import InvalidLogError
from evaluation.off_policy.estimator import Terms
from evaluation.off_policy.logs import SlateLog

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PI:
    """Slate weight ``q^T Gamma^+ 1_s`` times the slate's reward: unbiased if the reward is a sum over (slot, item)
    pairs.

    Attributes
    ----------
    normalised : bool, default False
        wPI: divide by the sum of weights; safer where Gamma was estimated.

    References
    ----------
    Swaminathan, Krishnamurthy, Agarwal, Dudik, Langford, Jose and Zitouni, "Off-policy evaluation for slate
    recommendation", NeurIPS 2017, equation 4 and section 3.3 (wPI).
    """

    normalised: bool = False

    labels: ClassVar[tuple[str, str]] = ("pi", "wpi")

    @property
    def name(self) -> str:
        """Short name for tables."""
        return self.labels[self.normalised]

    def terms(self, log: SlateLog) -> Terms:
        """See `Estimator.terms`."""
        if log.slate_weight is None:
            raise InvalidLogError(f"{self.name} needs `slate_weight`; see pseudo_inverse.slate_weights")
        weight = log.slate_weight[:, None]
        return Terms(
            weight * log.reward.sum(axis=1, keepdims=True), weight if self.normalised else None, log.slate_weight
        )


def slate_weights(logged: Ints, drawn_by_logger: Ints, drawn_by_target: Ints, n_items: int) -> Floats:
    """Pseudo-inverse weights of one context's slates, from draws of both policies.

    Parameters
    ----------
    logged : ndarray of int64, shape (n, k)
        Items of the logged slates.
    drawn_by_logger, drawn_by_target : ndarray of int64, shape (m, k)
        Many slates drawn from the policies for that context; see `slot_item_weights`.
    n_items : int
        Number of candidates.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    return weights_of_slates(logged, slot_item_weights(drawn_by_logger, drawn_by_target, n_items))


def slot_item_weights(drawn_by_logger: Ints, drawn_by_target: Ints, n_items: int) -> Floats:
    """``q^T Gamma^+`` of one context, shape (k, n_items): what each (slot, item) adds to a slate's weight.

    With 40,000 draws the weights are good to about 2 %, and PI is biased by as much (wPI hardly is); the error falls
    with the number of draws.
    """
    k = drawn_by_logger.shape[1]
    size = k * n_items
    offset = np.arange(k) * n_items
    cells = drawn_by_logger + offset
    pairs = cells[:, :, None] * size + cells[:, None, :]
    gamma = np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size) / cells.shape[0]
    target = np.bincount((drawn_by_target + offset).ravel(), minlength=size) / drawn_by_target.shape[0]
    solved: Floats = target @ np.linalg.pinv(gamma, hermitian=True)
    return solved.reshape(k, n_items)


def weights_of_slates(logged: Ints, by_slot_and_item: Floats) -> Floats:
    """Weights of logged slates, shape (n,), from `slot_item_weights`."""
    weights: Floats = by_slot_and_item[np.arange(logged.shape[1]), logged].sum(axis=1)
    return weights
