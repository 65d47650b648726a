"""Partials, snapshots and posteriors: exact, order-free, closed form."""

from __future__ import annotations

import numpy as np
import pytest

from bandits import (
    CorruptStatisticsError,
    InvalidPolicyError,
    InvalidStatisticsError,
    Partial,
    Posterior,
    Prior,
    fit_prior,
    on_phi_grid,
    total,
)
from bandits.arms import MAX_ARMS, ArmPartials, arm_rank
from bandits.beta import BetaArms, BetaPosterior, BetaPrior
from bandits.disjoint import DisjointPosterior
from bandits.hybrid import HybridPosterior, HybridPrior
from bandits.logistic import LogisticPartial, LogisticPosterior, LogisticPrior
from bandits.snapshot import Snapshot

DIM, HEADS = 5, 2
WEIGHTS = [1.0, -2.0]


def slots(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, DIM)).astype(np.float32), rng.uniform(0.01, 0.4, (n, HEADS)).astype(np.float32)


def deltas(seed: int, n: int) -> list[tuple[str, int, int, float]]:
    """What the fold does with n slots: each is shown, some are clicked or dismissed, some clicks are taken back."""
    rng = np.random.default_rng(seed)
    found = [("shown", slot, 0, 0.0) for slot in range(n)]
    for slot in range(n):
        if rng.random() < 0.3:
            found.append(("outcome", slot, int(rng.integers(HEADS)), 1.0))
            if rng.random() < 0.2:
                found.append(("outcome", slot, found[-1][2], -1.0))
    return found


def folded(order: np.ndarray, partitions: int = 1, half_life_ms: int = 0) -> Partial:
    phi, p = slots(1, 200)
    steps = deltas(2, 200)
    parts = [Partial(DIM, HEADS, half_life_ms) for _ in range(partitions)]
    for index in order:
        kind, slot, head, delta = steps[index]
        part, ts_ms = parts[slot % partitions], 1_000_000 + 5_000 * slot
        if kind == "shown":
            part.shown(phi[slot], -p[slot], ts_ms)
        else:
            part.outcome(phi[slot], head, delta, ts_ms)
    return total(parts)


def test_BAN_6_any_order_and_any_partitioning_give_the_same_bytes() -> None:
    n = len(deltas(2, 200))
    expected = folded(np.arange(n)).to_bytes()
    rng = np.random.default_rng(0)
    for partitions in (1, 2, 8):
        assert folded(rng.permutation(n), partitions).to_bytes() == expected


def test_BAN_6_rewards_twice_late_and_reordered_give_the_posterior_of_once_in_order() -> None:
    """Repeats are dropped by id, as the fold does; what is left may come in any order."""
    steps = deltas(2, 200)
    rng = np.random.default_rng(3)
    delivered = rng.permutation(np.concatenate([np.arange(len(steps)), rng.integers(0, len(steps), 100)]))
    seen: set[int] = set()
    once = [int(index) for index in delivered if not (index in seen or seen.add(int(index)))]
    late = Posterior(folded(np.array(once)), WEIGHTS, Prior())
    in_order = Posterior(folded(np.arange(len(steps))), WEIGHTS, Prior())
    assert np.array_equal(late.theta, in_order.theta)
    assert np.array_equal(late.covariance, in_order.covariance)


