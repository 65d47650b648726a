"""Vowpal Wabbit and MABWiser in the worlds of `bench.bandit_worlds`, one seed at a time."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from bandits.vw import VowpalModel, VowpalSettings
from bench.bandit_worlds import Seeds, World

BATCH = 10


def run_vowpal(world: World, seed: int, exploration: Literal["squarecb", "cover"] = "squarecb") -> float:
    """Total regret of VW with the arms' features, learning each reward as it arrives."""
    state, rng = Seeds(world, [seed]), np.random.default_rng([seed, 3])
    model = VowpalModel(VowpalSettings(dim=world.dim - 1, exploration=exploration, floor=0.0))
    waiting: list[tuple[Any, int, float, float]] = []
    total = 0.0
    for round_ in range(world.n_rounds):
        state.advance(round_)
        phi, rates = state.phi[0, :, 1:], state.rates[0]
        pmf = model.pmf(phi)
        arm = int(rng.choice(world.n_arms, p=pmf))
        total += float(rates.max() - rates[arm])
        waiting.append((phi.copy(), arm, float(rng.random() < rates[arm]), float(pmf[arm])))
        if len(waiting) > world.delay:
            model.learn(*waiting.pop(0))
    model.close()
    return total


def run_mabwiser(world: World, seed: int) -> float:
    """Total regret of Beta Thompson sampling over the arms (its contextual policies share nothing between arms), in
    batches of 10.
    """
    from mabwiser.mab import MAB, LearningPolicy

    state, rng = Seeds(world, [seed]), np.random.default_rng([seed, 4])
    model = MAB(list(range(world.n_arms)), LearningPolicy.ThompsonSampling(), seed=seed)
    model.fit([], [])
    waiting: list[tuple[int, int]] = []
    total = 0.0
    for round_ in range(world.n_rounds):
        state.advance(round_)
        rates = state.rates[0]
        arm = int(model.predict())
        total += float(rates.max() - rates[arm])
        waiting.append((arm, int(rng.random() < rates[arm])))
        if round_ % BATCH == BATCH - 1 and len(waiting) > world.delay:
            ready, waiting = waiting[: len(waiting) - world.delay], waiting[len(waiting) - world.delay :]
            model.partial_fit([one[0] for one in ready], [one[1] for one in ready])
    return total
