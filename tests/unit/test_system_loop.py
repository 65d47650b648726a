"""The loop of `bench.system_loop`: liverank's own parts on a simulated clock, two short rounds."""

from __future__ import annotations

import numpy as np
import pytest

from bench import system_loop
from bench.system_loop import play
from bench.system_loop_stack import Past
from evaluation.simulator import World, WorldParams


@pytest.fixture(scope="module")
def past() -> Past:
    """A small world whose people click a lot, so that a few hundred slates train a model."""
    params = WorldParams(
        seed=3, n_items=200, n_users=60, published_share=0.7, sessions_per_user=14.0, oracle_rate=0.4, popular_rate=0.2
    )
    return Past.of(World.build(params, system_loop.START_MS), 8.0, 250)


def test_EVA_9_two_rounds_through_ranker_folds_and_training_repeat_bit_for_bit(past: Past) -> None:
    runs = [play(past, "moving", "on", 2, 20, None) for _ in range(2)]
    for name in ("reward", "explored", "coverage", "gini"):
        assert np.array_equal(getattr(runs[0], name), getattr(runs[1], name))
    assert 0.0 < runs[0].explored.mean() <= 0.35
    off = play(past, "moving", "off", 2, 20, None)
    assert not off.explored.any()
    uniform = play(past, "moving", "uniform", 2, 20, np.array([0.08, 0.0]))
    assert uniform.explored[0] > 0.0
    assert uniform.explored[1] == 0.0
