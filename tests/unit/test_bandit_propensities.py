"""What is logged is what was acted upon: frequencies, unbiased logs, the known wrong way, broken laws."""

from __future__ import annotations

import numpy as np
import pytest

from bandits import (
    AllOf,
    Boltzmann,
    EpsilonGreedy,
    Greedy,
    GroupCaps,
    InvalidPolicyError,
    LinUCB,
    Policy,
    Prior,
    Problem,
    RelevanceFloor,
    Thompson,
    UnknownPolicyError,
    checks,
    draw_slate,
    generator,
    parse,
    recompute,
    specification,
)
from bandits.arms import ArmPartials
from bandits.disjoint import DisjointPosterior
from bandits.hybrid import HybridPosterior, HybridPrior
from bandits.item_posterior import ItemPosterior, ItemPrior
from bandits.items import ItemSums, item_features, looks_at
from bandits.laws import StaticLaw, VoteLaw
from bandits.logistic import LogisticPartial, LogisticPosterior, LogisticPrior
from bandits.partials import Partial
from bandits.policy import learner
from bandits.posterior import Learned
from bandits.slates import fill_slate
from bench.simulated_logs import SimulatedLogs, z_score

POLICIES = [Thompson(n_draws=16), LinUCB(), EpsilonGreedy(), Boltzmann(temperature=0.1), Greedy()]


@pytest.mark.parametrize("policy", POLICIES, ids=specification)
def test_BAN_5_ips_with_logged_propensities_is_unbiased(policy: object) -> None:
    case = checks.Case(policy, checks.linear())  # type: ignore[arg-type]
    assert abs(z_score(SimulatedLogs(case).errors(20_000))) < 3.3  # 5 policies, Bonferroni at 0.5 %


def bound(policy: Policy) -> checks.Case:
    """A policy with what it acts on in service, bound to nine candidates of four arms, one of them
    unknown; two of the items too."""
    rng = np.random.default_rng(11)
    phi, p = rng.normal(size=(240, checks.DIM)) * 0.5, rng.uniform(0.05, 0.4, (240, 2))
    clicked = (rng.random((240, 2)) < p + 0.1).astype(float)
    arms, logistic = ArmPartials(checks.DIM, 2), LogisticPartial(checks.DIM, 2)
    logistic.shown(phi, p, residuals=clicked - p)
    shared, items = Partial(checks.DIM + 1, 2), ItemSums(checks.DIM + 1, 2)
    x, looks = item_features(phi, p[:, 0]), looks_at(np.arange(240) % 10 + 1)
    shared.shown(x, clicked - p)
    items.shown([f"i{row % 7}" for row in range(240)], looks, x, clicked - p)
    for row in range(240):
        arms.shown(f"kind{row % 3}", phi[row], clicked[row] - p[row])
    learned: Learned = {
        "disjoint": lambda: DisjointPosterior(arms.statistics(), checks.WEIGHTS, Prior(sd=0.1), checks.DIM),
        "hybrid": lambda: HybridPosterior(arms.statistics(), checks.WEIGHTS, HybridPrior(), checks.DIM),
        "items": lambda: ItemPosterior(shared.statistics(), items, checks.WEIGHTS, ItemPrior()),
        "logistic": lambda: LogisticPosterior(logistic, checks.WEIGHTS, LogisticPrior()),
    }[learner(policy)]()
    names = [f"kind{at % 4}" for at in range(checks.N)]
    ids = [f"i{at}" for at in range(checks.N)]
    return checks.Case(policy, learned.bind(names, rng.uniform(0.05, 0.4, (checks.N, 2)), ids))


LEARNERS = [
    parse(text)
    for text in (
        "thompson_disjoint(n_draws=16)",
        "thompson_hybrid(n_draws=16)",
        "thompson_logistic(n_draws=16)",
        "linucb_disjoint",
        "linucb_hybrid",
        "thompson_doubt(n_draws=16)",
        "epsilon_greedy_items",
    )
]


