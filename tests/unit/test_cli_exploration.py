"""`liverank config` and `liverank bandit policy | off | on`: what an operator types, over a store in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from features.hot_settings import HotStore
from liverank.cli import build
from liverank.cli import config as commands
from liverank.errors import ConfigError
from liverank.settings import Settings
from tests.unit.test_hot_settings import HashRedis, store_of

Run = Callable[..., Result]


@pytest.fixture
def store() -> HotStore:
    return store_of(HashRedis())


@pytest.fixture
def run(store: HotStore, monkeypatch: pytest.MonkeyPatch) -> Run:
    here = commands.Open(Settings(), store)
    monkeypatch.setattr("liverank.cli.config.opened", lambda: here)
    monkeypatch.setattr("liverank.cli.bandit.opened", lambda: here)

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(build(), list(words), env={"COLUMNS": "200"})

    return invoke


def fails(result: Result) -> str:
    assert result.exit_code != 0
    assert isinstance(result.exception, ConfigError)
    return str(result.exception)


def test_RNK_10_a_weight_is_set_shown_logged_and_taken_back(run: Run, store: HotStore) -> None:
    done = run("config", "set", "head_weights.dismiss=-3", "floor=0.05", "--as", "ann", "--why", "too pushy")
    assert done.exit_code == 0, done.output
    assert "ranker.floor: - -> 0.05" in done.output
    assert store.read()[1].ranker["head_weights"] == {**Settings().ranker.head_weights, "dismiss": -3}
    run("config", "set", "head_weights.click=2")
    assert store.read()[1].ranker["head_weights"]["dismiss"] == -3, "entries are changed one by one"
    assert '"version": 2' in run("config", "show").output
    log = run("config", "log").output
    assert "ann" in log
    assert "too pushy" in log
    assert "ranker.floor: 0.05 -> -" in run("config", "unset", "floor").output
    assert run("config", "rollback", "1").exit_code == 0
    assert store.read()[0] == 4
    assert store.read()[1].ranker["floor"] == 0.05
    run("config", "rollback", "0")
    assert store.read()[1].ranker == {}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("floor=3",), "floor: "),
        (("nonsense=1",), "no setting"),
        (("grpc=1.2.3.4:5",), "restart"),
        (("floor",), "NAME=VALUE"),
        (("floor.x=1",), "not a table"),
        (('arms={"thompson": 0.5}',), "must sum to 1"),
    ],
)
def test_OPS_10_what_breaks_a_rule_is_not_written(
    run: Run, store: HotStore, words: tuple[str, ...], reason: str
) -> None:
    assert reason in fails(run("config", "set", *words))
    assert store.version() == 0


def test_BAN_10_off_on_and_policies(run: Run, store: HotStore) -> None:
    assert "exploration: true -> false" in run("bandit", "off", "--why", "incident").output
    assert not store.read()[1].exploration
    assert "off" in run("bandit", "policy", "list").output
    assert run("bandit", "on").exit_code == 0
    assert run("bandit", "policy", "set", "linucb(alpha=2)", "--surface", "home", "--force").exit_code == 0
    assert run("bandit", "policy", "set", "greedy", "--surface", "home", "--arm", "thompson").exit_code == 0
    assert dict(store.read()[1].policies) == {"home/*": "linucb(alpha=2)", "home/thompson": "greedy"}
    text = run("bandit", "policy", "list").output
    for word in ("linucb(alpha=2)", "exploration is on", "80%", "vowpal", "two_level"):
        assert word in text
    run("bandit", "policy", "set", "default", "--surface", "home")
    assert dict(store.read()[1].policies) == {"home/thompson": "greedy"}
    assert "magic" in fails(run("bandit", "policy", "set", "magic"))
    assert "slash" in fails(run("bandit", "policy", "set", "greedy", "--surface", "a/b"))


def test_nothing_was_changed_yet(run: Run) -> None:
    found: Any = run("config", "log")
    assert "nothing was ever changed" in found.output
