"""Slate worlds with known truth: independent slots, a cascade, and items that interact both ways."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evaluation.off_policy import SlateLog
from evaluation.off_policy.pseudo_inverse import slot_item_weights, weights_of_slates

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Kind: TypeAlias = Literal["independent", "cascade", "interacting"]

N_ITEMS, K, N_GROUPS, FLOOR = 20, 5, 3, 0.1


class SlateWorld:
    """Twenty items of four groups, five slots; logger and target are floored Plackett-Luce laws, as
    `bandits.slot_pmf` defines them.

    A slot's reward is Bernoulli with rate examination(slot) x appeal(item) x effect, where the effect is 1
    (independent), halves for each item of the same group above (cascade), or for each elsewhere in the slate
    (interacting).

    Parameters
    ----------
    kind : str
        The world.
    seed : int
        Of its appeals and policies.
    n_reference : int
        Slates drawn for truth, slot marginals and second moments.
    """

    def __init__(self, kind: Kind, seed: int = 0, n_reference: int = 400_000) -> None:
        rng = np.random.default_rng([seed, 11])
        self.kind = kind
        self.appeal = rng.uniform(0.1, 0.7, N_ITEMS)
        self.group = rng.integers(0, N_GROUPS, N_ITEMS)
        self.examination = 0.9 ** np.arange(K)
        self.logger = rng.normal(size=N_ITEMS) * 0.5
        # The target likes one group, so its slates repeat themselves more than the logger's.
        self.target = 0.5 * self.logger + self.appeal + 0.9 * (self.group == 0)
        drawn_by_logger, _ = draw(self.logger, n_reference, rng)
        drawn_by_target, _ = draw(self.target, n_reference, rng)
        self._additive = slot_item_weights(drawn_by_logger, drawn_by_target, N_ITEMS)
        self._marginals = marginals(drawn_by_logger), marginals(drawn_by_target)
        self.truth = float(self.rates(drawn_by_target).sum(axis=1).mean())

    def rates(self, slates: Ints) -> Floats:
        """Reward rates of the slots, shape (n, K)."""
        groups = self.group[slates]
        same = groups[:, :, None] == groups[:, None, :]
        if self.kind == "cascade":
            others = np.tril(same, -1).sum(axis=2)
        elif self.kind == "interacting":
            others = same.sum(axis=2) - 1
        else:
            others = np.zeros(slates.shape, dtype=np.int64)
        rates: Floats = self.examination * self.appeal[slates] * 0.5**others
        return rates

    def log(self, n: int, rng: Generator) -> SlateLog:
        """A log of n slates with everything that any estimator needs; the model for cascade-DR knows slots and items
        only.
        """
        slates, propensity = draw(self.logger, n, rng)
        reward = np.where(rng.random(slates.shape) < self.rates(slates), 1.0, 0.0)
        laws = laws_along(self.target, slates)
        model = self.examination[:, None] * self.appeal * 0.7
        slots = np.arange(K)
        logged, wanted = self._marginals
        return SlateLog(
            reward=reward,
            propensity=propensity,
            target=np.take_along_axis(laws, slates[:, :, None], axis=2)[:, :, 0],
            marginal_propensity=logged[slots, slates],
            marginal_target=wanted[slots, slates],
            slate_weight=weights_of_slates(slates, self._additive),
            predicted=model[slots, slates],
            expected=np.einsum("nki,ki->nk", laws, model),
        )


def step(weights: Floats, free: NDArray[np.bool_]) -> Floats:
    """Laws of the next slot for many prefixes at once, shape (n, N_ITEMS)."""
    masked = weights * free
    uniform = free / free.sum(axis=1, keepdims=True)
    law: Floats = (1.0 - FLOOR) * masked / masked.sum(axis=1, keepdims=True) + FLOOR * uniform
    return law


def draw(logits: Floats, n: int, rng: Generator) -> tuple[Ints, Floats]:
    """(slates, propensities), both of shape (n, K), slot by slot without replacement."""
    weights, free = np.exp(logits), np.ones((n, N_ITEMS), dtype=np.bool_)
    slates, propensity, rows = np.empty((n, K), dtype=np.int64), np.empty((n, K)), np.arange(n)
    for slot in range(K):
        law = step(weights, free)
        running = law.cumsum(axis=1)
        chosen = (running > rng.random((n, 1)) * running[:, -1:]).argmax(axis=1)
        slates[:, slot], propensity[:, slot] = chosen, law[rows, chosen]
        free[rows, chosen] = False
    return slates, propensity


def laws_along(logits: Floats, slates: Ints) -> Floats:
    """A policy's law at each slot given the prefix of logged slates, shape (n, K, N_ITEMS)."""
    n = slates.shape[0]
    weights, free, rows = np.exp(logits), np.ones((n, N_ITEMS), dtype=np.bool_), np.arange(n)
    laws = np.empty((n, K, N_ITEMS))
    for slot in range(K):
        laws[:, slot] = step(weights, free)
        free[rows, slates[:, slot]] = False
    return laws


def marginals(slates: Ints) -> Floats:
    """P(item in slot) by counting, shape (K, N_ITEMS)."""
    counts = np.stack([np.bincount(slates[:, slot], minlength=N_ITEMS) for slot in range(K)])
    shares: Floats = np.maximum(counts, 1) / slates.shape[0]
    return shares
