"""What another policy would have earned: from a decision log against known truth, and from tables."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from bandits import parse
from evaluation.exploration import Clustered, Outcome, PolicyLog, policy_log
from evaluation.off_policy import (
    DR,
    IPS,
    PI,
    RIPS,
    SNIPS,
    Columns,
    InvalidLogError,
    SlateLog,
    evaluate,
    gate,
    read_frame,
)
from liverank.cli import build
from liverank.cli.policy_value import Method, estimators_of
from liverank.settings import RankerSettings
from ranker.reproduce import redraw, slot_laws
from tests.ranker_world import World
from tests.unit.test_exploration_log import Log, learned, serve

N_REQUESTS = 260


def rate(item_id: str) -> float:
    """Chance of a click on an item, by its hash: nothing that the model knows."""
    return int(hashlib.sha256(item_id.encode()).hexdigest(), 16) % 100 / 250


@pytest.fixture(scope="module")
def log() -> Log:
    ranker = RankerSettings(
        arms={"boltzmann(temperature=0.02)": 1.0}, greedy_slots=1, explore_cap=1.0, floor=0.3, full_log_share=1.0
    )
    found = serve(learned(World(250, ranker=ranker)), N_REQUESTS, seed=4)
    rng = random.Random(9)
    found._outcomes = {
        (made.request_id, position): Outcome(float(clicked), clicked, False)
        for made in found.made
        for position, slot in enumerate(made.slots, 1)
        for clicked in [rng.random() < rate(slot.item_id)]
    }
    return found


def truth(log: Log, policy: str) -> float:
    """Expected reward per drawn slot under a policy, given the slots that were shown before."""
    found = []
    for made in log.made:
        redrawn = redraw(made, log.snapshots([made.snapshot])[made.snapshot], with_policy=parse(policy))
        rates = np.array([rate(one.item_id) for one in made.candidates])
        found += [float(law @ rates) for law in slot_laws(redrawn, 1)]
    return float(np.mean(found))


@pytest.mark.parametrize("policy", ["uniform", "epsilon_greedy(epsilon=0.5)", "boltzmann(temperature=0.05)"])
def test_EVA_3_estimates_from_the_decision_log_hold_the_truth(log: Log, policy: str) -> None:
    found = policy_log(log, parse(policy))
    assert (found.n_decisions, found.slots.n, found.n_open, found.n_lost) == (N_REQUESTS, 7 * N_REQUESTS, 0, 0)
    true = truth(log, policy)
    for one in evaluate(found.slots, [Clustered(each, found.decision) for each in (IPS(), SNIPS(), DR())], level=0.99):
        assert one.low < true < one.high, (one.estimator, true, one)
        assert one.high - one.low < 0.15
        assert one.diagnostics.effective > 30


def test_the_logged_policy_earns_what_it_earned(log: Log) -> None:
    found = policy_log(log, parse("boltzmann(temperature=0.02)"))
    assert np.allclose(found.slots.weight, 1.0)
    (one,) = evaluate(found.slots, [Clustered(IPS(), found.decision)])
    assert one.value == pytest.approx(found.slots.reward.mean())
    assert found.slates is not None
    assert np.allclose(found.slates.prefix_weight, 1.0)
    (slate,) = evaluate(found.slates, [RIPS()])
    assert slate.value == pytest.approx(found.slates.reward.sum(axis=1).mean())


def test_greed_is_evaluated_as_it_is_served(log: Log) -> None:
    found = policy_log(log, parse("greedy"))
    explored = np.array([s.explored for made in log.made for s in made.slots if not s.pinned])
    assert (found.slots.target == np.where(explored, 0.0, 1.0)).all()


def test_clusters_change_the_interval_and_not_the_estimate(log: Log) -> None:
    found = policy_log(log, parse("uniform"))
    for estimator in (IPS(), SNIPS(), DR()):
        plain, clustered = estimator.terms(found.slots), Clustered(estimator, found.decision).terms(found.slots)
        assert clustered.value == pytest.approx(plain.value)
        assert len(clustered.numerator) == N_REQUESTS


def test_marginals_and_pseudo_inverse_weights() -> None:
    ranker = RankerSettings(
        arms={"boltzmann": 1.0}, greedy_slots=5, explore_cap=1.0, floor=0.3, full_log_share=1.0,
        creator_share=1.0, category_share=1.0,
    )  # fmt: skip
    few = serve(learned(World(14, ranker=ranker)), 40, seed=4)
    few._outcomes = {
        (made.request_id, at): Outcome(1.0, True, False) for made in few.made for at in range(1, len(made.slots) + 1)
    }
    found: PolicyLog = policy_log(few, parse("boltzmann(temperature=0.03)"), marginal_draws=16, pi_draws=64)
    assert isinstance(found.slates, SlateLog)
    names = [one.name for one in estimators_of(found.slates, 5.0, 100.0, Method.normal)]
    assert names == ["rips", "snrips", "slate_ips", "slate_snips", "cascade_dr", "iips", "pi", "wpi"]
    assert found.slates.marginal_propensity is not None
    assert 0 < found.slates.marginal_propensity.min() <= found.slates.marginal_propensity.max() <= 1
    assert np.isfinite(PI(normalised=True).terms(found.slates).value)


def test_what_the_log_cannot_tell_is_said(log: Log) -> None:
    few = Log.__new__(Log)
    few.__dict__ |= log.__dict__
    few.made = log.made[:20]
    with pytest.raises(InvalidLogError, match="full_log_share"):
        policy_log(few, parse("uniform"))
    few.made, few._outcomes = log.made, {}
    with pytest.raises(InvalidLogError, match="260 not closed yet"):
        policy_log(few, parse("uniform"))


def test_TRN_9_a_worse_policy_is_held_by_the_gate(log: Log) -> None:
    good = Log.__new__(Log)
    good.__dict__ |= log.__dict__
    # Greed's items earn, all others do not: uniform must be held, greed passes.
    good._outcomes = {
        (made.request_id, position): Outcome(float(not slot.explored), not slot.explored, False)
        for made in log.made
        for position, slot in enumerate(made.slots, 1)
    }
    verdicts = {}
    for name in ("uniform", "greedy"):
        found = policy_log(good, parse(name))
        verdicts[name] = gate(found.slots, estimator=Clustered(DR(), found.decision))
    assert not verdicts["uniform"].passed
    assert any("below" in reason for reason in verdicts["uniform"].reasons)
    assert verdicts["greedy"].passed


class TestTables:
    def frame(self, support: float = 1.0) -> pd.DataFrame:
        rng = np.random.default_rng(3)
        n = 4_000
        p = np.array([0.7, 0.2, 0.1])
        action = rng.choice(3, n, p=p)
        q = np.array([0.2, 0.3, 0.5])
        reward = (rng.random(n) < np.array([0.1, 0.3, 0.5])[action]).astype(float)
        return pd.DataFrame({"click": reward, "p": p[action], "q": q[action] * support})

    def test_any_table(self, tmp_path: Path) -> None:
        path = tmp_path / "log.parquet"
        self.frame().to_parquet(path)
        out = tmp_path / "out.json"
        run = CliRunner().invoke(
            build(),
            ["evaluate", "policy", "--data", str(path), "--reward", "click", "--propensity", "p", "--target", "q",
             "--json", str(out)],
            env={"COLUMNS": "220"},
        )  # fmt: skip
        assert run.exit_code == 0, run.output
        for word in ("ips", "snips", "effective sample", "largest weight", "mean weight"):
            assert word in run.output
        found = json.loads(out.read_text())["slots"]["estimates"]
        assert all(one["low"] < 0.36 < one["high"] for one in found), "0.2 x 0.1 + 0.3 x 0.3 + 0.5 x 0.5"

    def test_no_support_is_refused_and_can_be_seen_all_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "log.csv"
        self.frame(support=0.3).to_csv(path)
        command = ["evaluate", "policy", "--data", str(path), "--reward", "click", "--propensity", "p", "--target", "q"]
        run = CliRunner().invoke(build(), command, env={"COLUMNS": "220"})
        assert run.exit_code == 1
        assert "mean weight 0.3" in run.output
        assert "refused" in run.output
        shown = CliRunner().invoke(build(), [*command, "--no-refuse"], env={"COLUMNS": "220"})
        assert shown.exit_code == 0
        assert "is off 1" in shown.output

    def test_slates_with_their_own_columns(self) -> None:
        frame = pd.DataFrame(
            {
                "id": np.repeat(np.arange(50), 2),
                "at": np.tile([1, 2], 50),
                "reward": 1.0,
                "propensity": 0.5,
                "target": 0.5,
                "mp": 0.4,
                "mt": 0.4,
                "w": np.repeat(np.linspace(0.5, 1.5, 50), 2),
            }
        )
        columns = Columns(decision="id", slot="at", marginal_propensity="mp", marginal_target="mt", slate_weight="w")
        found = read_frame(frame, columns)
        assert isinstance(found, SlateLog)
        assert found.slate_weight is not None
        assert found.slate_weight.shape == (50,)
        assert {"iips", "pi", "wpi"} <= {one.name for one in estimators_of(found, 5.0, 100.0, Method.bootstrap)}
        assert "wpi" not in {one.name for one in estimators_of(found, 5.0, 100.0, Method.bernstein)}
        with pytest.raises(InvalidLogError, match="columns of slates"):
            read_frame(frame, Columns(slate_weight="w"))
