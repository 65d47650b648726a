"""The belief that each item has an effect of its own beside shared coefficients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits.errors import InvalidPolicyError, InvalidStatisticsError
from bandits.items import ItemSums, item_features
from bandits.partials import Statistics
from bandits.posterior import Posterior, Prior, phi_of, weights_of

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ItemPrior:
    """Hyper-parameters of an item posterior.

    Attributes
    ----------
    shared_sd : float, default 0.3
        Prior standard deviation of a shared coefficient, in clicks per unit of phi.
    item_sd : float, default 0.2
        Prior standard deviation of an item's effect, in clicks a look.
    noise_sd : float, default 0.5
        Standard deviation of one slot's residual value, in clicks.
    """

    shared_sd: float = 0.3
    item_sd: float = 0.2
    noise_sd: float = 0.5

    def __post_init__(self) -> None:
        if not all(0 < sd < np.inf for sd in (self.shared_sd, self.item_sd, self.noise_sd)):
            raise InvalidPolicyError(
                "shared_sd, item_sd and noise_sd must be positive and finite, "
                f"got {self.shared_sd}, {self.item_sd}, {self.noise_sd}"
            )


class ItemPosterior:
    """The residual value of item i is ``x^T beta + l u_i`` in a slot with features x and looks l.

    beta is shared by all items, ``u_i ~ N(0, item_sd^2)`` the item's own. The exact posterior of this hierarchical
    model: with ``a_i, c_i, b_i`` an item's sums, ``r_i = (noise_sd / sd_i)^2`` and ``m_i = 1 / (a_i + r_1)``,

        P = A + r_0 I - sum_i m_i c_i c_i^T,   beta = P^-1 (b - sum_i m_i b_i c_i),   u_i = m_i (b_i - c_i^T beta)

    and given beta the u_i are independent with variance ``noise_sd^2 m_i``. So a candidate, at slot 1, is ``m_i b_i +
    (x - m_i c_i)^T beta`` and an independent part of sd ``noise_sd sqrt(m_i)``: a draw takes one normal variate a
    candidate more than one of `Posterior`, whatever the number of items. An item without sums has the prior.

    Immutable and thread safe. Building takes 0.1 ms and 0.5 us an item at dim 32.

    Parameters
    ----------
    shared : Statistics
        Over `item_features`.
    items : ItemSums
        Of the same slots (or of some of them).
    head_weights : sequence of float, length n_heads
        Value of one unit of each head, in clicks.
    prior : ItemPrior
        Hyper-parameters.
    silent : bool, default False
        The same uncertainty, nothing learned.

    References
    ----------
    Li, Chu, Langford and Schapire, WWW 2010, algorithm 2 (hybrid LinUCB), with x as the shared features and one arm
    feature, the looks; the ridges are the priors' instead of 1.
    """

    __slots__ = ("_own", "_pulled", "_ratio", "_rows", "shared")

    def __init__(
        self,
        shared: Statistics,
        items: ItemSums,
        head_weights: Sequence[float] | Floats,
        prior: ItemPrior,
        *,
        silent: bool = False,
    ) -> None:
        weights = weights_of(head_weights, shared.n_heads)
        names, sums = items.arrays()
        sums = np.concatenate([sums, np.zeros((1, sums.shape[1]))])  # the last stands for items without sums
        m = 1.0 / (sums[:, 0] + (prior.noise_sd / prior.item_sd) ** 2)
        crossed, moved = sums[:, 1 : 1 + shared.dim], sums[:, 1 + shared.dim :]
        if silent:
            shared, moved = Statistics(shared.a, np.zeros_like(shared.b), shared.n_shown), np.zeros_like(moved)
        a = shared.a - (crossed * m[:, None]).T @ crossed
        b = shared.b - (moved * m[:, None]).T @ crossed
        self.shared = Posterior(
            Statistics(a, b, shared.n_shown), weights, Prior(sd=prior.shared_sd, noise_sd=prior.noise_sd)
        )
        self._rows: Mapping[str, int] = {name: row for row, name in enumerate(names)}
        self._ratio: Floats = crossed * m[:, None]
        self._pulled: Floats = m * (moved @ weights)
        self._own: Floats = prior.noise_sd * np.sqrt(m)

    def bind(self, arms: Sequence[str], p_first: Floats, items: Sequence[str] = ()) -> BoundItems:
        """See `Learned.bind`; the first head's probabilities are used, arms are not looked at.

        Raises
        ------
        InvalidStatisticsError
            Not one item for each row of `p_first`.
        """
        if len(items) != len(p_first):
            raise InvalidStatisticsError(f"{len(p_first)} items wanted, got {len(items)}")
        last = len(self._rows)
        rows = np.fromiter((self._rows.get(item, last) for item in items), dtype=np.int64, count=len(items))
        return BoundItems(self.shared, p_first[:, 0], self._pulled[rows], self._ratio[rows], self._own[rows])


class BoundItems:
    """`ItemPosterior` bound to the items of a request; made by `ItemPosterior.bind`."""

    __slots__ = ("_own", "_p_click", "_pulled", "_ratio", "_shared")

    def __init__(self, shared: Posterior, p_click: Floats, pulled: Floats, ratio: Floats, own: Floats) -> None:
        self._shared, self._p_click, self._pulled, self._ratio, self._own = shared, p_click, pulled, ratio, own

    def mean(self, phi: Floats) -> Floats:
        """Posterior means, shape (n,)."""
        return self._shared.mean(self._beside(phi)) + self._pulled

    def sd(self, phi: Floats) -> Floats:
        """Posterior standard deviations, shape (n,)."""
        sd: Floats = np.hypot(self._shared.sd(self._beside(phi)), self._own)
        return sd

    def draws(self, phi: Floats, n_draws: int, rng: Generator) -> Floats:
        """Joint draws, shape (n_draws, n)."""
        drawn = self._shared.draws(self._beside(phi), n_draws, rng)
        own = rng.standard_normal(drawn.shape, dtype=np.float32)
        own *= self._own.astype(np.float32)
        drawn += own
        drawn += self._pulled
        return drawn

    def _beside(self, phi: Floats) -> Floats:
        n, dim = self._ratio.shape
        x = phi_of(phi, dim - 1)
        if len(x) != n:
            raise InvalidStatisticsError(f"phi of {n} candidates wanted, got {len(x)}")
        return item_features(x, self._p_click) - self._ratio
