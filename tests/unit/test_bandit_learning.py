"""Policies learn: regret against uniform, context against none, dislikes, delayed rewards, Vowpal Wabbit's reload."""

from __future__ import annotations

import numpy as np
import pytest

from bandits import (
    CorruptStatisticsError,
    InvalidPolicyError,
    InvalidStatisticsError,
    LinUCB,
    Partial,
    Policy,
    Posterior,
    Prior,
    Problem,
    Thompson,
    checks,
    draw_slate,
    generator,
    slates,
)
from bandits.arms import ArmPartials
from bandits.beta import BetaArms, BetaPrior
from bandits.disjoint import DisjointPosterior
from bandits.hybrid import HybridPosterior, HybridPrior
from bandits.vw import Vowpal, VowpalModel, VowpalSettings
from bench.bandit_worlds import Agent, Seeds, World, run
from bench.bandits import growth_exponent, recovery

NO_PHI = np.zeros((10, 1))


def one_choice(policy: Policy, posterior: object, phi: np.ndarray, seed: int) -> int:
    """One slot without floor, cap or pins."""
    problem = Problem(value=np.zeros(len(phi)), phi=phi, posterior=posterior, k=1, floor=0.0, cap=1.0)  # type: ignore[arg-type]
    return draw_slate(policy, problem, generator(seed)).order[0]


def test_BAN_1_beta_thompson_has_a_tenth_of_uniforms_regret_in_the_end() -> None:
    rates = np.linspace(0.05, 0.5, 10)
    names = [f"arm-{index}" for index in range(10)]
    rng = np.random.default_rng(0)
    regret = np.empty((4, 4_000))
    for seed in range(4):
        arms = BetaArms(BetaPrior(mean=0.2, strength=4.0))
        for round_ in range(4_000):
            chosen = one_choice(Thompson(n_draws=8), arms.of(names), NO_PHI, round_ + 10_000 * seed)
            arms.shown(names[chosen])
            if rng.random() < rates[chosen]:
                arms.clicked(names[chosen])
            regret[seed, round_] = rates.max() - rates[chosen]
    uniform = rates.max() - rates.mean()
    assert regret[:, -400:].mean() <= 0.1 * uniform
    assert growth_exponent(regret.mean(axis=0)) < 0.8


def test_BAN_1_linear_thompson_has_a_tenth_of_uniforms_regret_in_the_end() -> None:
    world, seeds = World(kind="stationary", n_arms=10, n_rounds=40_000), list(range(10))
    thompson, uniform = run(world, Agent(act="thompson"), seeds), run(world, Agent(act="uniform"), seeds)
    assert thompson[-4_000:].mean() <= 0.1 * uniform[-4_000:].mean()
    assert growth_exponent(thompson.mean(axis=1)) < 0.8


@pytest.mark.parametrize("kind", ["disjoint", "hybrid"])
def test_BAN_2_linucb_with_context_beats_ucb_without(kind: str) -> None:
    """Three arms, each best for some users; with the constant alone there is no best arm to find."""
    names, n_rounds = ["a", "b", "c"], 1_500
    rng = np.random.default_rng(1)
    taste = np.array([[0.1, 0.3, 0.0], [0.1, -0.3, 0.1], [0.1, 0.0, -0.3]])
    users = np.concatenate([np.ones((n_rounds, 1)), rng.normal(size=(n_rounds, 2))], axis=1)
    clicks = rng.random((n_rounds, 3))
    earned = {}
    for name, columns in (("context", 3), ("none", 1)):
        table = ArmPartials(columns, 1)
        for round_, user in enumerate(users):
            if round_ % 10 == 0:
                statistics = table.statistics()
                posterior = (
                    DisjointPosterior(statistics, [1.0], Prior(sd=0.3, noise_sd=0.4), columns)
                    if kind == "disjoint"
                    else HybridPosterior(statistics, [1.0], HybridPrior(arm_sd=0.3, noise_sd=0.4), columns)
                ).of(names)
            phi = np.tile(user[:columns], (3, 1))
            chosen = one_choice(LinUCB(alpha=1.0), posterior, phi, round_)
            rate = float(np.clip(taste[chosen] @ user, 0.0, 1.0))
            table.shown(names[chosen], phi[chosen], [float(clicks[round_, chosen] < rate) - 0.1])
            earned[name] = earned.get(name, 0.0) + rate
    best = np.clip(users @ taste.T, 0.0, 1.0).max(axis=1).sum()
    assert earned["context"] > earned["none"] + 0.5 * (best - earned["none"])


