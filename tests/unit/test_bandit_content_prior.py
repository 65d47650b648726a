"""A prior from content has a measured strength, and is not believed where content says nothing."""

from __future__ import annotations

import numpy as np
import pytest

from bandits import InvalidStatisticsError
from bandits.beta import BetaArms, BetaPrior
from bandits.content_prior import fit_content_prior
from bench.new_arms import BUDGET, impressions, learned


@pytest.mark.parametrize("seed", range(3))
def test_BAN_13_content_prior_finds_good_new_items_in_fewer_impressions(seed: int) -> None:
    prior, content, rates = learned(seed, informative=True)
    assert prior.gain > 0
    assert np.corrcoef(prior.mean(content), rates)[0, 1] > 0.4
    plain = np.full(rates.shape, prior.base_rate)
    sooner, _, most = impressions(seed, prior.mean(content), prior.strength, rates, 2_000)
    later, _, _ = impressions(seed, plain, prior.strength, rates, 2_000)
    assert sooner < later
    assert most <= BUDGET


@pytest.mark.parametrize("seed", range(3))
def test_BAN_13_content_that_says_nothing_is_not_believed(seed: int) -> None:
    prior, content, _ = learned(seed, informative=False)
    assert prior.gain <= 0
    np.testing.assert_allclose(prior.mean(content), prior.base_rate)


def test_BAN_13_the_strength_is_that_of_the_arms() -> None:
    """Arms that differ little ask for a strong prior, arms that differ much for a weak one."""
    rng = np.random.default_rng(1)
    found = []
    for strength in (5.0, 100.0):
        rates = rng.beta(strength * 0.1, strength * 0.9, 2_000)
        shown = rng.integers(20, 200, 2_000)
        prior = fit_content_prior(rng.normal(size=(2_000, 3)), shown, rng.binomial(shown, rates))
        found.append(prior.strength)
    assert found[0] == 5.0
    assert 80.0 <= found[1] <= 160.0


def test_a_fitted_prior_is_where_new_beta_arms_start() -> None:
    prior, content, _ = learned(0, informative=True)
    arms = BetaArms(BetaPrior(mean=prior.base_rate, strength=prior.strength))
    arms.expect("new", float(prior.mean(content[:1])[0]))
    assert arms.of(["new"]).mean(np.zeros((1, 0)))[0] == pytest.approx(float(prior.mean(content[:1])[0]))


def test_content_priors_refuse_what_they_cannot_fit() -> None:
    x, shown, clicked = np.zeros((30, 2)), np.full(30, 10.0), np.full(30, 1.0)
    poisoned = x.copy()
    poisoned[3, 1] = np.nan
    for wrong in (
        (x[:10], shown[:10], clicked[:10]),
        (poisoned, shown, clicked),
        (x, shown, clicked + 20.0),
        (x, shown, np.zeros(30)),
        (x, shown, shown),
        (x, shown[:-1], clicked[:-1]),
    ):
        with pytest.raises(InvalidStatisticsError):
            fit_content_prior(*wrong)
    with pytest.raises(InvalidStatisticsError):
        fit_content_prior(x, shown, clicked).mean(np.zeros((2, 3)))