@pytest.mark.parametrize("policy", LEARNERS, ids=specification)
def test_BAN_1_BAN_2_BAN_5_propensities_are_exact_on_every_kind_of_posterior(policy: Policy) -> None:
    case = bound(policy)
    checks.check_probabilities(case)
    checks.check_same_seed_same_slate(case)
    for cap in (1.0, 0.1):
        z_scores = checks.frequency_z_scores(case, 10, 400, cap)
        assert np.abs(z_scores).max() < checks.z_limit(1e-3 / z_scores.size / 2 / len(LEARNERS))
    assert abs(z_score(SimulatedLogs(case).errors(20_000))) < 3.3


def test_BAN_5_acting_on_one_draw_and_logging_an_estimate_is_biased() -> None:
    logs = SimulatedLogs(checks.Case(Thompson(), checks.linear()))
    assert z_score(logs.errors_of_estimated_propensities(40_000, n_draws=32)) < -5


def test_BAN_5_a_law_that_lies_is_caught() -> None:
    """The frequency check itself: one policy whose slates are drawn by another law than the one it answers with."""

    class Liar(Boltzmann):
        def law(self, problem, score, rng):  # type: ignore[no-untyped-def]
            honest = np.exp(score / self.temperature)
            return Shifting(honest)

    class Shifting(StaticLaw):
        calls = 0

        def weights(self, feasible):  # type: ignore[no-untyped-def]
            self.calls += 1
            tilt = 2.0 if self.calls < 4_000 else 0.0
            return super().weights(feasible) * (1.0 + tilt * (np.arange(feasible.shape[0]) % 2))

    with pytest.raises(AssertionError, match="standard errors off"):
        checks.check_observed_frequency(checks.Case(Liar(temperature=0.3), checks.linear()), n_slates=2_000, n_laws=2)


def test_BAN_5_slots_keep_floor_cap_and_pins() -> None:
    case = checks.Case(Thompson(), checks.linear())
    for seed in range(50):
        slate = draw_slate(case.policy, case.problem(seed, floor=0.02, cap=0.1, n_greedy_slots=2), generator(seed))
        drawn = ~slate.pinned
        assert slate.pinned.tolist() == [True, True] + [False] * (len(slate.order) - 2)
        assert (slate.propensity[slate.pinned] == 1.0).all()
        assert not slate.explored[slate.pinned].any()
        assert (slate.propensity[drawn & slate.explored] <= 0.1 + 1e-12).all()
        assert (slate.propensity[drawn & ~slate.explored] >= 0.9 - 1e-12).all()
        assert (slate.propensity[drawn] >= slate.floor_share[drawn] / slate.n_feasible[drawn] - 1e-15).all()
        np.testing.assert_allclose(slate.effective_floor * slate.n_feasible, slate.floor_share)


def test_BAN_5_recompute_gives_zero_to_what_the_law_cannot_place() -> None:
    case = checks.Case(Thompson(), checks.linear())
    problem = case.problem(
        1, n_greedy_slots=1, feasible=GroupCaps(np.arange(9) != 4, np.zeros((0, 9), dtype=np.int64), [])
    )
    order = draw_slate(case.policy, problem, generator(0)).order
    other = next(index for index in range(9) if index not in order and index != 4)
    assert recompute(case.policy, problem, generator(0), [other, *order[1:]]).propensity[0] == 0.0
    assert recompute(case.policy, problem, generator(0), [order[0], 4]).propensity[1] == 0.0
    for wrong in ([0, 0], [9], [-1]):
        with pytest.raises(checks.InvalidStatisticsError):
            recompute(case.policy, problem, generator(0), wrong)


def test_BAN_4_explored_share_of_epsilon_greedy_is_epsilon() -> None:
    epsilon, n = 0.2, 4_000
    case = checks.Case(EpsilonGreedy(epsilon=epsilon), checks.linear())
    problem = case.problem(0, k=1, feasible=None, floor=0.0)
    explored = sum(bool(draw_slate(case.policy, problem, generator(seed)).explored[0]) for seed in range(n))
    expected = epsilon * (problem.n - 1) / problem.n  # the greedy one can come up in the uniform part too
    assert abs(explored / n - expected) < 2.576 * np.sqrt(expected * (1 - expected) / n)


