"""Items, and what one user makes of kinds, doubted by themselves: `thompson_doubt`."""

from __future__ import annotations

import numpy as np
import pytest

from bandits import Partial, Posterior, Prior, Problem, Thompson, generator
from bandits.errors import InvalidPolicyError, InvalidStatisticsError
from bandits.policies import ThompsonDoubt

CERTAIN = Posterior(Partial(1, 1), [1.0], Prior(sd=1e-6, noise_sd=1.0))
KNOWN = 1e9


def asked(
    value: list[float],
    *,
    items: list[float] | None = None,
    kinds: list[float] | None = None,
    arms: list[int] | None = None,
) -> Problem:
    n = len(value)
    return Problem(
        value=np.array(value),
        phi=np.ones((n, 1)),
        posterior=CERTAIN,
        k=1,
        arms=np.arange(n) if arms is None else np.array(arms),
        item_looks=None if items is None else np.array(items),
        kind_looks=None if kinds is None else np.array(kinds),
    )


def votes(policy: Thompson, problem: Problem) -> list[float]:
    """Share of the draws that each candidate wins."""
    score = problem.value + problem.posterior.mean(problem.phi)
    found = policy.law(problem, score, generator(3)).weights(np.ones(problem.n, dtype=np.bool_))
    shares: list[float] = (found / found.sum()).tolist()
    return shares


def test_BAN_1_an_item_that_was_seldom_looked_at_gets_votes_and_a_known_one_does_not() -> None:
    policy = ThompsonDoubt(n_draws=4_000, item_sd=0.5)
    young = votes(policy, asked([0.21, 0.2, 0.2], items=[KNOWN, 0.0, KNOWN]))
    assert 0.35 < young[1] < 0.6
    assert young[2] < 0.01
    assert votes(policy, asked([0.21, 0.2, 0.2], items=[KNOWN] * 3))[0] > 0.99
    hopeless = votes(policy, asked([0.21, 0.02, 0.2], items=[KNOWN, 0.0, KNOWN]))
    assert hopeless[1] < 0.01  # worth little to this user, new or not


def test_BAN_1_a_kind_that_the_user_hardly_saw_gets_votes_until_they_did() -> None:
    policy = ThompsonDoubt(n_draws=4_000, kind_sd=0.15)
    shares = [votes(policy, asked([0.2, 0.05], kinds=[KNOWN, seen]))[1] for seen in (0.0, 20.0, 500.0)]
    assert shares[0] > 0.1 > shares[1] > shares[2]
    assert shares[2] < 0.001
    assert votes(policy, asked([0.2, 0.05], kinds=[np.inf, np.inf]))[1] == 0.0  # no kind, nothing to doubt


def test_BAN_1_candidates_of_one_kind_share_its_draw() -> None:
    problem = asked([0.1, 0.1 - 1e-9, 0.1 - 2e-9], kinds=[0.0, 0.0, 0.0], arms=[7, 7, 2])
    shares = votes(ThompsonDoubt(n_draws=4_000), problem)
    assert shares[1] == 0.0  # whatever its kind is worth, the first of it is worth more
    assert shares[0] == pytest.approx(0.5, abs=0.05)


def test_BAN_1_doubts_have_the_sds_of_their_priors_after_what_was_seen() -> None:
    policy = ThompsonDoubt(n_draws=20_000, item_sd=0.5, kind_sd=0.2, noise_sd=0.4)
    of_item = policy.law(asked([0.2, 0.2], items=[40.0, KNOWN]), np.zeros(2), generator(1))._scores  # type: ignore[attr-defined]
    assert of_item[:, 0].std() == pytest.approx(0.2 * 0.5 / np.sqrt(1 + 0.25 * 40 * 0.2), rel=0.03)
    assert of_item[:, 1].std() < 1e-3
    of_kind = policy.law(asked([0.2, 0.1], kinds=[12.0, 0.0]), np.zeros(2), generator(1))._scores  # type: ignore[attr-defined]
    assert of_kind[:, 0].std() == pytest.approx(0.2 / np.sqrt(1 + 0.25 * 12), rel=0.03)
    assert of_kind[:, 1].std() == pytest.approx(0.2, rel=0.03)


def test_BAN_1_a_request_that_says_nothing_of_looks_is_drawn_as_by_thompson() -> None:
    rng = np.random.default_rng(1)
    partial = Partial(2, 1)
    partial.shown(rng.normal(size=(30, 2)), rng.normal(size=(30, 1)))
    plain = Problem(
        value=np.array([0.1, 0.2, 0.15]),
        phi=rng.normal(size=(3, 2)),
        posterior=Posterior(partial, [1.0], Prior()),
        k=1,
    )
    assert votes(ThompsonDoubt(), plain) == votes(Thompson(), plain)


def test_numbers_outside_their_range_are_refused() -> None:
    with pytest.raises(InvalidPolicyError, match="item_sd"):
        ThompsonDoubt(item_sd=-1.0)
    with pytest.raises(InvalidPolicyError, match="noise_sd"):
        ThompsonDoubt(noise_sd=0.0)
    with pytest.raises(InvalidStatisticsError, match="item_looks of shape"):
        asked([0.1, 0.2], items=[1.0])
    with pytest.raises(InvalidStatisticsError, match="kind_looks must be at least 0"):
        asked([0.1, 0.2], kinds=[1.0, -1.0])