def test_BAN_3_reloaded_model_gives_the_same_distribution_and_learns_on_alike() -> None:
    rng = np.random.default_rng(0)
    for exploration in ("squarecb", "cover", "bag"):
        settings = VowpalSettings(dim=4, exploration=exploration, cb_type="mtr" if exploration == "squarecb" else "dr")  # type: ignore[arg-type]
        model = VowpalModel(settings)
        for _ in range(50):
            model.learn(rng.normal(size=(5, 4)), int(rng.integers(5)), float(rng.random()), 0.2)
        restored = VowpalModel.from_bytes(model.to_bytes(), settings)
        for _ in range(5):
            phi = rng.normal(size=(5, 4))
            assert np.array_equal(model.pmf(phi), restored.pmf(phi))
            if exploration != "bag":  # bag's bootstrap weights restart with the process
                model.learn(phi, 1, 0.5, 0.2)
                restored.learn(phi, 1, 0.5, 0.2)
        with pytest.raises(CorruptStatisticsError):
            VowpalModel.from_bytes(model.to_bytes()[:-1] + b"\x00\x01", settings)
        for wrong in (
            (np.zeros((5, 4)), 7, 1.0, 0.2),
            (np.zeros((5, 4)), 1, np.nan, 0.2),
            (np.zeros((5, 4)), 1, 1.0, 0.0),
        ):
            with pytest.raises(InvalidStatisticsError):
                model.learn(*wrong)
        model.close()
        restored.close()


@pytest.mark.parametrize("exploration", ["squarecb", "cover", "bag"])
def test_BAN_3_vowpal_wabbit_beats_uniform_and_has_a_floor(exploration: str) -> None:
    rng = np.random.default_rng(2)
    theta = rng.normal(size=4)
    model = VowpalModel(VowpalSettings(dim=4, exploration=exploration, floor=0.05))  # type: ignore[arg-type]
    earned, uniform = [], []
    for _ in range(800):
        phi = rng.normal(size=(6, 4)) * 0.5
        rates = 1.0 / (1.0 + np.exp(-3.0 * phi @ theta))
        pmf = model.pmf(phi)
        assert pmf.min() > 0
        assert pmf.sum() == pytest.approx(1.0)
        chosen = int(rng.choice(6, p=pmf))
        model.learn(phi, chosen, float(rng.random() < rates[chosen]), float(pmf[chosen]))
        earned.append(rates @ pmf)
        uniform.append(rates.mean())
    assert np.mean(earned[-200:]) > np.mean(uniform[-200:]) + 0.15
    model.close()


def test_vowpal_policy_wants_its_own_posterior() -> None:
    problem = checks.Case(Vowpal(), checks.linear()).problem(0)
    with pytest.raises(InvalidPolicyError, match="VowpalModel"):
        draw_slate(Vowpal(), problem, generator(0))