def test_cap_of_zero_is_greedy_and_floor_of_one_is_uniform() -> None:
    case = checks.Case(Thompson(), checks.linear())
    greedy = draw_slate(case.policy, case.problem(1, cap=0.0), generator(5))
    assert not greedy.explored.any()
    assert (greedy.propensity == 1.0).all()
    uniform = draw_slate(case.policy, case.problem(1, floor=1.0), generator(5))
    np.testing.assert_allclose(uniform.propensity, 1.0 / uniform.n_feasible)


def test_votes_follow_candidates_that_leave_and_come_back() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(64, 12))
    law = VoteLaw(scores)
    for _ in range(200):
        feasible = rng.random(12) < 0.6
        feasible[rng.integers(12)] = True
        columns = np.flatnonzero(feasible)
        expected = np.bincount(columns[scores[:, columns].argmax(axis=1)], minlength=12)
        assert np.array_equal(law.weights(feasible), expected)


def test_rules_answer_by_the_prefix_alone() -> None:
    rng = np.random.default_rng(1)
    groups = np.stack([rng.integers(0, 4, 10), rng.integers(-1, 3, 10)])
    allowed = rng.random(10) < 0.9
    kept = GroupCaps(allowed, groups, [2, 1])
    for _ in range(100):
        prefix = rng.permutation(10)[: rng.integers(0, 6)].tolist()
        assert np.array_equal(kept.mask(prefix), GroupCaps(allowed, groups, [2, 1]).mask(prefix))


def test_every_uniform_number_places_a_feasible_candidate_in_proportion() -> None:
    """Inversion on a fine grid of uniform numbers gives each candidate its probability, without a random number."""
    case = checks.Case(Boltzmann(temperature=0.2), checks.linear())
    problem = case.problem(3, k=1, cap=0.4)
    score = problem.value + problem.posterior.mean(problem.phi)
    law = case.policy.law(problem, score, generator(0))
    grid = ((np.arange(20_000) + 0.5) / 20_000).tolist()
    placed = np.array([fill_slate(problem, score, law, [u]).order[0] for u in [*grid, 0.0, np.nextafter(1.0, 0.0)]])
    for candidate in range(problem.n):
        logged = fill_slate(problem, score, law, [0.0], [candidate]).propensity[0]
        assert abs((placed == candidate).mean() - logged) < 5e-4


def test_specifications_are_read_back_or_refused() -> None:
    for policy in POLICIES:
        assert parse(specification(policy)) == policy
    assert parse(" thompson ") == Thompson()
    for text in ("nobody", "thompson(votes=3)", "thompson(n_draws=x)", "thompson(n_draws=3", "linucb(alpha=1e)"):
        with pytest.raises(UnknownPolicyError):
            parse(text)
    for text in (
        "thompson(n_draws=0)",
        "epsilon_greedy(epsilon=1.5)",
        "boltzmann(temperature=nan)",
        "linucb(alpha=-1)",
    ):
        with pytest.raises(InvalidPolicyError):
            parse(text)


def test_problems_refuse_settings_outside_their_range() -> None:
    posterior = checks.linear()
    for changes in ({"k": -1}, {"floor": np.nan}, {"cap": 2.0}, {"n_greedy_slots": -1}):
        with pytest.raises(checks.InvalidStatisticsError):
            Problem(**({"value": np.zeros(2), "phi": np.zeros((2, 4)), "posterior": posterior, "k": 1} | changes))


def test_explored_candidates_lie_above_the_relevance_floor() -> None:
    case = checks.Case(Thompson(), checks.linear())
    plain = case.problem(2, feasible=None)
    score = plain.value + plain.posterior.mean(plain.phi)
    groups = GroupCaps(np.ones(9, dtype=bool), np.zeros((1, 9), dtype=np.int64), [3])
    problem = case.problem(2, feasible=AllOf([RelevanceFloor(score, 0.5, 4), groups]), k=4)
    for seed in range(100):
        slate = draw_slate(case.policy, problem, generator(seed))
        assert len(slate.order) == 3  # one group, three of it at most
        assert all(score[index] >= np.quantile(score, 0.5) for index in slate.order)
    assert RelevanceFloor(score, 1.0, 4).mask([]).sum() == 4
