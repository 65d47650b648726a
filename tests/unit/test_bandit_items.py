"""What each item earns beyond its heads' expectation: exact sums, and the exact posterior of the hierarchical model."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bandits import Greedy, Partial, Posterior, Prior, checks, generator
from bandits import items as of_items
from bandits.arms import arm_rank
from bandits.errors import CorruptStatisticsError, InvalidPolicyError, InvalidStatisticsError
from bandits.item_posterior import ItemPosterior, ItemPrior
from bandits.items import ItemSum, ItemSums, WithItems, item_features, looks_at
from bandits.learned import LearnedSnapshot
from bandits.partials import on_phi_grid
from bandits.policies import EpsilonGreedyItems
from bandits.policy import ITEMS

DIM, HEADS = 3, (1.0, -2.0)
PRIOR = ItemPrior(shared_sd=0.2, item_sd=0.2, noise_sd=0.5)
Floats = NDArray[np.float64]


class Slots:
    """Seeded slots of six items; item 0 is clicked .2 more often a look than its heads expect."""

    def __init__(self, n: int = 300, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.items = [f"i{one}" for one in rng.integers(0, 6, n)]
        self.looks = on_phi_grid(looks_at(rng.integers(1, 11, n)))
        p = on_phi_grid(rng.uniform(0.05, 0.4, n)) * self.looks
        self.x = on_phi_grid(item_features(rng.normal(size=(n, DIM)), p))
        clicked = rng.random(n) < p + 0.2 * self.looks * (np.array(self.items) == "i0")
        self.e = np.stack([clicked - p, rng.normal(0.0, 0.1, n)], axis=1)

    def sums(self, rows: list[int] | None = None) -> ItemSums:
        table = ItemSums(DIM + 1, len(HEADS))
        for row in range(len(self.items)) if rows is None else rows:
            table.shown([self.items[row]], self.looks[row : row + 1], self.x[row], self.e[row], row)
        return table

    def shared(self) -> Partial:
        partial = Partial(DIM + 1, len(HEADS))
        partial.shown(self.x, self.e)
        return partial

    def posterior(self) -> ItemPosterior:
        return ItemPosterior(self.shared().statistics(), self.sums(), HEADS, PRIOR)


def in_one_regression(slots: Slots, phi: Floats, p: Floats, items: list[str]) -> tuple[Floats, Floats]:
    """Mean and covariance of candidates from one dense regression with a column for each item."""
    names = sorted({*slots.items, *items})
    n_names = len(names)

    def rows(features: Floats, looks: Floats, of: list[str]) -> Floats:
        own = np.zeros((len(of), n_names))
        own[np.arange(len(of)), [names.index(one) for one in of]] = looks
        return np.concatenate([features, own], axis=1)

    x = rows(slots.x, slots.looks, slots.items)
    asked = rows(item_features(phi, p), np.ones(len(items)), items)
    ridge = np.diag(
        [(PRIOR.noise_sd / PRIOR.shared_sd) ** 2] * (DIM + 1) + [(PRIOR.noise_sd / PRIOR.item_sd) ** 2] * n_names
    )
    precision = x.T @ x + ridge
    e = np.rint(slots.e * 2**18) / 2**18
    theta = np.linalg.solve(precision, x.T @ (e @ np.array(HEADS)))
    return asked @ theta, PRIOR.noise_sd**2 * asked @ np.linalg.solve(precision, asked.T)


def test_BAN_1_BAN_2_mean_sd_and_draws_are_those_of_one_regression_with_a_column_for_each_item() -> None:
    slots, rng = Slots(), np.random.default_rng(2)
    phi, p = rng.normal(size=(8, DIM)), rng.uniform(0.05, 0.4, 8)
    items = ["i0", "i1", "i2", "i3", "i4", "i5", "new", "other"]
    mean, covariance = in_one_regression(slots, phi, p, items)
    bound = slots.posterior().bind([""] * 8, np.stack([p, p], axis=1), items)
    assert np.abs(bound.mean(phi) - mean).max() < 1e-9
    assert np.abs(bound.sd(phi) - np.sqrt(np.diag(covariance))).max() < 1e-9
    drawn = bound.draws(phi, 100_000, generator(3))
    assert drawn.mean(axis=0) == pytest.approx(mean, abs=0.002)
    assert np.cov(drawn.T) == pytest.approx(covariance, abs=0.03 * float(np.diag(covariance).max()))


def test_BAN_1_an_item_is_believed_by_how_often_it_was_shown() -> None:
    bound = Slots(3_000).posterior().bind(["", "", ""], np.full((3, 2), 0.3), ["i0", "i1", "new"])
    mean, sd = bound.mean(np.zeros((3, DIM))), bound.sd(np.zeros((3, DIM)))
    assert mean[0] - mean[1] == pytest.approx(0.2, abs=0.06)
    assert abs(mean[1]) < 0.06
    assert abs(mean[2]) < 0.06
    assert sd[2] == pytest.approx(PRIOR.item_sd, rel=0.1)
    assert max(sd[0], sd[1]) < sd[2] / 3


def test_BAN_1_without_sums_of_items_it_is_the_shared_posterior_and_a_doubt() -> None:
    slots, phi = Slots(), np.random.default_rng(4).normal(size=(3, DIM))
    empty = ItemPosterior(slots.shared().statistics(), ItemSums(DIM + 1, 2), HEADS, PRIOR)
    plain = Posterior(slots.shared(), HEADS, Prior(sd=PRIOR.shared_sd, noise_sd=PRIOR.noise_sd))
    nothing, x = empty.bind([""] * 3, np.full((3, 2), 0.1), ["a", "b", "c"]), item_features(phi, np.full(3, 0.1))
    assert (nothing.mean(phi) == plain.mean(x)).all()
    assert nothing.sd(phi) == pytest.approx(np.hypot(plain.sd(x), PRIOR.item_sd), rel=1e-12)
    silent = ItemPosterior(slots.shared().statistics(), slots.sums(), HEADS, PRIOR, silent=True)
    p = np.full((3, 2), 0.2)
    assert np.abs(silent.bind([""] * 3, p, ["i0", "i1", "x"]).mean(phi)).max() == 0.0
    assert (
        silent.bind([""] * 3, p, ["i0", "i1", "x"]).sd(phi)
        == slots.posterior().bind([""] * 3, p, ["i0", "i1", "x"]).sd(phi)
    ).all()


def test_BAN_2_BAN_9_any_order_and_any_cut_give_the_same_bytes_and_can_be_taken_back() -> None:
    slots = Slots()
    whole = slots.sums()
    rows = np.random.default_rng(5).permutation(len(slots.items)).tolist()
    parts = [slots.sums(rows[:100]), slots.sums(rows[100:])]
    together = ItemSums(DIM + 1, 2)
    for part in (parts[1], parts[0]):
        together.merge(part)
    assert together == whole
    assert ItemSums.from_bytes(whole.to_bytes()) == whole
    together.merge(parts[0], sign=-1)
    _, left = together.arrays()
    _, alone = parts[1].arrays()
    assert (left == alone).all()
    assert together.n_shown == 200


def test_BAN_2_an_outcome_that_comes_later_is_the_residual_it_would_have_been() -> None:
    slots = Slots(40)
    at_once, later = slots.sums(), ItemSums(DIM + 1, 2)
    later.shown(slots.items, slots.looks, slots.x, slots.e - np.array([1.0, 0.0]), 39)
    for item, looks in zip(slots.items, slots.looks, strict=True):
        later.outcome(item, float(looks), 0, 1.0, 39)
    (_, one), (_, other) = at_once.arrays(), later.arrays()
    assert np.abs(one - other).max() < 1e-12


def test_BAN_9_of_too_many_items_those_of_the_smallest_hash_are_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_items, "MAX_ITEMS", 4)
    slots = Slots(200, seed=6)
    kept = set(sorted({*slots.items}, key=arm_rank)[:4])
    for rows in (list(range(200)), list(reversed(range(200)))):
        table = slots.sums(rows)
        assert set(table.arrays()[0]) == kept
        assert table.n_shown == sum(item in kept for item in slots.items)
    changes = table.take_changes()
    assert {item for item, one in changes.items() if one is not None} == kept
    assert table.take_changes() == {}


def test_BAN_11_a_snapshot_gives_the_same_bits_and_what_is_cut_is_refused() -> None:
    slots = Slots()
    sums = WithItems(shared=slots.shared(), items=slots.sums())
    snapshot = LearnedSnapshot(base_model="m", schema="s", generation=1, learner=ITEMS, prior=PRIOR, sums=sums)
    again = LearnedSnapshot.from_bytes(snapshot.to_bytes())
    assert again.id == snapshot.id
    assert again.n_shown == 300
    phi, p, items = np.eye(DIM), np.full((3, 2), 0.2), ["i0", "i4", "new"]
    one, other = (each.posterior(HEADS).bind([""] * 3, p, items) for each in (snapshot, again))
    assert (one.draws(phi, 8, generator(1)) == other.draws(phi, 8, generator(1))).all()
    data = sums.to_bytes()
    for broken in (data[:-1], data[:20], b"x" + data[1:], data[:-9] + b"y" + data[-8:]):
        with pytest.raises(CorruptStatisticsError):
            WithItems.from_bytes(broken)
    with pytest.raises(CorruptStatisticsError):
        ItemSum.from_bytes(b"LRBI")


def test_what_cannot_be_summed_or_asked_is_refused_and_nothing_was_added() -> None:
    table, slots = Slots(20).sums(), Slots(1)
    before = table.to_bytes()
    for looks, x in ((np.array([1.5]), slots.x), (np.array([np.nan]), slots.x), (slots.looks, slots.x[:, :2])):
        with pytest.raises(InvalidStatisticsError):
            table.shown(["i0"], looks, x, slots.e)
    with pytest.raises(InvalidStatisticsError):
        table.outcome("i0", 0.2, 2, 1.0)
    with pytest.raises(InvalidStatisticsError):
        table.merge(ItemSums(DIM, 2))
    assert table.to_bytes() == before
    with pytest.raises(InvalidStatisticsError, match="2 items wanted"):
        Slots(20).posterior().bind(["", ""], np.full((2, 2), 0.1), ["i0"])
    with pytest.raises(InvalidPolicyError):
        ItemPrior(item_sd=0.0)


def test_BAN_5_epsilon_zero_on_items_is_greed() -> None:
    problem = checks.Case(EpsilonGreedyItems(), checks.linear()).problem(1, floor=0.0)
    score = problem.value + problem.posterior.mean(problem.phi)
    everybody = np.ones(problem.n, dtype=np.bool_)
    one = EpsilonGreedyItems(epsilon=0.0).law(problem, score, generator(1)).weights(everybody)
    other = Greedy().law(problem, score, generator(1)).weights(everybody)
    assert (one / one.sum() == other / other.sum()).all()