def test_BAN_8_dismissals_lower_the_selection_of_that_context_only() -> None:
    """One of two kinds is dismissed five times; phi is the kind's indicator, as the ranker's crosses make it."""
    phi = np.eye(4)[[0, 0, 1, 1, 2, 2, 3, 3]]
    value = np.full(8, 0.2)
    partial = Partial(4, 2)
    for kind in range(4):
        partial.shown(np.tile(np.eye(4)[kind], (15, 1)), np.zeros((15, 2)))

    def shares(statistics: Partial) -> np.ndarray:
        posterior = Posterior(statistics, [1.0, -2.0], Prior(sd=0.3, noise_sd=0.5))
        total = np.zeros(8)
        for seed in range(64):
            problem = Problem(value=value, phi=phi, posterior=posterior, k=1, floor=0.02, cap=1.0)
            score = value + posterior.mean(phi)
            law = Thompson().law(problem, score, generator(seed))
            total += slates.slot_pmf(law, score, np.ones(8, dtype=bool), floor=0.02, cap=1.0)
        return total.reshape(4, 2).sum(axis=1) / 64

    before = shares(partial)
    for _ in range(5):
        partial.shown(np.eye(4)[0], [-0.2, -0.05])
        partial.outcome(np.eye(4)[0], head=1, delta=1.0)
    after = shares(partial)
    assert after[0] <= 0.25 * before[0]
    others = (before[1:] / before[1:].sum(), after[1:] / after[1:].sum())
    np.testing.assert_allclose(others[0], others[1], atol=0.05)


def test_delayed_clicks_of_a_new_item_never_bias_its_mean_by_more_than_three_standard_errors() -> None:
    """5 % true rate, heads at 5 %, click delays with a median of 10 s, one exposure a second: from the 100th exposure
    on.
    """
    rng = np.random.default_rng(4)
    n = 2_000
    clicked, delays = rng.random(n) < 0.05, rng.exponential(10.0 / np.log(2.0), n)
    arrivals = sorted((second + delays[second], second) for second in np.flatnonzero(clicked))
    partial, waiting = Partial(1, 1), list(arrivals)
    for second in range(n):
        partial.shown([1.0], [-0.05])
        while waiting and waiting[0][0] <= second:
            waiting.pop(0)
            partial.outcome([1.0], 0, 1.0)
        if second >= 100:
            posterior = Posterior(partial, [1.0], Prior(sd=0.1, noise_sd=0.22))
            rate = 0.05 + posterior.mean(np.ones((1, 1)))[0]
            assert abs(rate - 0.05) < 3.0 * np.sqrt(0.05 * 0.95 / (second + 1)) + 1e-9


def test_scaled_statistics_start_a_new_model_and_stay_exact() -> None:
    partial = checks.learned_partial()
    half = partial.scaled(0.5)
    np.testing.assert_allclose(half.statistics().a, 0.5 * partial.statistics().a, atol=2**-24)
    np.testing.assert_allclose(half.statistics().b, 0.5 * partial.statistics().b, atol=2**-30)
    one, other = half.copy(), Partial(checks.DIM, 2)
    phi, residuals = np.full((3, checks.DIM), 0.3), np.full((3, 2), -0.1)
    one.shown(phi, residuals)
    other.shown(phi, residuals)
    other.merge(half)
    assert one == other
    assert partial.scaled(0.0).statistics().a.any() == np.False_
    with pytest.raises(InvalidStatisticsError):
        partial.scaled(1.5)


def test_BAN_14_discounting_recovers_from_a_swap_in_half_the_rounds() -> None:
    """All arms change their worth after 8,000 rounds: rounds until 500 of them earn 90 % of the optimum."""
    world, seeds = World(kind="swap", n_arms=20, dim=8, n_rounds=26_000, swap_at=8_000), list(range(50, 62))
    state = Seeds(world, seeds)
    state.advance(world.swap_round)
    optimum = state.rates.max(axis=1)
    rounds = {
        half_life: recovery(
            run(world, Agent(act="thompson", knob=0.7, prior_sd=0.01, half_life=half_life), seeds)[world.swap_round :],
            optimum,
        )
        for half_life in (np.inf, 2_000.0)
    }
    assert rounds[2_000.0] <= 0.5 * rounds[np.inf]
