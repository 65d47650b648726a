"""The loop of `bench.loop`: bit for bit the same, and its yardsticks."""

from __future__ import annotations

import numpy as np
import pytest

from bench.loop import play, world_of
from bench.loop_system import gini


def test_EVA_9_a_loop_of_rounds_repeats_bit_for_bit() -> None:
    runs = [play(world_of("moving", 3), "moving", "on", 2, 30, None) for _ in range(2)]
    for name in ("reward", "explored", "coverage", "gini"):
        assert np.array_equal(getattr(runs[0], name), getattr(runs[1], name))
    assert 0.0 < runs[0].explored.mean() <= 0.12
    off = play(world_of("moving", 3), "moving", "off", 2, 30, None)
    assert not off.explored.any()
    assert off.coverage.mean() < runs[0].coverage.mean()


def test_gini_of_exposure() -> None:
    assert gini(np.ones(10)) == pytest.approx(0.0)
    assert gini(np.array([0.0] * 9 + [1.0])) == pytest.approx(0.9)
    assert gini(np.zeros(3)) == 0.0
