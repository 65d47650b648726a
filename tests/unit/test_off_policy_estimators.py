"""Estimators against hand-computed figures, known truth and each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation.off_policy import (
    DM,
    DR,
    ESTIMATORS,
    IIPS,
    IPS,
    PI,
    RIPS,
    SLATE_ESTIMATORS,
    SNIPS,
    CascadeDR,
    Columns,
    DRos,
    InvalidLogError,
    Log,
    NoSupportError,
    SlateIPS,
    SlateLog,
    SwitchDR,
    audit,
    cross_fit,
    diagnose,
    evaluate,
    gate,
    interval,
    read_frame,
    shrunk_rates,
    slate_weights,
)


def small_log() -> Log:
    return Log(
        reward=np.array([1.0, 0.0, 1.0, 2.0]),
        propensity=np.array([0.5, 0.25, 0.5, 1.0]),
        target=np.array([0.25, 0.5, 1.0, 0.5]),
        predicted=np.array([0.5, 0.5, 1.0, 1.0]),
        expected=np.array([0.25, 0.75, 1.0, 0.5]),
    )


def test_EVA_3_estimators_equal_hand_computed_values() -> None:
    # weights .5, 2, 2, .5
    log = small_log()
    assert IPS().terms(log).value == pytest.approx((0.5 + 0 + 2 + 1) / 4)
    assert SNIPS().terms(log).value == pytest.approx(3.5 / 5)
    assert DM().terms(log).value == pytest.approx(2.5 / 4)
    corrections = [0.5 * 0.5, 2 * -0.5, 0.0, 0.5 * 1.0]
    assert DR().terms(log).value == pytest.approx((2.5 + sum(corrections)) / 4)
    assert SwitchDR(tau=1.0).terms(log).value == pytest.approx((2.5 + 0.25 + 0.5) / 4)
    shrunk = [100 * w / (w * w + 100) for w in (0.5, 2.0, 2.0, 0.5)]
    residuals = [0.5, -0.5, 0.0, 1.0]
    assert DRos().terms(log).value == pytest.approx(
        (2.5 + sum(w * e for w, e in zip(shrunk, residuals, strict=True))) / 4
    )


def test_limits_of_switch_and_shrinkage_are_dm_and_dr() -> None:
    log = small_log()
    assert SwitchDR(tau=np.inf).terms(log).value == DR().terms(log).value
    assert SwitchDR(tau=1e-9).terms(log).value == DM().terms(log).value
    assert DRos(lam=0.0).terms(log).value == pytest.approx(DM().terms(log).value)
    assert DRos(lam=np.inf).terms(log).value == DR().terms(log).value


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda one: one.name)
def test_evaluating_the_logger_gives_the_mean_reward_where_the_model_is_right(estimator: object) -> None:
    rng = np.random.default_rng(0)
    p, reward = rng.uniform(0.1, 1.0, 500), rng.random(500)
    log = Log(reward=reward, propensity=p, target=p, predicted=reward, expected=reward)
    assert estimator.terms(log).value == pytest.approx(reward.mean())  # type: ignore[attr-defined]


def simulated(rng: np.random.Generator, n: int) -> tuple[Log, float]:
    n_actions = 5
    rates = np.linspace(0.1, 0.5, n_actions)
    logger = np.array([0.4, 0.3, 0.1, 0.1, 0.1])
    target = np.array([0.05, 0.15, 0.2, 0.3, 0.3])
    action = rng.choice(n_actions, size=n, p=logger)
    reward = (rng.random(n) < rates[action]).astype(np.float64)
    law = np.broadcast_to(target, (n, n_actions))
    predicted, expected = cross_fit(shrunk_rates(action, reward, n_actions), action, law, rng)
    log = Log(reward=reward, propensity=logger[action], target=target[action], predicted=predicted, expected=expected)
    return log, float(rates @ target)


def test_EVA_3_truth_lies_in_the_95_percent_interval_in_90_of_100_runs() -> None:
    rng = np.random.default_rng(7)
    runs = [simulated(rng, 800) for _ in range(100)]
    for estimator in (IPS(), SNIPS(), DR(), DRos()):
        covered = 0
        for log, truth in runs:
            low, high = interval(estimator.terms(log), "normal", 0.95, rng)
            covered += low <= truth <= high
        assert covered >= 90, f"{estimator.name}: {covered} of 100"


def test_intervals_agree_and_bernstein_is_the_widest() -> None:
    log, _ = simulated(np.random.default_rng(1), 3_000)
    rng = np.random.default_rng(2)
    boot, normal, bernstein = (interval(IPS().terms(log), m, 0.95, rng) for m in ("bootstrap", "normal", "bernstein"))  # type: ignore[arg-type]
    assert boot == pytest.approx(normal, abs=0.1 * (normal[1] - normal[0]))
    assert bernstein[0] < normal[0]
    assert bernstein[1] > normal[1]
    with pytest.raises(InvalidLogError, match="Bernstein"):
        interval(SNIPS().terms(log), "bernstein", 0.95, rng)


def test_EVA_3_low_support_is_refused_and_flagged() -> None:
    rng = np.random.default_rng(0)
    n = 10_000
    p = np.full(n, 0.5)
    p[3] = 1e-6
    log = Log(reward=rng.random(n), propensity=p, target=np.full(n, 0.05))
    with pytest.raises(NoSupportError, match="effective sample size 1"):
        evaluate(log, [IPS()])
    (estimate,) = evaluate(log, [IPS()], refuse=False, n_bootstrap=100)
    assert estimate.diagnostics.faults
    assert estimate.diagnostics.max_weight == pytest.approx(50_000)
    hidden = Log(reward=log.reward, propensity=np.full(n, 0.5), target=np.full(n, 0.5), unsupported=np.full(n, 0.2))
    with pytest.raises(NoSupportError, match=r"20\.0% of the target's probability"):
        evaluate(hidden, [IPS()])


def test_mean_weight_off_one_is_refused() -> None:
    n = 5_000
    log = Log(reward=np.ones(n), propensity=np.full(n, 0.25), target=np.full(n, 0.5))
    with pytest.raises(NoSupportError, match="mean weight 2"):
        evaluate(log, [SNIPS()])


def test_bad_logs_are_refused() -> None:
    good = {"reward": np.ones(3), "propensity": np.full(3, 0.5), "target": np.full(3, 0.5)}
    for name, values in (
        ("propensity", np.array([0.5, 0.0, 0.5])),
        ("propensity", np.array([0.5, 1.5, 0.5])),
        ("target", np.array([0.5, -0.1, 0.5])),
        ("reward", np.array([1.0, np.nan, 1.0])),
        ("target", np.ones(2)),
    ):
        with pytest.raises(InvalidLogError):
            Log(**(good | {name: values}))
    with pytest.raises(InvalidLogError, match="reward model"):
        DR().terms(Log(**good))


def test_diagnostics_of_equal_weights() -> None:
    found = diagnose(np.ones(50), 50)
    assert (found.effective, found.max_weight, found.mean_weight, found.faults) == (50.0, 1.0, 1.0, ())


def test_frames_become_logs(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "id": ["b", "a", "b", "a"],
            "pos": [2, 1, 1, 2],
            "click": [0, 1, 1, 0],
            "p": [0.5, 0.2, 0.4, 0.1],
            "q": [0.25] * 4,
        }
    )
    columns = Columns(reward="click", propensity="p", target="q")
    path = tmp_path / "log.parquet"
    frame.to_parquet(path)
    single = read_frame(path, columns)
    assert isinstance(single, Log)
    assert single.propensity.tolist() == [0.5, 0.2, 0.4, 0.1]
    slates = read_frame(frame, Columns(reward="click", propensity="p", target="q", decision="id", slot="pos"))
    assert isinstance(slates, SlateLog)
    assert slates.propensity.tolist() == [[0.2, 0.1], [0.4, 0.5]]
    with pytest.raises(InvalidLogError, match="missing"):
        read_frame(frame, Columns())
    with pytest.raises(InvalidLogError, match="one length"):
        read_frame(frame.iloc[:3], Columns(reward="click", propensity="p", target="q", decision="id", slot="pos"))


def slate_log() -> SlateLog:
    return SlateLog(
        reward=np.array([[1.0, 0.0], [0.0, 2.0]]),
        propensity=np.array([[0.5, 0.5], [0.25, 1.0]]),
        target=np.array([[0.25, 1.0], [0.5, 0.5]]),
        marginal_propensity=np.array([[0.5, 0.25], [0.25, 0.5]]),
        marginal_target=np.array([[0.25, 0.5], [0.5, 0.5]]),
        slate_weight=np.array([0.5, 1.5]),
        predicted=np.array([[0.5, 0.5], [0.5, 1.0]]),
        expected=np.array([[0.25, 0.5], [0.75, 1.0]]),
    )


def test_slate_estimators_equal_hand_computed_values() -> None:
    # slot weights (.5, 2), (2, .5); prefix weights (.5, 1), (2, 1)
    log = slate_log()
    assert SlateIPS().terms(log).value == pytest.approx((1 * 1 + 1 * 2) / 2)
    assert RIPS().terms(log).value == pytest.approx((0.5 + 0 + 0 + 2) / 2)
    assert RIPS(normalised=True).terms(log).value == pytest.approx(0.5 / 2.5 + 2 / 2)
    assert IIPS().terms(log).value == pytest.approx((0.5 * 1 + 1 * 2) / 2)
    rows = [0.5 * 0.5 + 0.25 + 1 * -0.5 + 0.5 * 0.5, 2 * -0.5 + 0.75 + 1 * 1.0 + 2 * 1.0]
    assert CascadeDR().terms(log).value == pytest.approx(sum(rows) / 2)
    assert PI().terms(log).value == pytest.approx((0.5 * 1 + 1.5 * 2) / 2)
    assert PI(normalised=True).terms(log).value == pytest.approx(3.5 / 2)


@pytest.mark.parametrize("estimator", SLATE_ESTIMATORS, ids=lambda one: one.name)
def test_slate_estimators_of_the_logger_give_its_mean(estimator: object) -> None:
    rng = np.random.default_rng(3)
    p, reward = rng.uniform(0.2, 1.0, (300, 3)), rng.random((300, 3))
    log = SlateLog(
        reward=reward,
        propensity=p,
        target=p,
        marginal_propensity=p,
        marginal_target=p,
        slate_weight=np.ones(300),
        predicted=reward,
        expected=reward,
    )
    assert estimator.terms(log).value == pytest.approx(reward.sum(axis=1).mean())  # type: ignore[attr-defined]


def test_pseudo_inverse_weights_have_mean_one_and_recover_additive_rewards() -> None:
    rng = np.random.default_rng(4)
    n_items, k, n = 4, 2, 60_000

    def draw(logits: np.ndarray, size: int) -> np.ndarray:
        return np.argsort(-(logits + rng.gumbel(size=(size, n_items))), axis=1)[:, :k]

    logger, target = np.zeros(n_items), np.array([1.0, 0.5, 0.0, -0.5])
    logged, from_target = draw(logger, n), draw(target, n)
    worth = rng.random((k, n_items))
    weights = slate_weights(logged, draw(logger, n), from_target, n_items)
    assert weights.mean() == pytest.approx(1.0, abs=0.02)
    reward = worth[np.arange(k), logged].sum(axis=1)
    truth = worth[np.arange(k), from_target].sum(axis=1).mean()
    assert (weights * reward).mean() == pytest.approx(truth, rel=0.02)


def test_estimator_names_are_different() -> None:
    for estimators in (ESTIMATORS, SLATE_ESTIMATORS):
        assert len({one.name for one in estimators}) == len(estimators)


def test_audit_passes_true_propensities_and_catches_estimated_ones() -> None:
    rng = np.random.default_rng(0)
    n, k, m = 20_000, 3, 5
    law = np.array([0.6, 0.1, 0.1, 0.1, 0.1])
    items = rng.choice(m, size=(n, k), p=law)
    known = np.full((n, k), 1.0 / m)
    assert all(one.passed for one in audit(law[items], known))
    wrong = law[items].copy()
    wrong[:, 1] = (wrong[:, 1] + 0.02) / 1.1
    assert [one.passed for one in audit(wrong, known)] == [True, False, True]
    pinned = np.ones((n, k), dtype=bool)
    pinned[:, 1] = False
    assert [one.slot for one in audit(wrong, known, drawn=pinned)] == [1, 3]
    with pytest.raises(InvalidLogError, match="1000"):
        audit(wrong[:10], known[:10])


def test_gate_lets_better_policies_through_and_holds_worse_and_unknown_ones() -> None:
    better, _ = simulated(np.random.default_rng(0), 20_000)
    assert gate(better, method="normal").passed
    worse = Log(
        reward=1.0 - better.reward,
        propensity=better.propensity,
        target=better.target,
        predicted=1.0 - better.predicted,  # type: ignore[operator]
        expected=1.0 - better.expected,  # type: ignore[operator]
    )
    held = gate(worse, method="normal")
    assert not held.passed
    assert "lower bound" in held.reasons[0]
    assert gate(worse, slack=0.5, method="normal").passed
    n = 1_000
    blind = Log(reward=np.ones(n), propensity=np.full(n, 0.5), target=np.full(n, 0.05))
    assert "mean weight" in " ".join(gate(blind, estimator=IPS()).reasons)
