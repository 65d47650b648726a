"""RNK-13: context in columns, bandit features and the posterior per category."""

from __future__ import annotations

import numpy as np
import pytest
from ranker_world import NOW_MS, MemoryTable, MemoryUser

from bandits.arms import ArmPartials
from bandits.hybrid import HybridPosterior, HybridPrior
from liverank.v1.event_pb2 import Context
from ranker.columns import INDEX, build
from ranker.phi import DIM, NAMES, SOURCES, phi

HOUR_MS = 3_600_000
MIDNIGHT_MS = NOW_MS // (24 * HOUR_MS) * 24 * HOUR_MS


def row(at_ms: int, **context: object) -> np.ndarray:
    table = MemoryTable(6)
    rows = np.arange(6, dtype=np.int32)
    return build(MemoryUser(), table, rows, context=Context(**context), as_of_ms=at_ms)  # type: ignore[arg-type]


def features(at_ms: int) -> np.ndarray:
    x = row(at_ms)
    return phi(x, [f"kind{at}" for at in range(6)], np.zeros((6, len(SOURCES)), dtype=np.bool_)).astype(np.float64)


@pytest.mark.parametrize(("offset", "hour"), [(0, 6), (60, 7), (-300, 1)])
def test_RNK_13_hour_day_type_and_device_are_the_users_own(offset: int, hour: int) -> None:
    x = row(MIDNIGHT_MS + 6 * HOUR_MS, utc_offset_minutes=offset, device="tv")
    angle = 2 * np.pi * hour / 24
    assert x[0, INDEX["crosses:hour_sin"]] == pytest.approx(np.sin(angle), abs=1e-6)
    assert x[0, INDEX["crosses:hour_cos"]] == pytest.approx(np.cos(angle), abs=1e-6)
    assert x[0, INDEX["crosses:device"]] == 4.0
    days = [row(MIDNIGHT_MS + (24 * day + 12) * HOUR_MS)[0, INDEX["crosses:weekend"]] for day in range(7)]
    assert sorted(days) == [0, 0, 0, 0, 0, 1, 1]


def test_RNK_13_the_hybrid_posterior_learns_which_kind_is_liked_when() -> None:
    """Kind 0 is liked in the morning, kind 1 in the evening; on the whole both alike."""
    arms, rng = ArmPartials(DIM, 1), np.random.default_rng(3)
    for _ in range(1_500):
        hour = int(rng.integers(24))
        x = features(MIDNIGHT_MS + hour * HOUR_MS)
        morning = 1 if hour < 12 else -1
        for kind, liked in ((0, 0.1 * morning), (1, -0.1 * morning)):
            arms.shown(f"kind{kind}", x[kind], [liked + 0.3 * rng.normal()])
    posterior = HybridPosterior(arms.statistics(), [1.0], HybridPrior(shared_sd=0.05, arm_sd=0.03, noise_sd=0.4), DIM)
    means = {}
    for hour in (6, 18):
        x = features(MIDNIGHT_MS + hour * HOUR_MS)
        means[hour] = posterior.of(["kind0", "kind1"]).mean(x[:2])
    assert means[6][0] > means[6][1] + 0.05
    assert means[18][1] > means[18][0] + 0.05


def test_RNK_13_without_the_hour_it_learns_nothing_of_that() -> None:
    hours = [features(MIDNIGHT_MS + hour * HOUR_MS) for hour in (6, 18)]
    for x in hours:
        x[:, [NAMES.index(name) for name in ("hour_sin", "hour_cos", "weekend")]] = 0.0
    assert np.array_equal(hours[0][:, :10], hours[1][:, :10])
