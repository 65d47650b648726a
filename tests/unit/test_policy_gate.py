"""The gate of `liverank bandit policy set`: a policy goes out if the log speaks for it."""

from __future__ import annotations

import random

import pytest
from click.testing import Result
from typer.testing import CliRunner

from evaluation.errors import PolicyHeldError
from evaluation.exploration import Outcome, admit
from features.hot_settings import HotStore
from liverank.cli import build
from liverank.cli import config as commands
from liverank.errors import ConfigError
from liverank.settings import RankerSettings, Settings
from tests.ranker_world import World
from tests.unit.test_exploration_log import Log, learned, serve
from tests.unit.test_hot_settings import HashRedis, store_of

BETTER, WORSE = "epsilon_greedy(epsilon=0.01)", "uniform()"


@pytest.fixture(scope="module")
def log() -> Log:
    """Greed's choice earns .5 a slot, every other .05; the logged policy explores far too much."""
    ranker = RankerSettings(
        arms={"boltzmann(temperature=0.2)": 1.0}, greedy_slots=1, explore_cap=1.0, floor=0.3, full_log_share=1.0
    )
    found = serve(learned(World(250, ranker=ranker)), 200, seed=4)
    rng = random.Random(9)
    found._outcomes = {
        (made.request_id, position): Outcome(float(clicked), clicked, False)
        for made in found.made
        for position, slot in enumerate(made.slots, 1)
        for clicked in [rng.random() < (0.05 if slot.explored else 0.5)]
    }
    return found


def test_BAN_10_a_better_policy_passes_and_a_worse_one_is_held(log: Log) -> None:
    better, worse = admit(log, BETTER), admit(log, WORSE)
    assert better.passed, better
    assert better.verdict is not None
    assert better.verdict.low >= better.verdict.baseline
    assert better.n_decisions == 200
    assert not worse.passed
    assert any("lower bound" in reason for reason in worse.reasons)
    assert "lower bound" in str(worse)
    assert admit(log, WORSE, slack=0.95).passed


def test_BAN_10_only_decisions_of_the_place_count_and_too_few_hold(log: Log) -> None:
    assert admit(log, BETTER, surface="home").n_decisions == 200
    elsewhere = admit(log, BETTER, surface="checkout")
    assert not elsewhere.passed
    assert elsewhere.verdict is None
    assert "cannot tell" in str(elsewhere)
    assert not admit(log, BETTER, arm="nobody").passed


@pytest.mark.parametrize("safe", ["greedy", "greedy()", "default"])
def test_BAN_10_what_one_falls_back_to_needs_no_evidence(safe: str) -> None:
    assert admit(Log(World(60)), safe).passed


@pytest.fixture
def store() -> HotStore:
    return store_of(HashRedis())


@pytest.fixture
def run(store: HotStore, log: Log, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("liverank.cli.bandit.opened", lambda: commands.Open(Settings(), store))
    monkeypatch.setattr("evaluation.exploration.LogReader", lambda settings: log)

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(build(), ["bandit", "policy", "set", *words], env={"COLUMNS": "200"})

    return invoke


def test_BAN_10_policy_set_asks_the_log(run, store: HotStore) -> None:
    held = run(WORSE, "--surface", "home")
    assert held.exit_code != 0
    assert isinstance(held.exception, PolicyHeldError)
    assert "nothing was changed" in str(held.exception)
    assert "--force" in str(held.exception)
    assert store.version() == 0
    done = run(BETTER, "--surface", "home")
    assert done.exit_code == 0, done.output
    assert "passes the gate" in done.output
    assert dict(store.read()[1].policies) == {"home/*": BETTER}
    assert run(WORSE, "--surface", "home", "--force", "--why", "test").exit_code == 0
    assert dict(store.read()[1].policies) == {"home/*": WORSE}
    assert store.log(1)[0].why == "test (forced past the gate)"
    assert run("greedy", "--surface", "home").exit_code == 0
    assert isinstance(run("magic").exception, ConfigError)
