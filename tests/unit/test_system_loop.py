"""The loop of `bench.system_loop`: liverank's own parts on a simulated clock, two short rounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import system_loop
from bench.system_loop import DAY_MS, START_MS, discovery, hot_of, play
from bench.system_loop_stack import Past, Stack
from evaluation.simulator import World, WorldParams
from liverank.hot import HotSettings
from liverank.settings import RankerSettings
from ranker.serving import rulebook


@pytest.fixture(scope="module")
def past() -> Past:
    """A small world whose people click a lot, so that a few hundred slates train a model."""
    params = WorldParams(
        seed=3,
        n_items=200,
        n_users=60,
        published_share=0.4,
        sessions_per_user=14.0,
        oracle_rate=0.35,
        popular_rate=0.28,
        life_days=12.0,
    )
    return Past.of(World.build(params, system_loop.START_MS), 8.0, 250)


def test_EVA_9_two_rounds_through_ranker_folds_and_training_repeat_bit_for_bit(past: Past) -> None:
    runs = [play(past, "moving", "on", 2, 20, None) for _ in range(2)]
    for name in ("reward", "explored", "coverage", "gini"):
        assert np.array_equal(getattr(runs[0], name), getattr(runs[1], name))
    assert 0.0 < runs[0].explored.mean() <= 0.35
    off = play(past, "moving", "off", 2, 20, None)
    assert not off.explored.any()
    uniform = play(past, "moving", "informed", 2, 20, np.array([0.08, 0.0]))
    assert uniform.explored[0] > 0.0
    assert uniform.explored[1] == 0.0


def test_EVA_9_arms_differ_in_what_they_explore_and_believe() -> None:
    named = {arm: hot_of(arm, 0.08).policies.get("*/*", "") for arm in ("on", "off", "uniform", "greed", "informed")}
    assert named == {
        "on": "",
        "off": "",
        "uniform": "epsilon_greedy(epsilon=0.100000)",
        "greed": "",
        "informed": "epsilon_greedy_items(epsilon=0.100000)",
    }
    assert not hot_of("off", 0.08).exploration
    books = {arm: rulebook(system_loop.OF_ARM[arm], hot_of(arm, 0.08)) for arm in named}
    assert {arm for arm, book in books.items() if "items" in book.priors} == {"on", "greed", "informed"}


def test_EVA_9_an_item_is_offered_for_as_long_as_it_lives(past: Past, tmp_path: Path) -> None:
    stack = Stack(past, tmp_path, RankerSettings(), HotSettings(), 3)
    for day in (9, 14):
        at_ms = START_MS + day * DAY_MS
        stack.advance(at_ms)
        offered = [stack.table.ids[row] for row in np.flatnonzero(stack.table.available[: len(stack.table)]).tolist()]
        assert sorted(offered) == sorted(f"item-{row}" for row in past.world.live_rows(at_ms).tolist())


def test_an_item_that_was_never_found_counts_the_rounds_that_it_had(past: Past) -> None:
    n_rounds, round_ms = 20, int(1.5 * DAY_MS)  # a life of 8 rounds
    by_round = np.zeros((n_rounds, len(past.world.catalogue.items)))
    never, found = discovery(past.world, by_round, 1.0, START_MS, round_ms)
    assert never.size
    assert not found.any()
    assert set(never.tolist()) <= {5.0, 6.0, 7.0, 8.0}  # born in the last rounds, fewer were left
    by_round[:] = 1.0
    at_once, found = discovery(past.world, by_round, 1.0, START_MS, round_ms)
    assert found.all()
    assert (at_once <= 0.0).all()
