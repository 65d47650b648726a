"""Item variants (artwork, title) as arms: one variant of each placed item, with its exact propensity.

The items of a slate are drawn first; then their variants are, slot by slot, among the variants of the slot's item.
That is a slate under a rule of its own, so every policy and posterior serves, floor, cap, propensities and recomputing
are those of `draw_slate`, and P(item, variant) is the product of two logged numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits.errors import InvalidStatisticsError
from bandits.posterior import RewardPosterior
from bandits.slates import DEFAULT_FLOOR, Problem, Slate, draw_slate

if TYPE_CHECKING:
    from bandits.policy import Policy

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


class OneOfEach:
    """Slot s takes a candidate of item s: the rule of variants.

    Parameters
    ----------
    items : ndarray of int64, shape (n,)
        Place of each variant's item in the slate, from 0; every place up to the last has a variant.
    """

    __slots__ = ("_items", "n_items")

    def __init__(self, items: Ints) -> None:
        present = np.unique(items)
        if not np.array_equal(present, np.arange(present.shape[0])):
            raise InvalidStatisticsError(f"every placed item needs a variant; places with one: {present.tolist()}")
        self._items = items
        self.n_items = int(present.shape[0])

    def mask(self, prefix: Sequence[int]) -> Bools:
        """See `Feasible.mask`."""
        mask: Bools = self._items == len(prefix)
        return mask


def draw_variants(
    policy: Policy,
    items: Ints,
    value: Floats,
    phi: Floats,
    posterior: RewardPosterior,
    rng: Generator,
    *,
    floor: float = DEFAULT_FLOOR,
    cap: float = 1.0,
) -> Slate:
    """One variant of each placed item.

    Parameters
    ----------
    policy : Policy
        Who decides.
    items : ndarray of int64, shape (n,)
        Place of each variant's item in the slate, from 0.
    value : ndarray of float64, shape (n,)
        Value of each variant without the posterior: 0, or the item's.
    phi : ndarray of float64, shape (n, dim)
        Features of variant and user, as they will be logged and learned from: what is learned is the residual of the
        item's own prediction.
    posterior : RewardPosterior
        Belief about the variants.
    rng : Generator
        Of the logged seed.
    floor, cap : float
        As in `Problem`.

    Returns
    -------
    Slate
        ``order[s]`` is the row of the variant of item s; recompute it with a problem under `OneOfEach`.
    """
    rule = OneOfEach(items)
    problem = Problem(value=value, phi=phi, posterior=posterior, k=rule.n_items, feasible=rule, floor=floor, cap=cap)
    return draw_slate(policy, problem, rng)
