"""Retrieval by Thompson sampling has the law of drawing every arm; rules by list equal rules by mask."""

from __future__ import annotations

import numpy as np
import pytest

from bandits import Boltzmann, GroupCaps, InvalidStatisticsError, Problem, Thompson, checks, draw_slate, generator
from bandits.beta import BetaArms, BetaPrior
from bandits.propose import BetaProposer

N, M = 40, 3


def parameters(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0.3, 8.0, N), rng.uniform(2.0, 60.0, N)


@pytest.mark.parametrize("m", [1, M])
def test_BAN_1_proposals_have_the_law_of_one_joint_draw(m: int) -> None:
    """Counts per place and arm against those of plain draws: chi-squared within 4 sd of its mean."""
    alpha, beta = parameters(0)
    proposer = BetaProposer([str(arm) for arm in range(N)], alpha, beta, m)
    assert 0.0 < proposer.level < 1.0
    rng, n_draws = np.random.default_rng(1), 15_000
    ours = np.zeros((m, N))
    for _ in range(n_draws):
        for place, arm in enumerate(proposer.draw(rng)):
            ours[place, int(arm)] += 1
    plain = np.argsort(-rng.beta(alpha, beta, size=(n_draws, N)), axis=1)[:, :m]
    theirs = np.stack([np.bincount(plain[:, place], minlength=N) for place in range(m)])
    both = ours + theirs
    cells = both >= 20
    statistic = ((ours - theirs)[cells] ** 2 / both[cells]).sum()
    freedom = int(cells.sum()) - m
    assert abs(statistic - freedom) < 4.0 * np.sqrt(2.0 * freedom)


def test_BAN_1_where_few_lie_above_the_level_the_rest_is_drawn_below_it() -> None:
    """A level far too high leaves the law as it is."""
    alpha, beta = parameters(2)
    names = [str(arm) for arm in range(N)]
    proposer = BetaProposer(names, alpha, beta, M)
    high = BetaProposer.at_level(names, alpha, beta, M, level=0.9)
    shares = []
    for one in (proposer, high):
        rng = np.random.default_rng(3)
        shares.append(np.bincount([int(one.draw(rng)[0]) for _ in range(6_000)], minlength=N) / 6_000)
    assert np.abs(shares[0] - shares[1]).max() < 0.03


def test_proposals_are_a_function_of_counts_and_seed() -> None:
    arms = BetaArms(BetaPrior(mean=0.05, strength=10.0))
    rng = np.random.default_rng(0)
    for arm in range(500):
        arms.shown(f"item-{arm}", float(rng.integers(0, 100)))
    first = arms.propose(20, generator(4))
    assert len(set(first)) == 20
    assert arms.propose(20, generator(4)) == first == arms.proposer(20).draw(generator(4))
    arms.clicked("item-0", 1_000.0)
    arms.shown("item-0", 1_000.0)
    assert arms.propose(20, generator(4))[0] == "item-0"
    assert len(arms.propose(600, generator(4))) == 500
    assert BetaArms(BetaPrior()).propose(5, generator(0)) == []
    with pytest.raises(InvalidStatisticsError):
        BetaProposer(["a"], np.ones(1), np.zeros(1), 1)
    with pytest.raises(InvalidStatisticsError):
        BetaProposer(["a"], np.ones(1), np.ones(1), 0)


class ByMask:
    """Group caps that hand out masks only."""

    def __init__(self, rule: GroupCaps) -> None:
        self.mask = rule.mask


@pytest.mark.parametrize("policy", [Boltzmann(temperature=0.1), Thompson(n_draws=16)])
def test_rules_that_name_what_they_take_out_give_the_slates_of_masks(policy: object) -> None:
    case = checks.Case(policy, checks.linear())  # type: ignore[arg-type]
    for seed in range(100):
        by_list = draw_slate(case.policy, case.problem(seed), generator(seed))
        problem = case.problem(seed)
        assert isinstance(problem, Problem)
        masked = case.problem(seed, feasible=ByMask(problem.feasible))  # type: ignore[arg-type]
        by_mask = draw_slate(case.policy, masked, generator(seed))
        assert by_mask.order == by_list.order
        assert np.array_equal(by_mask.propensity, by_list.propensity)
        assert np.array_equal(by_mask.n_feasible, by_list.n_feasible)