def test_half_life_is_order_free_to_rounding_and_weighs_by_event_time() -> None:
    n = len(deltas(2, 200))
    rng = np.random.default_rng(0)
    first, second = (folded(order, 3, 100_000).statistics() for order in (np.arange(n), rng.permutation(n)))
    np.testing.assert_allclose(first.a, second.a, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(first.b, second.b, rtol=1e-12, atol=1e-12)
    partial = Partial(1, 1, half_life_ms=1_000)
    partial.shown([1.0], [1.0], ts_ms=10_000)
    partial.shown([1.0], [1.0], ts_ms=12_000)
    assert partial.statistics().a[0, 0] == pytest.approx(1.25)
    assert partial.statistics(as_of_ms=13_000).a[0, 0] == pytest.approx(0.625)
    partial.outcome([1.0], 0, -1.0, ts_ms=10_000)
    assert partial.statistics().b[0, 0] == pytest.approx(1.0)


def test_half_life_survives_epochs_far_apart() -> None:
    partial = Partial(1, 1, half_life_ms=1)
    partial.shown([1.0], [1.0], ts_ms=0)
    partial.shown([1.0], [1.0], ts_ms=10**12)
    partial.shown([1.0], [1.0], ts_ms=0)
    assert partial.statistics().a[0, 0] == pytest.approx(1.0)


def test_batch_equals_loop() -> None:
    phi, p = slots(1, 20)
    batch, loop = Partial(DIM, HEADS), Partial(DIM, HEADS)
    batch.shown(phi, -p)
    for row, residual in zip(phi, -p, strict=True):
        loop.shown(row, residual)
    assert batch == loop


def test_sums_are_those_of_the_rounded_input() -> None:
    phi, p = slots(4, 500)
    partial = Partial(DIM, HEADS)
    partial.shown(phi, -p)
    grid = on_phi_grid(phi)
    np.testing.assert_array_equal(partial.statistics().a, grid.T @ grid)
    np.testing.assert_allclose(partial.statistics().b, -p.astype(np.float64).T @ grid, atol=500 * 2**-18)


def test_merge_is_associative_and_commutative() -> None:
    parts = [Partial(DIM, HEADS) for _ in range(3)]
    for seed, part in enumerate(parts):
        phi, p = slots(seed, 30)
        part.shown(phi, -p)
    a, b, c = parts
    assert total([a, total([b, c])]) == total([total([c, a]), b])


def test_bad_updates_raise_and_change_nothing() -> None:
    partial = Partial(DIM, HEADS)
    phi, p = slots(0, 3)
    partial.shown(phi, -p)
    before = partial.to_bytes()
    poisoned = phi.copy()
    poisoned[1, 2] = np.nan
    for call in (
        lambda: partial.shown(poisoned, -p),
        lambda: partial.shown(phi, -p[:2]),
        lambda: partial.shown(phi[:, :2], -p),
        lambda: partial.shown(phi, np.full((3, HEADS), np.inf)),
        lambda: partial.shown(phi * 1e6, -p),
        lambda: partial.outcome(phi[0], HEADS, 1.0),
        lambda: partial.outcome(phi[0], 0, np.nan),
        lambda: partial.outcome(poisoned[1], 0, 1.0),
        lambda: partial.merge(Partial(DIM + 1, HEADS)),
        lambda: partial.merge(Partial(DIM, HEADS, half_life_ms=5)),
    ):
        with pytest.raises(InvalidStatisticsError):
            call()
        assert partial.to_bytes() == before


def test_altered_or_cut_bytes_are_refused() -> None:
    partial = folded(np.arange(50))
    data = partial.to_bytes()
    assert Partial.from_bytes(data) == partial
    for broken in (b"", data[:-1], data + b"x", b"XXXX" + data[4:], data[:4] + b"\x09" + data[5:]):
        with pytest.raises(CorruptStatisticsError):
            Partial.from_bytes(broken)
    flipped = bytearray(data)
    flipped[80] ^= 1
    with pytest.raises(CorruptStatisticsError, match="checksum"):
        Partial.from_bytes(bytes(flipped))
    snapshot = Snapshot(base_model="m" * 64, schema="phi-1", generation=1, prior=Prior(), partial=partial).to_bytes()
    for broken in (b"", snapshot[:-1], snapshot[:50], b"XXXX" + snapshot[4:]):
        with pytest.raises(CorruptStatisticsError):
            Snapshot.from_bytes(broken)


def test_size_does_not_grow_with_what_was_learned() -> None:
    partial = Partial(32, 4)
    empty = len(partial.to_bytes())
    partial.shown(np.ones((1000, 32)), np.zeros((1000, 4)))
    assert len(partial.to_bytes()) == empty < 5_400


def test_posterior_is_the_closed_form_of_ridge_regression() -> None:
    phi, p = slots(9, 300)
    outcomes = (np.random.default_rng(1).random((300, HEADS)) < p).astype(np.float64)
    partial = Partial(DIM, HEADS)
    partial.shown(phi, outcomes - p)
    x, e = on_phi_grid(phi), np.rint((outcomes - p) * 2**18) / 2**18
    prior = Prior(sd=0.2, noise_sd=0.7)
    precision = x.T @ x / prior.noise_sd**2 + np.eye(DIM) / prior.sd**2
    covariance = np.linalg.inv(precision)
    theta = covariance @ x.T @ (e @ WEIGHTS) / prior.noise_sd**2
    posterior = Posterior(partial, WEIGHTS, prior)
    query = slots(10, 7)[0].astype(np.float64)
    np.testing.assert_allclose(posterior.theta, theta, rtol=1e-9)
    np.testing.assert_allclose(posterior.mean(query), query @ theta, rtol=1e-9)
    np.testing.assert_allclose(posterior.sd(query) ** 2, np.einsum("ij,jk,ik->i", query, covariance, query), rtol=1e-9)


def test_changed_weights_give_the_posterior_of_learning_with_them() -> None:
    phi, p = slots(9, 100)
    two_heads, one_head = Partial(DIM, HEADS), Partial(DIM, 1)
    two_heads.shown(phi, -p)
    rounded = np.rint(-p.astype(np.float64) * 2**18) / 2**18
    one_head.shown(phi, (rounded @ [3.0, -5.0])[:, None])
    for prior in (Prior(), Prior(sd=2.0, noise_sd=0.1)):
        changed = Posterior(two_heads, [3.0, -5.0], prior)
        learned = Posterior(one_head, [1.0], prior)
        np.testing.assert_allclose(changed.theta, learned.theta, rtol=1e-9)


@pytest.mark.parametrize("kind", ["shared", "disjoint", "hybrid", "logistic", "beta"])
def test_draws_have_the_posterior_mean_and_sd(kind: str) -> None:
    phi, p = slots(3, 80)
    arms = [f"arm-{row % 3}" for row in range(80)]
    table, logistic, beta = ArmPartials(DIM, HEADS), LogisticPartial(DIM, HEADS), BetaArms(BetaPrior())
    for row in range(80):
        table.shown(arms[row], phi[row], -p[row])
        beta.shown(arms[row])
    logistic.shown(phi, p)
    query, asked = slots(4, 6)[0].astype(np.float64) * 0.5, ["arm-0", "arm-1", "arm-0", "new", "new", "other"]
    posterior = {
        "shared": lambda: folded_posterior(phi, p),
        "disjoint": lambda: DisjointPosterior(table.statistics(), WEIGHTS, Prior(), DIM).of(asked),
        "hybrid": lambda: HybridPosterior(table.statistics(), WEIGHTS, HybridPrior(), DIM).of(asked),
        "logistic": lambda: LogisticPosterior(logistic, WEIGHTS, LogisticPrior(sd=0.05)).of(p[:6]),
        "beta": lambda: beta.of(asked),
    }[kind]()
    drawn = posterior.draws(query, 40_000, np.random.default_rng(5))
    assert drawn.shape == (40_000, 6)
    loose = kind == "logistic"  # its sd is a first-order one
    np.testing.assert_allclose(drawn.mean(axis=0), posterior.mean(query), atol=0.01)
    np.testing.assert_allclose(drawn.std(axis=0), posterior.sd(query), rtol=0.05 if loose else 0.03)
    np.testing.assert_array_equal(drawn, posterior.draws(query, 40_000, np.random.default_rng(5)))
    if kind in ("disjoint", "hybrid"):
        same_arm = np.corrcoef(drawn[:, 3], drawn[:, 4])[0, 1]
        cosine = query[3] @ query[4] / np.linalg.norm(query[3]) / np.linalg.norm(query[4])
        assert same_arm == pytest.approx(cosine, abs=0.03)  # one unknown arm, one draw of its coefficients


def folded_posterior(phi: np.ndarray, p: np.ndarray) -> Posterior:
    partial = Partial(DIM, HEADS)
    partial.shown(phi, -p)
    return Posterior(partial, WEIGHTS, Prior())


def test_hybrid_is_the_closed_form_of_the_hierarchical_model() -> None:
    rng = np.random.default_rng(0)
    arms, table = ["a", "b", "c"], ArmPartials(DIM, 1)
    chosen, x = rng.integers(0, 3, 60), on_phi_grid(rng.normal(size=(60, DIM)))
    y = np.rint(rng.normal(size=60) * 1024) / 1024
    for arm, row, residual in zip(chosen, x, y, strict=True):
        table.shown(arms[arm], row, [residual])
    prior = HybridPrior(shared_sd=0.4, arm_sd=0.2, noise_sd=0.5)

    def wide(row: np.ndarray, arm: int) -> np.ndarray:
        out = np.zeros(5 * DIM)
        out[:DIM] = out[DIM * (arm + 1) : DIM * (arm + 2)] = row
        return out

    design = np.stack([wide(row, arm) for row, arm in zip(x, chosen, strict=True)])
    ridge = np.concatenate([np.full(DIM, 0.4**-2), np.full(4 * DIM, 0.2**-2)])
    covariance = np.linalg.inv(design.T @ design / 0.25 + np.diag(ridge))
    theta = covariance @ design.T @ y / 0.25
    query, asked = rng.normal(size=(5, DIM)), [0, 1, 2, 3, 0]
    rows = np.stack([wide(row, arm) for row, arm in zip(query, asked, strict=True)])
    posterior = HybridPosterior(table.statistics(), [1.0], prior, DIM).of(["a", "b", "c", "new", "a"])
    np.testing.assert_allclose(posterior.mean(query), rows @ theta, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        posterior.sd(query), np.sqrt(np.einsum("ij,jk,ik->i", rows, covariance, rows)), rtol=1e-9
    )


def test_logistic_learns_the_coefficients_of_a_small_shift() -> None:
    rng = np.random.default_rng(2)
    theta = np.array([0.3, -0.2, 0.1, 0.0, 0.2])
    phi, p = rng.normal(size=(20_000, DIM)) * 0.5, rng.uniform(0.1, 0.4, (20_000, 1))
    truth = 1.0 / (1.0 + np.exp(-(np.log(p[:, 0] / (1 - p[:, 0])) + phi @ theta)))
    partial = LogisticPartial(DIM, 1)
    partial.shown(phi, p)
    for row in np.flatnonzero(rng.random(20_000) < truth):
        partial.outcome(phi[row], 0, 1.0)
    posterior = LogisticPosterior(partial, [1.0], LogisticPrior(sd=1.0))
    np.testing.assert_allclose(posterior.thetas[0], theta, atol=0.1)


def test_arm_tables_add_travel_and_are_bounded() -> None:
    phi, p = slots(1, 40)
    whole, parts = ArmPartials(DIM, HEADS), [ArmPartials(DIM, HEADS) for _ in range(2)]
    for row in np.random.default_rng(0).permutation(40):
        whole.shown(f"arm-{row % 4}", phi[row], -p[row])
        parts[row % 2].shown(f"arm-{row % 4}", phi[row], -p[row])
    parts[0].merge(parts[1])
    assert parts[0] == whole
    assert ArmPartials.from_bytes(whole.to_bytes()) == whole
    for broken in (b"", whole.to_bytes()[:-3], whole.to_bytes() + b"z", b"XXXX" + whole.to_bytes()[4:]):
        with pytest.raises(CorruptStatisticsError):
            ArmPartials.from_bytes(broken)


def test_BAN_1_the_arms_that_are_kept_do_not_depend_on_order_or_partition() -> None:
    names = [f"kind-{at}" for at in range(MAX_ARMS + 200)]
    wanted = set(sorted(names, key=arm_rank)[:MAX_ARMS])
    tables = []
    for seed in range(2):
        parts = [ArmPartials(1, 1) for _ in range(3)]
        for step, at in enumerate(np.random.default_rng(seed).permutation(3 * len(names)).tolist()):
            parts[(step + seed) % 3].shown(names[at % len(names)], [1.0], [0.25])
        for part in parts[1:]:
            parts[0].merge(part)
        tables.append(parts[0])
    assert tables[0] == tables[1]
    assert set(tables[0].statistics()) == wanted
    assert {one.n_shown for one in tables[0].statistics().values()} == {3}  # whole sums, nothing was lost on the way
    assert len(tables[0].to_bytes()) < 64 * MAX_ARMS * 2


def test_changes_name_what_moved_and_what_left() -> None:
    table = ArmPartials(1, 1)
    first, *rest = sorted((f"kind-{at}" for at in range(MAX_ARMS + 1)), key=arm_rank)
    for arm in rest:
        table.shown(arm, [1.0], [0.0])
    assert len(table.take_changes()) == MAX_ARMS
    assert table.take_changes() == {}
    table.shown(first, [1.0], [0.5])
    changed = table.take_changes()
    assert changed.keys() == {first, rest[-1]}
    assert changed[rest[-1]] is None
    table.outcome(rest[-1], [1.0], 0, 1.0)  # of an arm that is not kept
    assert table.take_changes() == {}


def test_beta_arms_count_merge_and_propose() -> None:
    whole, parts = (
        BetaArms(BetaPrior(mean=0.1, strength=10.0)),
        [BetaArms(BetaPrior(mean=0.1, strength=10.0)) for _ in range(2)],
    )
    rng = np.random.default_rng(0)
    for step in range(500):
        arm = f"item-{rng.integers(40)}"
        for target in (whole, parts[step % 2]):
            target.shown(arm)
            if step % 7 == 0:
                target.clicked(arm)
    parts[0].merge(parts[1])
    names = [f"item-{index}" for index in range(40)]
    no_phi = np.zeros((40, 0))
    assert np.array_equal(whole.of(names).mean(no_phi), parts[0].of(names).mean(no_phi))
    shown, clicked = whole.counts("item-3")
    assert whole.of(["item-3"]).mean(no_phi)[0] == pytest.approx((1.0 + clicked) / (10.0 + shown))
    whole.expect("new", 0.4)
    assert whole.of(["new", "never seen"]).mean(no_phi).tolist() == pytest.approx([0.4, 0.1])
    for _ in range(300):
        whole.shown("loved")
        whole.clicked("loved")
    assert whole.propose(3, np.random.default_rng(1))[0] == "loved"
    assert len(set(whole.propose(10, np.random.default_rng(2)))) == 10
    assert BetaArms(BetaPrior()).propose(5, np.random.default_rng(0)) == []


def test_bad_hyper_parameters_are_refused() -> None:
    for make in (
        lambda: Prior(sd=0.0),
        lambda: Prior(noise_sd=np.inf),
        lambda: HybridPrior(arm_sd=-1.0),
        lambda: LogisticPrior(sd=np.nan),
        lambda: BetaPrior(mean=1.0),
        lambda: BetaPrior(strength=0.0),
    ):
        with pytest.raises(InvalidPolicyError):
            make()
    with pytest.raises(InvalidStatisticsError):
        BetaPosterior(np.array([0.0]), np.array([1.0]))
    with pytest.raises(InvalidStatisticsError, match="head weights"):
        Posterior(Partial(2, 2), [1.0], Prior())


def test_fitted_prior_is_wide_where_residuals_have_structure_and_narrow_where_they_have_none() -> None:
    rng = np.random.default_rng(6)
    chosen = {}
    for name, scale in (("structure", 0.3), ("none", 0.0)):
        theta = rng.normal(size=DIM) * scale
        phi = rng.normal(size=(600, DIM))
        residuals = (phi @ theta + rng.normal(size=600) * 0.4)[:, None]
        partial = Partial(DIM, 1)
        partial.shown(phi[:20], residuals[:20])
        chosen[name] = fit_prior(partial, phi[20:], residuals[20:], [1.0])
    assert chosen["structure"].sd >= 0.1
    assert chosen["none"].sd <= 0.05
    assert chosen["none"].noise_sd == pytest.approx(0.4, rel=0.1)
    with pytest.raises(InvalidStatisticsError, match="n >= 100"):
        fit_prior(Partial(DIM, 1), np.zeros((5, DIM)), np.zeros((5, 1)), [1.0])
