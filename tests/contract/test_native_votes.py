"""Votes in machine code are the votes that numpy counts, while candidates leave in any order."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bandits import native
from bandits.votes import ArmVotes, NativeArmVotes, NativeVotes, Votes

core = native.core


def test_the_module_is_compiled() -> None:
    assert core is not None, native.why_not


def scene(seed: int) -> tuple[random.Random, np.ndarray, np.ndarray]:
    """Scores, some equal and some very low, and who is feasible."""
    rng = random.Random(seed)
    numbers = np.random.default_rng(seed)
    n, n_draws = rng.randint(1, 70), rng.choice([1, 2, 64, 128, 300])
    scores = numbers.normal(size=(n_draws, n))
    if seed % 3 == 0:
        scores = np.round(scores, 1)
    if seed % 4 == 0:
        scores -= 1e300 * (numbers.random(n) < 0.2)
    feasible = numbers.random(n) < 0.8
    feasible[rng.randrange(n)] = True
    return rng, scores, feasible


def leave(rng: random.Random, feasible: np.ndarray) -> list[list[int]]:
    """Who leaves, step by step, until nobody is left."""
    places = np.flatnonzero(feasible).tolist()
    rng.shuffle(places)
    steps = []
    while places:
        size = rng.randint(1, 4)
        steps.append(places[:size])
        places = places[size:]
    return steps[:-1]


@pytest.mark.parametrize("seed", range(24))
def test_votes_are_counted_alike(seed: int) -> None:
    rng, scores, feasible = scene(seed)
    before = scores.copy()
    fast, slow = NativeVotes(scores, feasible), Votes(scores, feasible)
    assert fast.weights == slow.weights
    for step in leave(rng, feasible):
        fast.drop(step)
        slow.drop(step)
        assert fast.weights == slow.weights
        assert sum(slow.weights) == len(scores)
    assert (scores == before).all()


@pytest.mark.parametrize("seed", range(24))
def test_votes_of_arms_are_counted_alike(seed: int) -> None:
    rng, scores, feasible = scene(seed)
    arms = np.array([rng.randrange(9) for _ in feasible], dtype=np.int64)
    top = rng.choice([1, 2, 3, 4, 5, 1000])
    fast, slow = NativeArmVotes(scores, feasible, arms, top), ArmVotes(scores, feasible, arms, top)
    assert fast.weights == slow.weights
    for step in leave(rng, feasible):
        fast.drop(step)
        slow.drop(step)
        assert fast.weights == slow.weights


def test_what_does_not_fit_is_refused() -> None:
    scores = np.zeros((4, 3))
    with pytest.raises(ValueError, match="shape"):
        core.votes(scores, bytearray(2), bytearray(16))
    with pytest.raises(TypeError, match="3 arguments"):
        core.votes(scores)
    with pytest.raises((ValueError, BufferError)):
        core.votes(scores[:, ::2], bytearray(2), bytearray(16))
    state = np.zeros((4, 2)), bytearray(32), b"\1\1"
    with pytest.raises(ValueError, match="out of range"):
        core.arm_votes(scores, b"\1\1\1", np.array([0, 1, 2]), 3, *state)
    with pytest.raises(ValueError, match="shape"):
        core.arm_votes(scores, b"\1\1\1", np.array([0, 1, 1]), 3, np.zeros((4, 3)), *state[1:])
    with pytest.raises(ValueError, match="top"):
        core.arm_votes(scores, b"\1\1\1", np.array([0, 1, 1]), 0, *state)
