"""Slates and propensities that policies with votes draw from given seeds, as logs of earlier builds need them.

Who changes these numbers changes what `liverank bandit verify` finds in every log that was written before.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import bandits
from bandits import native
from bandits.policies import ThompsonDoubt
from bench.decide import World, posteriors

POLICIES = {
    "shared": (bandits.Thompson(), "e414dc2badc8cd56"),
    "disjoint": (bandits.Thompson(), "0de500ffa163289f"),
    "hybrid": (bandits.Thompson(), "0b3acc9b300696e8"),
    "logistic": (bandits.Thompson(), "8bec1588b1858418"),
    "items": (ThompsonDoubt(), "b5180792509cd33e"),
    "two_level": (bandits.TwoLevel(), "ef9cf2e3fa318bf1"),
}


@pytest.mark.parametrize("compiled", [True, False])
def test_BAN_5_the_same_seeds_draw_the_same_slates(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(native, "core", None)
    world = World(50, 32, 10)
    found = {}
    for name, posterior in (posteriors(world) | {"two_level": posteriors(world)["shared"]}).items():
        decide, digest = world.decision(POLICIES[name][0], posterior), hashlib.sha256()
        for seed in range(30):
            slate = decide(seed)
            digest.update(repr((slate.order, np.round(slate.propensity, 9).tolist())).encode())
        found[name] = digest.hexdigest()[:16]
    assert found == {name: wanted for name, (_, wanted) in POLICIES.items()}
