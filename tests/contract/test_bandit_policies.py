"""Every registered policy against every law of `bandits.checks`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bandits import checks, registered
from bandits.vw import VowpalModel, VowpalSettings


def learned_vowpal() -> VowpalModel:
    model = VowpalModel(VowpalSettings(dim=checks.DIM))
    rng = np.random.default_rng(3)
    for _ in range(100):
        phi = rng.normal(size=(checks.N, checks.DIM)) * 0.5
        chosen = int(rng.integers(checks.N))
        model.learn(phi, chosen, float(phi[chosen, 0] > 0), 1.0 / checks.N)
    return model


CASES = checks.cases({"vowpal": learned_vowpal})


def test_no_policy_is_left_out() -> None:
    assert set(CASES) == set(registered())
    assert {"thompson", "linucb", "epsilon_greedy", "boltzmann", "greedy", "uniform", "vowpal"} <= set(CASES)


def test_no_check_is_left_out() -> None:
    written = {value for name, value in vars(checks).items() if name.startswith("check_")}
    assert written == set(checks.CHECKS)


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", sorted(CASES))
def test_law(name: str, check: Callable[[checks.Case], None]) -> None:
    check(CASES[name])
