"""Two levels and variants: what they are for, beyond the laws that every policy keeps."""

from __future__ import annotations

import numpy as np
import pytest

from bandits import (
    InvalidStatisticsError,
    Partial,
    Posterior,
    Prior,
    Problem,
    Thompson,
    TwoLevel,
    draw_slate,
    generator,
)
from bandits.laws import TwoLevelLaw
from bandits.slates import slot_pmf
from bandits.variants import OneOfEach, draw_variants


def shares(policy: object, arms: np.ndarray) -> np.ndarray:
    """P(arm) at slot 1 where nothing is known and no candidate differs, over 40 seeds."""
    n = arms.shape[0]
    posterior = Posterior(Partial(n, 1), [1.0], Prior())
    total = np.zeros(int(arms.max()) + 1)
    for seed in range(40):
        problem = Problem(
            value=np.zeros(n), phi=np.eye(n), posterior=posterior, k=1, floor=0.0, cap=1.0, arms=arms.astype(np.int64)
        )
        score = problem.value + posterior.mean(problem.phi)
        law = policy.law(problem, score, generator(seed))  # type: ignore[attr-defined]
        pmf = slot_pmf(law, score, np.ones(n, dtype=np.bool_), floor=0.0, cap=1.0)
        total += np.bincount(arms, weights=pmf, minlength=total.shape[0])
    return total / 40


def test_BAN_11_a_category_does_not_win_by_being_large() -> None:
    """One category of 18 candidates and one of 3, all alike: votes over candidates go by size, two levels less so."""
    arms = np.array([0] * 18 + [1] * 3)
    assert shares(Thompson(n_draws=64), arms)[1] == pytest.approx(3 / 21, abs=0.04)
    assert shares(TwoLevel(n_draws=64, top=1_000), arms)[1] == pytest.approx(0.5, abs=0.06)


def test_BAN_11_two_levels_are_the_product_of_both_shares() -> None:
    rng = np.random.default_rng(0)
    scores, arms = rng.normal(size=(200, 7)), np.array([2, 2, 5, 5, 5, 9, 9])
    law = TwoLevelLaw(scores, arms, top=2)
    for _ in range(50):
        feasible = rng.random(7) < 0.7
        feasible[rng.integers(7)] = True
        present = [arm for arm in (2, 5, 9) if (feasible & (arms == arm)).any()]
        worth = []
        expected = np.zeros(7)
        for arm in present:
            places = np.flatnonzero(feasible & (arms == arm))
            worth.append(np.sort(scores[:, places], axis=1)[:, -2:].mean(axis=1))
            expected[places] = np.bincount(scores[:, places].argmax(axis=1), minlength=places.shape[0]) / 200
        votes = np.bincount(np.stack(worth).argmax(axis=0), minlength=len(present)) / 200
        for arm, share in zip(present, votes, strict=True):
            expected[arms == arm] *= share
        weights = law.weights(feasible)
        np.testing.assert_allclose(weights / weights.sum(), expected, atol=1e-12)


def test_BAN_11_every_placed_item_gets_one_of_its_variants_with_its_probability() -> None:
    rng = np.random.default_rng(1)
    items = np.repeat(np.arange(5), 3)
    phi = rng.normal(size=(15, 4))
    partial = Partial(4, 1)
    partial.shown(rng.normal(size=(80, 4)), rng.normal(size=(80, 1)) * 0.3)
    posterior = Posterior(partial, [1.0], Prior())
    counts, expected = np.zeros(15), np.zeros(15)
    for seed in range(2_000):
        slate = draw_variants(Thompson(n_draws=16), items, np.zeros(15), phi, posterior, generator(seed))
        assert [items[row] for row in slate.order] == [0, 1, 2, 3, 4]
        counts[list(slate.order)] += 1
        expected[list(slate.order)] += 1.0 / slate.propensity
    # The mean inverse propensity of each variant estimates the number of draws: unbiased.
    np.testing.assert_allclose(expected[counts > 200] / 2_000, 1.0, atol=0.2)
    with pytest.raises(InvalidStatisticsError, match="every placed item"):
        OneOfEach(np.array([0, 2]))


def test_arms_of_a_problem_have_its_shape() -> None:
    posterior = Posterior(Partial(2, 1), [1.0], Prior())
    with pytest.raises(InvalidStatisticsError, match="arms"):
        Problem(value=np.zeros(3), phi=np.zeros((3, 2)), posterior=posterior, k=1, arms=np.zeros(2, dtype=np.int64))
    problem = Problem(value=np.zeros(3), phi=np.zeros((3, 2)), posterior=posterior, k=3)
    assert sorted(draw_slate(TwoLevel(), problem, generator(0)).order) == [0, 1, 2]
